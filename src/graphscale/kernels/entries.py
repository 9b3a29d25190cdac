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
right. R rows, C columns, E entries of the matrix, H heads, D numbers a head. On a CPU the loops are
compiled (``kernels.loops``) and computed in float32 or float64, whatever the input; elsewhere they are
torch's gathers and scatters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphscale.csr import Csr
from graphscale.kernels import loops, meter
from graphscale.kernels.calling import looped, wide_of


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
        if x.device.type != "cpu":
            out = x.new_zeros(adj.num_rows, *x.shape[1:])
            return out.index_add_(0, adj.row_of, values[:, :, None] * x[adj.indices])
        wide = wide_of(x)
        out = wide.new_empty(adj.num_rows, *x.shape[1:])
        looped(loops.weighted_sum, adj.indptr, adj.indices, wide_of(values).to(wide.dtype), wide, out)
        return out.to(x.dtype)

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
        if a.device.type != "cpu":
            return (a[adj.row_of] * b[adj.indices]).sum(2)
        wide = wide_of(a)
        out = wide.new_empty(adj.num_entries, a.shape[1])
        looped(loops.dot, adj.indptr, adj.indices, wide, wide_of(b).to(wide.dtype), out)
        return out.to(a.dtype)

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
        if a.device.type != "cpu":
            return _additive_gathered(adj, a, b, att, slope)
        wide = wide_of(a)
        others = (wide_of(t).to(wide.dtype) for t in (b, att))
        out = wide.new_empty(adj.num_entries, a.shape[1])
        looped(loops.additive, adj.indptr, adj.indices, wide, *others, _number(slope, wide), out)
        return out.to(a.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, att = ctx.saved_tensors
        again = torch.is_grad_enabled()
        if again or a.device.type != "cpu":  # to be differentiated again: through plain gathers
            wanted = ctx.needs_input_grad[:3]
            with torch.enable_grad():
                out = _additive_gathered(ctx.adj, a, b, att, ctx.slope)
            needed = [x for x, want in zip((a, b, att), wanted, strict=True) if want]
            found = iter(torch.autograd.grad(out, needed, grad, create_graph=again))
            return (*(next(found) if want else None for want in wanted), None, None)
        transposed, entry = ctx.adj.transposed
        g, straight = wide_of(grad), torch.empty(0, dtype=torch.int64)
        to_a, to_att = _additive_back(ctx.adj, straight, g, a, b, att, ctx.slope)
        to_b, _ = _additive_back(transposed, entry, g, b, a, att, ctx.slope)
        return to_a.to(a.dtype), to_b.to(b.dtype), to_att.sum(0).to(att.dtype), None, None


def _additive_gathered(adj: Csr, a: Tensor, b: Tensor, att: Tensor, slope: float) -> Tensor:
    z = a[adj.row_of] + b[adj.indices.long()]  # [E, H, D]
    return (F.leaky_relu(z, slope) * att).sum(2)


@meter.moves(gathered="b", straight="order grad a")
def _additive_back(
    adj: Csr, order: Tensor, grad: Tensor, a: Tensor, b: Tensor, att: Tensor, slope: float
) -> tuple[Tensor, Tensor]:
    a, b, att = (wide_of(t).to(grad.dtype) for t in (a, b, att))
    to_a, to_att = torch.empty_like(a), torch.empty_like(a)
    arrays = (adj.indptr, adj.indices, order, grad, a, b, att, _number(slope, a), to_a, to_att)
    looped(loops.additive_back, *arrays)
    return to_a, to_att


def _number(value: float, like: Tensor) -> Any:
    """In the type of the loop: a wider one would widen every product."""
    return np.float64(value) if like.dtype == torch.float64 else np.float32(value)


class _OfRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        return values[adj.row_of]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return row_sum(ctx.adj, grad), None


class _OfColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        return values[adj.indices]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return column_sum(ctx.adj, grad), None


class _RowSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        if values.device.type != "cpu":
            return values.new_zeros(adj.num_rows, values.shape[1]).index_add_(0, adj.row_of, values)
        return _sums(adj.indptr, torch.empty(0, dtype=torch.int64), values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return of_rows(ctx.adj, grad), None


class _ColumnSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, adj: Csr) -> Tensor:
        ctx.adj = adj
        if values.device.type != "cpu":
            return values.new_zeros(adj.num_cols, values.shape[1]).index_add_(0, adj.indices.long(), values)
        transposed, entry = adj.transposed
        return _sums(transposed.indptr, entry, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return of_columns(ctx.adj, grad), None


def _sums(indptr: Tensor, order: Tensor, values: Tensor) -> Tensor:
    wide = wide_of(values)
    out = wide.new_empty(indptr.numel() - 1, values.shape[1])
    looped(loops.row_sum, indptr, order, wide, out)
    return out.to(values.dtype)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, adj: Csr) -> Tensor:
        if scores.device.type == "cpu":
            wide = wide_of(scores)
            share = torch.empty_like(wide)
            looped(loops.softmax, adj.indptr, wide, share)
            share = share.to(scores.dtype)
        else:
            top = scores.new_full((adj.num_rows, scores.shape[1]), -torch.inf)
            row = adj.row_of[:, None].expand_as(scores)
            share = (scores - top.scatter_reduce_(0, row, scores, "amax")[adj.row_of]).exp()
            share = share / torch.zeros_like(top).index_add_(0, adj.row_of, share)[adj.row_of]
        ctx.adj = adj
        ctx.save_for_backward(share)
        return share

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (share,) = ctx.saved_tensors
        weighted = share * grad
        return weighted - share * of_rows(ctx.adj, row_sum(ctx.adj, weighted)), None
