"""Triton programs over the rows of a CSR matrix: what ``kernels.loops`` is on a CPU, for a GPU.

A program works on one row and one block of its numbers, on a tile of k entries at a time, whose loads do not wait
for each other. No two programs write to one place, so there are no atomics and equal runs give equal bits.

R rows, C columns, E entries, H heads, D numbers a head, W = H * D numbers a row. What is read is widened to ``wide``
(float32, or float64), in which sums are kept. Places are int64: a column times W does not fit in int32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def ends(indptr, row):
    """First entry of a row, and that of the next."""
    return tl.load(indptr + row).to(tl.int64), tl.load(indptr + row + 1).to(tl.int64)


@triton.jit
def weighted_sum(
    indptr, indices, values, x, pre, post, diag, out,
    heads: tl.constexpr, dim: tl.constexpr, wide: tl.constexpr, k: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """out[r] = post[r] * sum over entries e of row r of values[e, h] * pre[c] * x[c, h] + diag[r] * x[r].

    c is the column of e, or e itself where there are no ``indices``. Factors that are None are 1, diag is 0.
    """
    width: tl.constexpr = heads * dim
    row, w = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    there = w < width
    lo, hi = ends(indptr, row)
    sums = tl.zeros((k, block), wide)
    for at in range(lo, hi, k):
        e = at + tl.arange(0, k)
        held = e < hi
        both = held[:, None] & there[None, :]
        c = e
        if indices is not None:
            c = tl.load(indices + e, mask=held, other=0).to(tl.int64)
        term = tl.load(x + c[:, None] * width + w[None, :], mask=both, other=0).to(wide)
        if pre is not None:
            term *= tl.load(pre + c, mask=held, other=0).to(wide)[:, None]
        if values is not None:
            if heads == 1:
                term *= tl.load(values + e, mask=held, other=0).to(wide)[:, None]
            else:
                term *= tl.load(values + e[:, None] * heads + w[None, :] // dim, mask=both, other=0).to(wide)
        sums += term
    total = tl.sum(sums, 0)
    if post is not None:
        total *= tl.load(post + row).to(wide)
    if diag is not None:
        total += tl.load(diag + row).to(wide) * tl.load(x + row * width + w, mask=there, other=0).to(wide)
    tl.store(out + row * width + w, total, mask=there)


@triton.jit
def scores(
    indptr, indices, a, b, att, out,
    slope: tl.constexpr, heads: tl.constexpr, dim: tl.constexpr, wide: tl.constexpr,
    k: tl.constexpr, block: tl.constexpr, inner: tl.constexpr,
):  # fmt: skip
    """out[e, h] = <a[row of e, h], b[column of e, h]>, or with att <att[h], leaky(a[...] + b[...])>.

    A tile is k entries of ``block`` heads of ``inner`` numbers.
    """
    width: tl.constexpr = heads * dim
    row, h = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    lo, hi = ends(indptr, row)
    for at in range(lo, hi, k):
        e = at + tl.arange(0, k)
        held = e < hi
        c = tl.load(indices + e, mask=held, other=0).to(tl.int64)
        total = tl.zeros((k, block), wide)
        for first in range(0, dim, inner):
            d = first + tl.arange(0, inner)
            there = (h < heads)[:, None] & (d < dim)[None, :]
            w = h[:, None] * dim + d[None, :]
            near = tl.load(a + row * width + w, mask=there, other=0).to(wide)[None, :, :]
            both = held[:, None, None] & there[None, :, :]
            far = tl.load(b + c[:, None, None] * width + w[None, :, :], mask=both, other=0).to(wide)
            if att is None:
                term = near * far
            else:
                z = near + far
                term = tl.where(z > 0, z, slope * z) * tl.load(att + w, mask=there, other=0).to(wide)[None, :, :]
            total += tl.sum(term, 2)
        tl.store(out + e[:, None] * heads + h[None, :], total, mask=held[:, None] & (h < heads)[None, :])


@triton.jit
def additive_back(
    indptr, indices, grad, att, order, a, b, to_a, to_att,
    slope: tl.constexpr, heads: tl.constexpr, dim: tl.constexpr, wide: tl.constexpr,
    k: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Gradients of the scores with att to a [R, H, D], and to att before its sum over rows [R, H, D].

    ``order`` is the place of every entry in ``grad``, None for the identity; the gradient to b is that to a of the
    transpose, where ``to_att`` is None.
    """
    width: tl.constexpr = heads * dim
    row, w = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    there = w < width
    lo, hi = ends(indptr, row)
    near = tl.load(a + row * width + w, mask=there, other=0).to(wide)[None, :]
    slopes, products = tl.zeros((k, block), wide), tl.zeros((k, block), wide)
    for at in range(lo, hi, k):
        e = at + tl.arange(0, k)
        held = e < hi
        both = held[:, None] & there[None, :]
        c = tl.load(indices + e, mask=held, other=0).to(tl.int64)
        z = near + tl.load(b + c[:, None] * width + w[None, :], mask=both, other=0).to(wide)
        place = e
        if order is not None:
            place = tl.load(order + e, mask=held, other=0).to(tl.int64)
        g = tl.load(grad + place[:, None] * heads + w[None, :] // dim, mask=both, other=0).to(wide)
        g = tl.where(z > 0, g, slope * g)
        slopes += g
        products += g * z
    tl.store(to_a + row * width + w, tl.sum(slopes, 0) * tl.load(att + w, mask=there, other=0).to(wide), mask=there)
    if to_att is not None:
        tl.store(to_att + row * width + w, tl.sum(products, 0), mask=there)


@triton.jit
def softmax(
    indptr, x, out,
    heads: tl.constexpr, wide: tl.constexpr, k: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """out[e, h] = exp(x[e, h]) over the sum of those of e's row; the largest is subtracted first."""
    row, h = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    lo, hi = ends(indptr, row)
    tops = tl.full((k, block), -float("inf"), wide)
    for at in range(lo, hi, k):
        e = (at + tl.arange(0, k))[:, None]
        both = (e < hi) & (h < heads)[None, :]
        tops = tl.maximum(tops, tl.load(x + e * heads + h[None, :], mask=both, other=-float("inf")).to(wide))
    # Heads beyond the last have no largest score: -inf less itself is not a number.
    top = tl.where(h < heads, tl.max(tops, 0), 0.0)[None, :]
    sums = tl.zeros((k, block), wide)
    for at in range(lo, hi, k):
        e = (at + tl.arange(0, k))[:, None]
        both = (e < hi) & (h < heads)[None, :]
        sums += tl.exp(tl.load(x + e * heads + h[None, :], mask=both, other=-float("inf")).to(wide) - top)
    total = tl.where(h < heads, tl.sum(sums, 0), 1.0)[None, :]
    for at in range(lo, hi, k):
        e = (at + tl.arange(0, k))[:, None]
        both = (e < hi) & (h < heads)[None, :]
        share = tl.exp(tl.load(x + e * heads + h[None, :], mask=both, other=-float("inf")).to(wide) - top) / total
        tl.store(out + e * heads + h[None, :], share, mask=both)
