"""Sums over a node's neighbours, with a backward pass that can be differentiated again.

What sums is the device's engine (``kernels.engine``). The backward pass is the same function over the
cached transpose, so it is differentiable to any order, as second-order meta-learning needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.kernels import meter
from graphscale.kernels.engine import engine_of


@meter.moves(gathered="x", weighted=True)
def gather_sum(
    adj: Csr, x: Tensor, pre: Tensor | None = None, post: Tensor | None = None, diag: Tensor | None = None
) -> Tensor:
    """``post * (adj @ (pre * x)) + diag * x`` without a graph of gradients: [rows, d]."""
    return engine_of(x).gather_sum(adj, x, pre, post, diag)


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        return gather_sum(adj, x.contiguous())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        return (aggregate(ctx.adj.t, grad) if ctx.needs_input_grad[0] else None), None


def aggregate(adj: Csr, x: Tensor) -> Tensor:
    """``adj @ x``: row i is the (weighted) sum of the rows of x that i's entries name.

    Args:
        adj: [rows, cols]; its values are constants: no gradient flows to them.
        x: [cols, d] of any float type.

    Returns:
        [rows, d], differentiable in x to any order.

    Raises:
        ValueError: where x does not have one row a column of adj.
    """
    if x.shape[0] != adj.num_cols:
        raise ValueError(f"x has {x.shape[0]} rows for {adj.num_cols} columns of the adjacency.")
    out: Tensor = _Aggregate.apply(x, adj)  # type: ignore[no-untyped-call]
    return out


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, adj: Csr, pre: Tensor | None, post: Tensor | None, diag: Tensor | None) -> Tensor:
        ctx.arguments = (adj, pre, post, diag)
        return gather_sum(adj, x.contiguous(), pre, post, diag)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        adj, pre, post, diag = ctx.arguments
        # The transpose of post A pre + diag is pre A^T post + diag: the same function.
        to_x = normalised(adj.t, grad, pre=post, post=pre, diag=diag) if ctx.needs_input_grad[0] else None
        return to_x, None, None, None, None


def normalised(
    adj: Csr, x: Tensor, *, pre: Tensor | None = None, post: Tensor | None = None, diag: Tensor | None = None
) -> Tensor:
    """``post * (adj @ (pre * x)) + diag * x``: every normalised adjacency of the house and of GCN, in one step.

    Args:
        adj: [n, n]; its values are constants.
        x: [n, d].
        pre, post, diag: [n, 1] constants of x's type.

    Returns:
        [n, d], differentiable in x to any order.
    """
    out: Tensor = _Normalised.apply(x, adj, pre, post, diag)  # type: ignore[no-untyped-call]
    return out
