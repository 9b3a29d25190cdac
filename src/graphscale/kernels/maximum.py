"""Maxima over a row's columns, differentiable to any order.

The choice of each maximum is kept; with it the gradient, its transpose and so on are linear gathers of
the device's engine (``kernels.engine``). R rows, C columns, D numbers each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.kernels import meter
from graphscale.kernels.engine import engine_of


def maximum(adj: Csr, x: Tensor) -> Tensor:
    """[R, D]: the largest of every row's columns of x [C, D], 0 for a row without entries.

    Between equal ones the first column is chosen, and alone gets the gradient.
    """
    out: Tensor = _Maximum.apply(x, adj)  # type: ignore[no-untyped-call]
    return out


class _Maximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, adj: Csr) -> Tensor:
        out, chosen = engine_of(x).maximum(adj, x)
        meter.count(adj, (out, chosen), gathered=(x,))
        ctx.adj, ctx.chosen = adj, chosen
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _FromChosen.apply(grad, ctx.adj, ctx.chosen), None  # type: ignore[no-untyped-call]


class _FromChosen(torch.autograd.Function):
    """The gradient of a maximum: every row's number to the column that it chose."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, adj: Csr, chosen: Tensor) -> Tensor:
        ctx.adj, ctx.chosen = adj, chosen
        out = engine_of(grad).from_chosen(adj, chosen, grad)
        if meter.counting():
            meter.count(adj.transposed[0], (out,), gathered=(chosen, grad))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Chosen.apply(grad, ctx.adj, ctx.chosen), None, None  # type: ignore[no-untyped-call]


class _Chosen(torch.autograd.Function):
    """What every row chose: linear, the transpose of ``_FromChosen``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, adj: Csr, chosen: Tensor) -> Tensor:
        ctx.adj, ctx.chosen = adj, chosen
        return engine_of(x).pick(chosen, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _FromChosen.apply(grad, ctx.adj, ctx.chosen), None, None  # type: ignore[no-untyped-call]
