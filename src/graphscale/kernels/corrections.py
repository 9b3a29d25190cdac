"""PRES's statistics, and its correction with its penalty: a pass over their rows each; torch's operations take many.

On other devices, and in bfloat16, the formulas stand as autograd takes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphscale.kernels.threads import looped

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
    looped(_expected, sums, counts, at, mean, known)
    return mean, known


@njit(parallel=True, nogil=True, cache=True)
def _expected(sums: Array, counts: Array, at: Array, mean: Array, known: Array) -> None:
    for i in prange(len(at)):
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


def corrected(
    before: Tensor, ahead: Tensor, known: Tensor, nodes: Tensor, measured: Tensor, gamma: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Corrected memories and their incoherence.

    Args:
        before: [u, d] memories, constants.
        ahead: [n, d] change that is expected of each node, constants.
        known: [n] bool: whether anything is; a node of which nothing is keeps its measured memory.
        nodes: [u] those that are corrected.
        measured: [u, d].
        gamma: [] in [0, 1].

    Returns:
        [u, d]: gamma times the measured memory and 1 - gamma times the predicted one (equation 8); and ``incoherence``
        of before and this.
    """
    if _compiled(measured, before, ahead):
        found: tuple[Tensor, Tensor] = _Corrected.apply(before, ahead, known, nodes, measured, gamma)  # type: ignore[no-untyped-call]
        return found
    weight = torch.where(known[nodes], gamma, torch.ones_like(gamma))
    predicted = (before + ahead[nodes]).to(measured.dtype)
    after = torch.lerp(predicted, measured, weight.to(measured.dtype)[:, None])
    return after, incoherence(before, after.float())


def incoherence(before: Tensor, after: Tensor) -> Tensor:
    """1 - cosine of memories before and after their update, mean over the nodes that had a memory (PRES, section 5.2).

    Args:
        before: [u, d] constants.
        after: [u, d].
    """
    if _compiled(after, before):  # a correction by nothing
        unknown = torch.zeros(len(before), dtype=torch.bool)
        nodes = torch.arange(len(before))
        found: Tensor = _Corrected.apply(before, before, unknown, nodes, after, after.new_ones(()))[1]  # type: ignore[no-untyped-call]
        return found
    length: Tensor = torch.linalg.vector_norm(before, dim=1)
    known = length > 0  # a cosine with zero is not defined
    along = (before / length.clamp(min=1e-12)[:, None]).mul(after).sum(1)
    cosine = along / torch.linalg.vector_norm(after, dim=1).clamp(min=1e-8)
    mean: Tensor = ((1 - cosine) * known).sum() / known.sum().clamp(min=1)
    return mean


class _Corrected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, before: Tensor, ahead: Tensor, known: Tensor, nodes: Tensor, measured: Tensor, gamma: Tensor
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.gamma = float(gamma)
        out, share = torch.empty_like(measured), measured.new_empty(len(measured), 3)
        looped(_correct, before, ahead, known, nodes, measured, ctx.gamma, out, share)
        ctx.save_for_backward(before, ahead, known, nodes, measured, out, share)
        ctx.counted = max(1, int(share[:, 0].count_nonzero()))
        return out, share[:, 2].sum() / ctx.counted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, along: Tensor | None) -> tuple[Tensor | None, ...]:
        *rows, share = ctx.saved_tensors
        measured = rows[4]
        grad = torch.zeros_like(measured) if grad is None else grad.contiguous()
        weight = 0.0 if along is None else float(along) / ctx.counted
        to_measured, of_gamma = torch.empty_like(measured), measured.new_empty(len(measured))
        looped(_correct_back, *rows, share, ctx.gamma, weight, grad, to_measured, of_gamma)
        return None, None, None, None, to_measured, of_gamma.sum()


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def _correct(
    before: Array, ahead: Array, known: Array, nodes: Array, measured: Array, gamma: float, out: Array, share: Array
) -> None:  # fmt: skip
    """Share [u, 3]: a row's penalty last, and what its gradient takes of before and of after; 0 where it has none."""
    weight, zero = measured.dtype.type(gamma), measured.dtype.type(0)
    for i in prange(len(nodes)):
        v, own, theirs, along = nodes[i], zero, zero, zero
        if known[v]:
            for j in range(out.shape[1]):
                predicted = before[i, j] + ahead[v, j]
                out[i, j] = predicted + weight * (measured[i, j] - predicted)
        else:
            out[i] = measured[i]
        for j in range(out.shape[1]):
            own += before[i, j] * before[i, j]
            theirs += out[i, j] * out[i, j]
            along += before[i, j] * out[i, j]
        share[i] = 0
        if own > 0:
            theirs = max(theirs, measured.dtype.type(1e-16))
            scale = 1 / (np.sqrt(own) * np.sqrt(theirs))  # the product of large squares may overflow
            share[i, 0], share[i, 1], share[i, 2] = -scale, along * scale / theirs, 1 - along * scale


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def _correct_back(
    before: Array, ahead: Array, known: Array, nodes: Array, measured: Array, after: Array, share: Array, gamma: float,
    weight: float, grad: Array, to_measured: Array, of_gamma: Array,
) -> None:  # fmt: skip
    kept, penalty = measured.dtype.type(gamma), measured.dtype.type(weight)
    for i in prange(len(nodes)):
        v, row = nodes[i], measured.dtype.type(0)
        of_before, of_after = penalty * share[i, 0], penalty * share[i, 1]
        for j in range(grad.shape[1]):
            to_measured[i, j] = grad[i, j] + of_before * before[i, j] + of_after * after[i, j]
        if known[v]:
            for j in range(grad.shape[1]):
                row += to_measured[i, j] * (measured[i, j] - before[i, j] - ahead[v, j])
                to_measured[i, j] *= kept
        of_gamma[i] = row
