"""Triton programs of maxima over a row's columns, and of the linear maps that their choice makes.

R rows, C columns, W numbers each. A program works on one row and one block of its numbers, on a tile of k entries at a
time (``kernels.programs``).
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphscale.kernels.programs import ends


@triton.jit
def maximum(
    indptr, indices, x, out, chosen, width: tl.constexpr, wide: tl.constexpr, k: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """out[r, w] = the largest x[c, w] over the columns c of row r, chosen[r, w] = that c (the first of equals).

    Rows without entries give 0 and -1. Every lane of the tile begins at the row's first entry and goes on to larger
    ones alone, so an entry is found even where that one is NaN: its row is NaN then, as on a CPU.
    """
    row, w = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    lo, hi = ends(indptr, row)
    there = w < tl.where(lo < hi, width, 0)
    c0 = tl.load(indices + lo, mask=lo < hi, other=0).to(tl.int64)
    first = tl.load(x + c0 * width + w, mask=there, other=0).to(wide)
    best = tl.broadcast_to(first[None, :], (k, block))
    place = tl.zeros((k, block), tl.int64) + lo
    for at in range(lo + 1, hi, k):
        e = at + tl.arange(0, k)
        both = (e < hi)[:, None] & there[None, :]
        c = tl.load(indices + e, mask=e < hi, other=0).to(tl.int64)
        tile = tl.load(x + c[:, None] * width + w[None, :], mask=both, other=-float("inf")).to(wide)
        place = tl.where(tile > best, e[:, None], place)
        best = tl.where(tile > best, tile, best)
    top = tl.where(first == first, tl.max(tl.where(best == best, best, -float("inf")), 0), first)
    found = tl.min(tl.where((best == top[None, :]) | (best != best), place, hi), 0)
    tl.store(out + row * width + w, top, mask=w < width)
    tl.store(chosen + row * width + w, tl.load(indices + found, mask=there, other=-1), mask=w < width)


@triton.jit
def from_chosen(
    indptr, indices, chosen, grad, out, width: tl.constexpr, wide: tl.constexpr, k: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """out[c, w] = sum of grad[r, w] over the rows r that chose c: entries of row c of the transpose.

    A pair (r, c) may be stored twice; its rows are neighbours in the transpose, and count once.
    """
    col, w = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    lo, hi = ends(indptr, col)
    sums = tl.zeros((k, block), wide)
    for at in range(lo, hi, k):
        e = at + tl.arange(0, k)
        held = e < hi
        r = tl.load(indices + e, mask=held, other=0).to(tl.int64)
        before = tl.load(indices + e - 1, mask=held & (e > lo), other=-1).to(tl.int64)
        both = (held & (r != before))[:, None] & (w < width)[None, :]
        place = r[:, None] * width + w[None, :]
        mine = tl.load(chosen + place, mask=both, other=-1).to(tl.int64) == col
        sums += tl.load(grad + place, mask=both & mine, other=0).to(wide)
    tl.store(out + col * width + w, tl.sum(sums, 0), mask=w < width)


@triton.jit
def pick(chosen, x, out, width: tl.constexpr, block: tl.constexpr):
    """out[r, w] = x[chosen[r, w], w], 0 where nothing was chosen."""
    row, w = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    there = w < width
    c = tl.load(chosen + row * width + w, mask=there, other=-1).to(tl.int64)
    tl.store(out + row * width + w, tl.load(x + c * width + w, mask=there & (c >= 0), other=0), mask=there)
