"""PRES's statistics, correction and penalty, a pass over their rows each: as operations of torch they take many.

On other devices, and in bfloat16, the formulas stand as autograd takes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

Array = NDArray[Any]
_SUMS = {"reassoc", "contract"}


def _compiled(*tensors: Tensor) -> bool:
    first = tensors[0].dtype
    return first in (torch.float32, torch.float64) and all(
        x.device.type == "cpu" and x.dtype == first and x.is_contiguous() for x in tensors
    )


def expected(sums: Tensor, counts: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """([k, d] mean change of anchors ``at``, 0 where none was counted; [k] bool: whether one was)."""
    mean, known = torch.empty(at.numel(), sums.shape[1], dtype=sums.dtype), torch.empty(at.numel(), dtype=torch.bool)
    _expected(sums.numpy(), counts.numpy(), at.numpy(), mean.numpy(), known.numpy())
    return mean, known


@njit(nogil=True, cache=True)
def _expected(sums: Array, counts: Array, at: Array, mean: Array, known: Array) -> None:
    for i in range(len(at)):
        count = counts[at[i]]
        known[i] = count > 0
        share = sums.dtype.type(1) / max(count, counts.dtype.type(1))
        for j in range(mean.shape[1]):
            mean[i, j] = sums[at[i], j] * share


def learned(
    newest: Tensor, taken: Tensor, state: Tensor, ids: Tensor, values: Tensor, at: Tensor, sums: Tensor, counts: Tensor
) -> None:  # fmt: skip
    """Count the changes of nodes ``ids`` [k] from their ``state`` to ``values`` [k, d] at anchors ``at`` [k].

    Args:
        newest, taken: [N] a node whose latest event is taken in has not changed.
        state: [N, d].
        sums, counts: [anchors, d] and [anchors], which are added to.
    """
    _learned(*(x.numpy() for x in (newest, taken, state, ids, values.contiguous(), at, sums, counts)))


@njit(nogil=True, cache=True)
def _learned(
    newest: Array, taken: Array, state: Array, ids: Array, values: Array, at: Array, sums: Array, counts: Array
) -> None:  # fmt: skip
    for i in range(len(ids)):
        v, a = ids[i], at[i]
        if newest[v] > taken[v]:
            counts[a] += 1
            for j in range(sums.shape[1]):
                sums[a, j] += values[i, j] - state[v, j]


def corrected(before: Tensor, ahead: Tensor, known: Tensor, nodes: Tensor, measured: Tensor, gamma: Tensor) -> Tensor:
    """[u, d]: gamma times the measured memory and 1 - gamma times the predicted one (equation 8).

    Args:
        before: [u, d] memories, constants.
        ahead: [n, d] change that is expected of each node, constants.
        known: [n] bool: whether anything is; a node of which nothing is keeps its measured memory.
        nodes: [u] those that are corrected.
        measured: [u, d].
        gamma: [] in [0, 1].
    """
    if _compiled(measured, before, ahead):
        out: Tensor = _Corrected.apply(before, ahead, known, nodes, measured, gamma)  # type: ignore[no-untyped-call]
        return out
    weight = torch.where(known[nodes], gamma, torch.ones_like(gamma))
    predicted = (before + ahead[nodes]).to(measured.dtype)
    return torch.lerp(predicted, measured, weight.to(measured.dtype)[:, None])


class _Corrected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, before: Tensor, ahead: Tensor, known: Tensor, nodes: Tensor, measured: Tensor, gamma: Tensor
    ) -> Tensor:  # fmt: skip
        ctx.rows = tuple(x.numpy() for x in (before, ahead, known, nodes))
        ctx.gamma = float(gamma)
        ctx.save_for_backward(measured)
        out = torch.empty_like(measured)
        rows = ctx.rows
        _correct(rows[0], rows[1], rows[2], rows[3], measured.detach().numpy(), ctx.gamma, out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (measured,), out = ctx.saved_tensors, torch.empty_like(grad)
        rows, along = ctx.rows, grad.contiguous().numpy()
        of_gamma = _correct_back(
            rows[0], rows[1], rows[2], rows[3], measured.detach().numpy(), ctx.gamma, along, out.numpy()
        )
        return None, None, None, None, out, grad.new_tensor(of_gamma)


@njit(nogil=True, cache=True)
def _correct(
    before: Array, ahead: Array, known: Array, nodes: Array, measured: Array, gamma: float, out: Array
) -> None:  # fmt: skip
    own = measured.dtype.type(gamma)
    for i in range(len(nodes)):
        v = nodes[i]
        for j in range(out.shape[1]):
            if known[v]:
                predicted = before[i, j] + ahead[v, j]
                out[i, j] = predicted + own * (measured[i, j] - predicted)
            else:
                out[i, j] = measured[i, j]


@njit(nogil=True, cache=True, fastmath=_SUMS)
def _correct_back(
    before: Array, ahead: Array, known: Array, nodes: Array, measured: Array, gamma: float, grad: Array, out: Array
) -> float:  # fmt: skip
    own, total = measured.dtype.type(gamma), 0.0
    for i in range(len(nodes)):
        v, row = nodes[i], measured.dtype.type(0)
        if known[v]:
            for j in range(out.shape[1]):
                out[i, j] = own * grad[i, j]
                row += grad[i, j] * (measured[i, j] - before[i, j] - ahead[v, j])
        else:
            out[i] = grad[i]
        total += row
    return total


def incoherence(before: Tensor, after: Tensor) -> Tensor:
    """1 - cosine of memories before and after their update, mean over the nodes that had a memory (PRES, section 5.2).

    Args:
        before: [u, d] constants.
        after: [u, d].
    """
    if _compiled(after, before):
        out: Tensor = _Incoherence.apply(before, after)  # type: ignore[no-untyped-call]
        return out
    length: Tensor = torch.linalg.vector_norm(before, dim=1)
    known = length > 0  # a cosine with zero is not defined
    along = (before / length.clamp(min=1e-12)[:, None]).mul(after).sum(1)
    cosine = along / torch.linalg.vector_norm(after, dim=1).clamp(min=1e-8)
    mean: Tensor = ((1 - cosine) * known).sum() / known.sum().clamp(min=1)
    return mean


class _Incoherence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, before: Tensor, after: Tensor) -> Tensor:
        ctx.before, ctx.share = before.numpy(), np.empty((len(before), 2), dtype=before.numpy().dtype)
        ctx.save_for_backward(after)
        return after.new_tensor(_incoherent(ctx.before, after.detach().numpy(), ctx.share))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (after,) = ctx.saved_tensors
        out = torch.empty_like(after)
        _incoherent_back(ctx.before, after.detach().numpy(), ctx.share, float(grad), out.numpy())
        return None, out


@njit(nogil=True, cache=True, fastmath=_SUMS)
def _incoherent(before: Array, after: Array, share: Array) -> float:
    """The mean; share [u, 2] is what a row of the gradient takes of before and of after."""
    total, count = 0.0, 0
    for i in range(len(before)):
        own = theirs = along = 0.0
        for j in range(before.shape[1]):
            own += before[i, j] * before[i, j]
            theirs += after[i, j] * after[i, j]
            along += before[i, j] * after[i, j]
        share[i, 0] = share[i, 1] = 0.0
        if own > 0:
            theirs = max(theirs, 1e-16)
            scale = 1.0 / np.sqrt(own * theirs)
            share[i, 0], share[i, 1] = -scale, along * scale / theirs
            total += 1.0 - along * scale
            count += 1
    share /= max(count, 1)
    return total / max(count, 1)


@njit(nogil=True, cache=True)
def _incoherent_back(before: Array, after: Array, share: Array, grad: float, out: Array) -> None:
    for i in range(len(out)):
        of_before, of_after = out.dtype.type(grad) * share[i, 0], out.dtype.type(grad) * share[i, 1]
        for j in range(out.shape[1]):
            out[i, j] = of_before * before[i, j] + of_after * after[i, j]
