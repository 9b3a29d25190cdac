"""Functions of the entries of a sparse matrix: attention and its parts, differentiable to any order.

| function     | shapes                              | derivative is made of       |
|--------------|-------------------------------------|-----------------------------|
| weighted_sum | [E, H], [C, H, D] -> [R, H, D]      | weighted_sum, dot           |
| dot          | [R, H, D], [C, H, D] -> [E, H]      | weighted_sum                |
| of_rows      | [R, H] -> [E, H]                    | row_sum                     |
| of_columns   | [C, H] -> [E, H]                    | column_sum                  |
| row_sum      | [E, H] -> [R, H]                    | of_rows                     |
| column_sum   | [E, H] -> [C, H]                    | of_columns                  |
| additive     | [R, H, D], [C, H, D] -> [E, H]      | itself; gathers the 2nd time|
| softmax      | [E, H] -> [E, H], over every row    | row_sum, of_rows            |

Every backward pass is made of functions of this table, which is what makes a second derivative come out
right. R rows, C columns, E entries of the matrix, H heads, D numbers a head. What computes them is the
device's engine (``kernels.engine``), in float32 or float64, whatever the input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.kernels import meter, torch_engine
from graphscale.kernels.engine import engine_of


@meter.moves(gathered="x", straight="values")
def weighted_sum(adj: Csr, values: Tensor, x: Tensor) -> Tensor:
    """[R, H, D]: for every row the sum of its columns' x [C, H, D], weighted by values [E, H]."""
    out: Tensor = _WeightedSum.apply(values, x, adj)  # type: ignore[no-untyped-call]
    return out


@meter.moves(gathered="b", straight="a")
def dot(adj: Csr, a: Tensor, b: Tensor) -> Tensor:
    """[E, H]: for every entry the product of a [R, H, D] at its row and b [C, H, D] at its column."""
    out: Tensor = _Dot.apply(a, b, adj)  # type: ignore[no-untyped-call]
    return out


@meter.moves(gathered="b", straight="a")
def additive(adj: Csr, a: Tensor, b: Tensor, att: Tensor, slope: float) -> Tensor:
    """[E, H]: <att [H, D], leaky_relu(a [R, H, D] at its row + b [C, H, D] at its column)> for every entry.

    The scores of GATv2 (Brody et al., ICLR 2022, equation (7)); [E, H, D] is never made, unless a second
    derivative is asked for.
    """
    out: Tensor = _Additive.apply(a, b, att, adj, slope)  # type: ignore[no-untyped-call]
    return out


@meter.moves(straight="values")
def of_rows(adj: Csr, values: Tensor) -> Tensor:
    """[E, H]: what values [R, H] says of every entry's row."""
    out: Tensor = _OfRows.apply(values, adj)  # type: ignore[no-untyped-call]
    return out


@meter.moves(gathered="values")
def of_columns(adj: Csr, values: Tensor) -> Tensor:
    """[E, H]: what values [C, H] says of every entry's column."""
    out: Tensor = _OfColumns.apply(values, adj)  # type: ignore[no-untyped-call]
    return out


@meter.moves(straight="values")
def row_sum(adj: Csr, values: Tensor) -> Tensor:
    """[R, H]: sums of values [E, H] over every row's entries."""
    out: Tensor = _RowSum.apply(values, adj)  # type: ignore[no-untyped-call]
    return out


@meter.moves(straight="values")
def column_sum(adj: Csr, values: Tensor) -> Tensor:
    """[C, H]: sums of values [E, H] over every column's entries."""
    out: Tensor = _ColumnSum.apply(values, adj)  # type: ignore[no-untyped-call]
    return out


@meter.moves(straight="scores")
def softmax(adj: Csr, scores: Tensor) -> Tensor:
    """[E, H]: softmax of scores [E, H] over the entries of every row."""
    out: Tensor = _Softmax.apply(scores, adj)  # type: ignore[no-untyped-call]
    return out


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        ctx.save_for_backward(values, x)
        return engine_of(x).weighted_sum(adj, values, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, x = ctx.saved_tensors
        transposed, entry = ctx.adj.transposed
        to_values = dot(ctx.adj, grad, x).to(values.dtype) if ctx.needs_input_grad[0] else None
        to_x = weighted_sum(transposed, values[entry], grad) if ctx.needs_input_grad[1] else None
        return to_values, to_x, None


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        ctx.save_for_backward(a, b)
        return engine_of(a).dot(adj, a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b = ctx.saved_tensors
        transposed, entry = ctx.adj.transposed
        to_a = weighted_sum(ctx.adj, grad, b) if ctx.needs_input_grad[0] else None
        to_b = weighted_sum(transposed, grad[entry], a) if ctx.needs_input_grad[1] else None
        return to_a, to_b, None


class _Additive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, att: Tensor, adj: Csr, slope: float) -> Tensor:
        ctx.adj, ctx.slope = adj, slope
        ctx.save_for_backward(a, b, att)
        return engine_of(a).additive(adj, a, b, att, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, att = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return (*_additive_back(ctx.adj, grad, a, b, att, ctx.slope), None, None)
        wanted = ctx.needs_input_grad[:3]  # to be differentiated again: through plain gathers
        out = torch_engine.additive(ctx.adj, a, b, att, ctx.slope)
        needed = [x for x, want in zip((a, b, att), wanted, strict=True) if want]
        found = iter(torch.autograd.grad(out, needed, grad, create_graph=True))
        return (*(next(found) if want else None for want in wanted), None, None)


def _additive_back(
    adj: Csr, grad: Tensor, a: Tensor, b: Tensor, att: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    found = engine_of(a).additive_back(adj, grad, a, b, att, slope)
    if meter.counting():  # two passes, over rows and over columns; the first one's share of att is as large as a
        transposed, entry = adj.transposed
        meter.count(adj, (found[0], a), gathered=(b,), straight=(grad, a))
        meter.count(transposed, (found[1], b), gathered=(a,), straight=(entry, grad, b))
    return found


class _OfRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        return values.index_select(0, adj.row_of)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return row_sum(ctx.adj, grad), None


class _OfColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        return values.index_select(0, adj.indices)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return column_sum(ctx.adj, grad), None


class _RowSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        return engine_of(values).row_sum(adj, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return of_rows(ctx.adj, grad), None


class _ColumnSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        transposed, entry = adj.transposed
        return engine_of(values).row_sum(transposed, values, entry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return of_columns(ctx.adj, grad), None


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, adj: Csr) -> Tensor:
        share = engine_of(scores).softmax(adj, scores)
        ctx.adj = adj
        ctx.save_for_backward(share)
        return share

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (share,) = ctx.saved_tensors
        weighted = share * grad
        return weighted - share * of_rows(ctx.adj, row_sum(ctx.adj, weighted)), None
