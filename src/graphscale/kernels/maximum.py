"""Maxima over a row's columns, differentiable to any order.

The choice of each maximum is kept; with it the gradient, its transpose and so on are linear gathers
(``kernels.loops``). R rows, C columns, D numbers each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.kernels import loops, meter
from graphscale.kernels.calling import looped, wide_of


def maximum(adj: Csr, x: Tensor) -> Tensor:
    """[R, D]: the largest of every row's columns of x [C, D], 0 for a row without entries.

    Between equal ones the first column is chosen, and alone gets the gradient.
    """
    out: Tensor = _Maximum.apply(x, adj)  # type: ignore[no-untyped-call]
    return out


class _Maximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, adj: Csr) -> Tensor:
        wide = wide_of(x.cpu())  # no atomic maximum with its place on a GPU
        host = adj.to(wide.device)
        out = wide.new_empty(adj.num_rows, x.shape[1])
        chosen = torch.empty(out.shape, dtype=adj.indices.dtype)
        looped(loops.maximum, host.indptr, host.indices, wide, out, chosen)
        meter.count(host, (out, chosen), gathered=(wide,))
        ctx.adj, ctx.chosen = host, chosen
        return out.to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _FromChosen.apply(grad, ctx.adj, ctx.chosen), None  # type: ignore[no-untyped-call]


class _FromChosen(torch.autograd.Function):
    """The gradient of a maximum: every row's number to the column that it chose."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, adj: Csr, chosen: Tensor) -> Tensor:
        ctx.adj, ctx.chosen = adj, chosen
        transposed, _ = adj.transposed
        wide = wide_of(grad.cpu())
        out = wide.new_empty(adj.num_cols, grad.shape[1])
        looped(loops.from_chosen, transposed.indptr, transposed.indices, chosen, wide, out)
        meter.count(transposed, (out,), gathered=(chosen, wide))
        return out.to(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Chosen.apply(grad, ctx.adj, ctx.chosen), None, None  # type: ignore[no-untyped-call]


class _Chosen(torch.autograd.Function):
    """What every row chose: linear, the transpose of ``_FromChosen``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, adj: Csr, chosen: Tensor) -> Tensor:
        ctx.adj, ctx.chosen = adj, chosen
        wide = wide_of(x.cpu())
        out = wide.new_empty(chosen.shape)
        looped(loops.pick, chosen, wide, out)
        return out.to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _FromChosen.apply(grad, ctx.adj, ctx.chosen), None, None  # type: ignore[no-untyped-call]
