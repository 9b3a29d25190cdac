"""Dot products of all pairs of a record's vectors, the lower triangle: DLRM's interactions (Naumov et al. 2019).

x [N, F, d] gives p [N, P], P = F (F - 1) / 2, p_ij = x_i . x_j for j < i. A batched product of matrices as small as
these spends most of its time beside the arithmetic and makes every product twice. The three maps below are one
another's derivatives, so any order can be taken:

    p = x_i . x_j          to x_i: sum over j of g_ij x_j
    y_i = sum_j g_ij x_j   to g: v_i . x_j + v_j . x_i;   to x: sum over j of g_ij v_j
    h = v_i . x_j + v_j . x_i
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from graphscale.kernels.threads import looped


@njit(parallel=True, nogil=True, cache=True)
def _dots(x: Any, out: Any) -> None:
    n, count, dim = x.shape
    for r in prange(n):
        turned, total = x[r].T.copy(), np.empty(count, dtype=x.dtype)
        at = 0
        for i in range(1, count):
            total[:i] = 0
            for k in range(dim):
                value = x[r, i, k]
                for j in range(i):
                    total[j] += value * turned[k, j]
            for j in range(i):
                out[r, at + j] = total[j]
            at += i


@njit(parallel=True, nogil=True, cache=True)
def _spread(g: Any, x: Any, out: Any) -> None:
    n, count, dim = x.shape
    for r in prange(n):
        out[r] = 0
        at = 0
        for i in range(1, count):
            for j in range(i):
                value = g[r, at + j]
                for k in range(dim):
                    out[r, i, k] += value * x[r, j, k]
                for k in range(dim):
                    out[r, j, k] += value * x[r, i, k]
            at += i


@njit(parallel=True, nogil=True, cache=True)
def _crossed(v: Any, x: Any, out: Any) -> None:
    n, count, dim = x.shape
    for r in prange(n):
        turned, other, total = x[r].T.copy(), v[r].T.copy(), np.empty(count, dtype=x.dtype)
        at = 0
        for i in range(1, count):
            total[:i] = 0
            for k in range(dim):
                a, b = v[r, i, k], x[r, i, k]
                for j in range(i):
                    total[j] += a * turned[k, j] + b * other[k, j]
            for j in range(i):
                out[r, at + j] = total[j]
            at += i


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = x.new_empty(x.shape[0], x.shape[1] * (x.shape[1] - 1) // 2)
        looped(_dots, x.contiguous(), out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out: Tensor = _Spread.apply(g, x)  # type: ignore[no-untyped-call]
        return out


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        looped(_spread, g.contiguous(), x.contiguous(), out)
        return out

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        return _Crossed.apply(v, x), _Spread.apply(g, v)  # type: ignore[no-untyped-call]


class _Crossed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(v, x)
        out = x.new_empty(x.shape[0], x.shape[1] * (x.shape[1] - 1) // 2)
        looped(_crossed, v.contiguous(), x.contiguous(), out)
        return out

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        v, x = ctx.saved_tensors
        return _Spread.apply(h, x), _Spread.apply(h, v)  # type: ignore[no-untyped-call]


def pair_products(x: Tensor) -> Tensor:
    """[N, F (F - 1) / 2] products of x_i and x_j, row by row of the lower triangle; differentiable to any order.

    Args:
        x: [N, F, d].
    """
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        out: Tensor = _Dots.apply(x)  # type: ignore[no-untyped-call]
        return out
    low, high = torch.tril_indices(x.shape[1], x.shape[1], -1, device=x.device)
    return torch.bmm(x, x.transpose(1, 2)).flatten(1).index_select(1, low * x.shape[1] + high)
