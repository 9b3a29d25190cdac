"""Compiled loops over the rows of a CSR matrix, a row a thread: no two threads write to one place, so sums
are the same on any number of threads.

Threads take equal numbers of blocks, and blocks are of equal work: in a batch of GAS the first fifth of the rows
has all entries, and with equal numbers of rows a thread one did everything while the others waited.

R rows, C columns, E entries, H heads, D numbers a head. Everything is float32 or float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Array = NDArray[Any]
_BLOCKS = 256  # of work: for each of up to 64 threads, four or more
_POWERS = np.exp2(np.arange(-127, 1)).astype(np.float32)


@njit(nogil=True, cache=True)
def balanced(indptr: Array) -> Array:
    """The first rows of blocks, and the end: a row's work is its entries and one."""
    rows = len(indptr) - 1
    total = indptr[rows] + rows
    cuts = np.empty(_BLOCKS + 1, dtype=np.int64)
    for block in range(_BLOCKS + 1):
        wanted = total * block // _BLOCKS
        lo, hi = 0, rows
        while lo < hi:  # the first row before which there is that much work
            middle = (lo + hi) // 2
            if indptr[middle] + middle < wanted:
                lo = middle + 1
            else:
                hi = middle
        cuts[block] = lo
    return cuts


@njit(nogil=True, cache=True)
def _exp_wide(x: Array) -> None:
    for i in range(len(x)):
        x[i] = np.exp(x[i])


@njit(nogil=True, cache=True, fastmath={"contract"})
def _exp_narrow(x: Array) -> None:
    """Exp of float32 numbers of 0 or less, in place, as Cephes computes it: 2 ulp, and 1e-38 in place of less.

    libm's is called a number at a time; this compiles to vectors.
    """
    for i in range(len(x)):
        v = max(x[i], np.float32(-87.0)) if x[i] == x[i] else x[i]
        k = min(max(np.int32(v * np.float32(1.44269504) - np.float32(0.5)), np.int32(-127)), np.int32(0))
        r = (v - np.float32(k) * np.float32(0.693359375)) + np.float32(k) * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        x[i] = (p * r * r + r + np.float32(1)) * _POWERS[k + np.int32(127)]


@njit(nogil=True, cache=True)
def exp(x: Array) -> None:
    """Exp of numbers of 0 or less, in place."""
    if x.itemsize == 4:
        _exp_narrow(x)
    else:
        _exp_wide(x)


@njit(parallel=True, nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def weighted_sum(indptr: Array, indices: Array, values: Array, x: Array, out: Array) -> None:
    """out[r, h] = sum over entries e of row r of values[e, h] * x[column of e, h]."""
    heads, dim = x.shape[1], x.shape[2]
    cuts = balanced(indptr)
    for block in prange(len(cuts) - 1):
        for r in range(cuts[block], cuts[block + 1]):
            out[r] = 0
            for e in range(indptr[r], indptr[r + 1]):
                c = indices[e]
                for h in range(heads):
                    v = values[e, h]
                    for d in range(dim):
                        out[r, h, d] += v * x[c, h, d]


@njit(parallel=True, nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def dot(indptr: Array, indices: Array, a: Array, b: Array, out: Array) -> None:
    """out[e, h] = <a[row of e, h], b[column of e, h]>."""
    heads, dim = a.shape[1], a.shape[2]
    cuts = balanced(indptr)
    for block in prange(len(cuts) - 1):
        for r in range(cuts[block], cuts[block + 1]):
            for e in range(indptr[r], indptr[r + 1]):
                c = indices[e]
                for h in range(heads):
                    total = a.dtype.type(0)
                    for d in range(dim):
                        total += a[r, h, d] * b[c, h, d]
                    out[e, h] = total


@njit(parallel=True, nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def row_sum(indptr: Array, order: Array, values: Array, out: Array) -> None:
    """out[r] = sum of values[order[e]] over the entries e of row r; an empty ``order`` is the identity."""
    straight = len(order) == 0
    cuts = balanced(indptr)
    for block in prange(len(cuts) - 1):
        for r in range(cuts[block], cuts[block + 1]):
            out[r] = 0
            for e in range(indptr[r], indptr[r + 1]):
                place = e if straight else order[e]
                for h in range(values.shape[1]):
                    out[r, h] += values[place, h]


@njit(parallel=True, nogil=True, cache=True)
def softmax(indptr: Array, scores: Array, out: Array) -> None:
    """out[e, h] = exp(scores[e, h]) over the sum of those of e's row; the largest is subtracted first."""
    heads, flat = scores.shape[1], out.reshape(-1)
    cuts = balanced(indptr)
    for block in prange(len(cuts) - 1):
        for r in range(cuts[block], cuts[block + 1]):
            lo, hi = indptr[r], indptr[r + 1]
            for h in range(heads):
                top = scores.dtype.type(-np.inf)
                for e in range(lo, hi):
                    top = max(top, scores[e, h])
                for e in range(lo, hi):
                    out[e, h] = scores[e, h] - top
            exp(flat[lo * heads : hi * heads])
            for h in range(heads):
                total = scores.dtype.type(0)
                for e in range(lo, hi):
                    total += out[e, h]
                for e in range(lo, hi):
                    out[e, h] /= total


@njit(parallel=True, nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def additive(
    indptr: Array, indices: Array, a: Array, b: Array, att: Array, slope: float, out: Array
) -> None:  # fmt: skip
    """out[e, h] = <att[h], leaky(a[row of e, h] + b[column of e, h])>."""
    heads, dim = a.shape[1], a.shape[2]
    cuts = balanced(indptr)
    for block in prange(len(cuts) - 1):
        for r in range(cuts[block], cuts[block + 1]):
            for e in range(indptr[r], indptr[r + 1]):
                c = indices[e]
                for h in range(heads):
                    total = a.dtype.type(0)
                    for d in range(dim):
                        z = a[r, h, d] + b[c, h, d]
                        total += att[h, d] * (z if z > 0 else slope * z)
                    out[e, h] = total


@njit(parallel=True, nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def additive_back(
    indptr: Array, indices: Array, order: Array, grad: Array, a: Array, b: Array, att: Array, slope: float,
    to_a: Array, to_att: Array,
) -> None:  # fmt: skip
    """Gradients of ``additive`` to a [R, H, D], and to att before its sum over rows [R, H, D].

    ``order`` is the place of every entry in ``grad``, empty for the identity; the gradient to b is that to a
    of the transpose.
    """
    straight = len(order) == 0
    heads, dim = a.shape[1], a.shape[2]
    cuts = balanced(indptr)
    for block in prange(len(cuts) - 1):
        for r in range(cuts[block], cuts[block + 1]):
            to_a[r] = 0
            to_att[r] = 0
            for e in range(indptr[r], indptr[r + 1]):
                c, place = indices[e], e if straight else order[e]
                for h in range(heads):
                    g = grad[place, h]
                    for d in range(dim):
                        z = a[r, h, d] + b[c, h, d]
                        bend = a.dtype.type(1) if z > 0 else slope
                        to_a[r, h, d] += g * att[h, d] * bend
                        to_att[r, h, d] += g * bend * z


@njit(parallel=True, nogil=True, cache=True)
def maximum(indptr: Array, indices: Array, x: Array, out: Array, chosen: Array) -> None:
    """out[r, d] = the largest x[c, d] over the columns c of row r, chosen[r, d] = that c (the first of equals).

    Rows without entries give 0 and the column -1, as PyG's max does.
    """
    dim = x.shape[1]
    cuts = balanced(indptr)
    for block in prange(len(cuts) - 1):
        for r in range(cuts[block], cuts[block + 1]):
            lo, hi = indptr[r], indptr[r + 1]
            if lo == hi:
                out[r] = 0
                chosen[r] = -1
                continue
            out[r] = x[indices[lo]]
            chosen[r] = indices[lo]
            for e in range(lo + 1, hi):
                c = indices[e]
                for d in range(dim):
                    if x[c, d] > out[r, d]:
                        out[r, d] = x[c, d]
                        chosen[r, d] = c


@njit(parallel=True, nogil=True, cache=True)
def from_chosen(t_indptr: Array, t_indices: Array, chosen: Array, grad: Array, out: Array) -> None:
    """out[c, d] = sum of grad[r, d] over the rows r that chose c, found through the transpose.

    A pair (r, c) may be stored twice; its rows are neighbours in the transpose, and count once.
    """
    dim = grad.shape[1]
    cuts = balanced(t_indptr)
    for block in prange(len(cuts) - 1):
        for c in range(cuts[block], cuts[block + 1]):
            out[c] = 0
            for e in range(t_indptr[c], t_indptr[c + 1]):
                r = t_indices[e]
                if e > t_indptr[c] and t_indices[e - 1] == r:
                    continue
                for d in range(dim):
                    if chosen[r, d] == c:
                        out[c, d] += grad[r, d]


@njit(parallel=True, nogil=True, cache=True)
def pick(chosen: Array, x: Array, out: Array) -> None:
    """out[r, d] = x[chosen[r, d], d], 0 where nothing was chosen."""
    for r in prange(chosen.shape[0]):
        for d in range(chosen.shape[1]):
            c = chosen[r, d]
            out[r, d] = x[c, d] if c >= 0 else 0
