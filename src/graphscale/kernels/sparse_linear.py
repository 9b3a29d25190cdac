"""Sparse features times a layer's weights, and the gradient of those: ``x @ W.T`` and ``g.T @ x``.

A layer keeps its weights [H, F], so what an entry of x needs is a column, H numbers far apart. A block of 16
rows of W is turned first, [F, 16], and stays in cache: then an entry reads, or adds to, one line of it. W is read
once and the gradient written once, which is all that a product of this kind must move.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from graphscale.csr import Csr
from graphscale.kernels import meter
from graphscale.kernels.aggregate import gather_sum
from graphscale.kernels.threads import looped

_LANES = 16  # float32 numbers of a line of cache; float64 takes two


@njit(nogil=True, cache=True)
def _columns(indices: NDArray[Any], width: int) -> NDArray[Any]:
    """The columns that have an entry, ascending."""
    there = np.zeros(width, dtype=np.bool_)
    for j in indices:
        there[j] = True
    return np.nonzero(there)[0]


@njit(parallel=True, nogil=True, cache=True)
def _forward(
    indptr: NDArray[Any], indices: NDArray[Any], values: NDArray[Any], weight: NDArray[Any], out: NDArray[Any]
) -> None:
    """out[i] = sum of values[e] * weight[:, indices[e]] over the entries e of row i."""
    height, width = weight.shape
    columns = _columns(indices, width)
    for block in prange((height + _LANES - 1) // _LANES):
        start = block * _LANES
        lanes = min(_LANES, height - start)
        turned = np.empty((width, _LANES), dtype=weight.dtype)
        if lanes < _LANES:
            turned[:] = 0
        for j in columns:
            for k in range(lanes):
                turned[j, k] = weight[start + k, j]
        total = np.empty(_LANES, dtype=weight.dtype)
        for i in range(len(indptr) - 1):
            total[:] = 0
            for e in range(indptr[i], indptr[i + 1]):
                value, line = values[e], turned[indices[e]]
                for k in range(_LANES):
                    total[k] += value * line[k]
            for k in range(lanes):
                out[i, start + k] = total[k]


@njit(parallel=True, nogil=True, cache=True)
def _backward(
    indptr: NDArray[Any], indices: NDArray[Any], values: NDArray[Any], grad: NDArray[Any], out: NDArray[Any]
) -> None:
    """out[:, j] = sum of values[e] * grad[row of e] over the entries e of column j."""
    height, width = out.shape
    columns = _columns(indices, width)
    for block in prange((height + _LANES - 1) // _LANES):
        start = block * _LANES
        lanes = min(_LANES, height - start)
        turned = np.empty((width, _LANES), dtype=grad.dtype)
        for j in columns:
            turned[j] = 0
        own = np.zeros(_LANES, dtype=grad.dtype)
        for i in range(len(indptr) - 1):
            for k in range(lanes):
                own[k] = grad[i, start + k]
            for e in range(indptr[i], indptr[i + 1]):
                value, line = values[e], turned[indices[e]]
                for k in range(_LANES):
                    line[k] += value * own[k]
        out[start : start + lanes] = 0
        for j in columns:
            for k in range(lanes):
                out[start + k, j] = turned[j, k]


@meter.moves(straight="weight", weighted=True)
def _product(adj: Csr, weight: Tensor) -> Tensor:
    out = weight.new_empty(adj.num_rows, weight.shape[0])
    looped(_forward, *_entries(adj, weight), weight, out)
    return out


@meter.moves(straight="grad", weighted=True)
def _gradient(adj: Csr, grad: Tensor) -> Tensor:
    out = grad.new_empty(grad.shape[1], adj.num_cols)
    looped(_backward, *_entries(adj, grad), grad, out)
    return out


def _entries(x: Csr, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values = torch.ones((), dtype=like.dtype).expand(x.num_entries) if x.values is None else x.values.to(like.dtype)
    return x.indptr, x.indices, values.contiguous()


def _in_loops(tensor: Tensor) -> bool:
    """Whether the loops above serve; the device's engine knows all other places and types."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Csr) -> Tensor:
        ctx.x = x
        if _in_loops(weight):
            return _product(x, weight.contiguous())
        return gather_sum(x, weight.t().contiguous())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        out: Tensor = _Gradient.apply(grad, ctx.x)  # type: ignore[no-untyped-call]
        return out, None


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Csr) -> Tensor:
        ctx.x = x
        if _in_loops(grad):
            return _gradient(x, grad.contiguous())
        return gather_sum(x.t, grad.contiguous()).t()

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None]:
        return sparse_linear(ctx.x, weight), None


def sparse_linear(x: Csr, weight: Tensor) -> Tensor:
    """``x @ weight.T``.

    Args:
        x: [n, F]; its values are constants: no gradient flows to them.
        weight: [H, F] of any float type.

    Returns:
        [n, H] of weight's type, differentiable in weight to any order.

    Raises:
        ValueError: where weight does not have one column a column of x.
    """
    if weight.shape[1] != x.num_cols:
        raise ValueError(f"weight has {weight.shape[1]} columns for {x.num_cols} features.")
    out: Tensor = _Product.apply(weight, x)  # type: ignore[no-untyped-call]
    return out
