"""Linear maps of many tasks at once, each with its own weights, on rows that lie task by task in unequal numbers.

Padding to the largest task would cost its rows for all; a loop over torch's own products inside one function of
autograd costs a few microseconds a task, and adds a bias while the rows are in cache. Backward passes are made of the
same functions, so every map here is differentiable to any order. T tasks; rows of task t are ptr[t]:ptr[t + 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Ptr = tuple[int, ...]  # [T + 1]


def _spans(ptr: Ptr) -> Iterator[tuple[int, int, int]]:
    return ((t, a, b) for t, (a, b) in enumerate(pairwise(ptr)))


def even(ptr: Ptr) -> bool:
    """Whether all tasks have the same number of rows."""
    return len({b - a for a, b in pairwise(ptr)}) == 1


class _Rows(torch.autograd.Function):
    """x_t @ w_t, plus b_t where there is a bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, ptr: Ptr) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.ptr = ptr
        out = x.new_empty(x.shape[0], w.shape[2])
        for t, i, j in _spans(ptr):
            if b is None:
                torch.mm(x[i:j], w[t], out=out[i:j])
            else:
                torch.addmm(b[t], x[i:j], w[t], out=out[i:j])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, w = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        to_x = _rows(grad, w.transpose(1, 2), None, ctx.ptr) if wanted[0] else None
        to_w = _outer(x, grad, ctx.ptr) if wanted[1] else None
        return to_x, to_w, _sums(grad, ctx.ptr) if wanted[2] else None, None


class _Outer(torch.autograd.Function):
    """x_t^T @ y_t."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, ptr: Ptr) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.ptr = ptr
        out = x.new_empty(len(ptr) - 1, x.shape[1], y.shape[1])
        for t, i, j in _spans(ptr):
            torch.mm(x[i:j].t(), y[i:j], out=out[t])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y = ctx.saved_tensors
        to_x = _rows(y, grad.transpose(1, 2), None, ctx.ptr) if ctx.needs_input_grad[0] else None
        to_y = _rows(x, grad, None, ctx.ptr) if ctx.needs_input_grad[1] else None
        return to_x, to_y, None


class _Sums(torch.autograd.Function):
    """Sums of every task's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ptr: Ptr) -> Tensor:
        ctx.ptr = ptr
        out = x.new_empty(len(ptr) - 1, x.shape[1])
        for t, i, j in _spans(ptr):
            torch.sum(x[i:j], 0, out=out[t])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        out: Tensor = _Spread.apply(grad, ctx.ptr)  # type: ignore[no-untyped-call]
        return out, None


class _Spread(torch.autograd.Function):
    """Every task's row, once for each of its rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ptr: Ptr) -> Tensor:
        ctx.ptr = ptr
        out = x.new_empty(ptr[-1], x.shape[1])
        for t, i, j in _spans(ptr):
            out[i:j] = x[t]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _sums(grad, ctx.ptr), None


class _Blocks(torch.autograd.Function):
    """base_t + blocks_t @ c_t + b_t, the blocks being constants."""

    @staticmethod
    def forward(
        ctx: Any, base: Tensor | None, c: Tensor, b: Tensor | None, blocks: Sequence[Tensor], ptr: Ptr, own: Ptr
    ) -> Tensor:
        ctx.blocks, ctx.ptr, ctx.own = blocks, ptr, own
        out = c.new_empty(ptr[-1], c.shape[1])
        for t, i, j in _spans(ptr):
            mine = c[own[t] : own[t + 1]]
            if base is None:
                torch.mm(blocks[t], mine, out=out[i:j])
            else:
                torch.addmm(base[i:j], blocks[t], mine, out=out[i:j])
            if b is not None:
                out[i:j] += b[t]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        to_c = None
        if wanted[1]:
            to_c = _blocks(None, grad.contiguous(), None, [block.t() for block in ctx.blocks], ctx.own, ctx.ptr)
        return grad if wanted[0] else None, to_c, _sums(grad, ctx.ptr) if wanted[2] else None, None, None, None


def _rows(x: Tensor, w: Tensor, b: Tensor | None, ptr: Ptr) -> Tensor:
    out: Tensor = _Rows.apply(x, w, b, ptr)  # type: ignore[no-untyped-call]
    return out


def _outer(x: Tensor, y: Tensor, ptr: Ptr) -> Tensor:
    out: Tensor = _Outer.apply(x, y, ptr)  # type: ignore[no-untyped-call]
    return out


def _sums(x: Tensor, ptr: Ptr) -> Tensor:
    out: Tensor = _Sums.apply(x, ptr)  # type: ignore[no-untyped-call]
    return out


def _blocks(base: Tensor | None, c: Tensor, b: Tensor | None, blocks: Sequence[Tensor], ptr: Ptr, own: Ptr) -> Tensor:
    out: Tensor = _Blocks.apply(base, c, b, blocks, ptr, own)  # type: ignore[no-untyped-call]
    return out


def stacked_linear(x: Tensor, w: Tensor, b: Tensor, ptr: Ptr) -> Tensor:
    """Every task's rows times its own weights, plus its own bias.

    Args:
        x: [R, F], task by task.
        w: [T, F, H]; or [F, H], the same for all.
        b: [T, H], or [H].
        ptr: rows by task.

    Returns:
        [R, H], differentiable in all three to any order.

    Raises:
        ValueError: where rows and ``ptr`` do not fit.
    """
    if x.shape[0] != ptr[-1]:
        raise ValueError(f"x has {x.shape[0]} rows, and the tasks {ptr[-1]}.")
    tasks = len(ptr) - 1
    if w.dim() == 2:
        return torch.addmm(b, x, w) if b.dim() == 1 else x @ w + _spread(b, ptr)
    every = b if b.dim() == 2 else b.expand(tasks, -1)
    if even(ptr):
        return torch.baddbmm(every[:, None], x.view(tasks, -1, x.shape[1]), w).flatten(0, 1)
    return _rows(x, w, every, ptr)


def _spread(b: Tensor, ptr: Ptr) -> Tensor:
    out: Tensor = _Spread.apply(b, ptr)  # type: ignore[no-untyped-call]
    return out


def lifted_linear(base: Tensor, blocks: Sequence[Tensor], c: Tensor | None, b: Tensor, ptr: Ptr, own: Ptr) -> Tensor:
    """``base`` plus a block-diagonal matrix times c, plus every task's own bias.

    Args:
        base: [R, H].
        blocks: T constants, [R_t, n_t].
        c: [sum n_t, H]; None is 0.
        b: [T, H], or [H] for all.
        ptr: rows of base by task.
        own: rows of c by task.

    Returns:
        [R, H], differentiable in base, c and b to any order.
    """
    tasks = len(ptr) - 1
    if c is None:
        return base + (b if b.dim() == 1 else _spread(b, ptr))
    return _blocks(base, c, b if b.dim() == 2 else b.expand(tasks, -1), blocks, ptr, own)
