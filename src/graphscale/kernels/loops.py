"""Compiled loops over the rows of a CSR matrix, a row a thread: no two threads write to one place, so sums
are the same on any number of threads.

R rows, C columns, E entries, H heads, D numbers a head. Everything is float32 or float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Array = NDArray[Any]


@njit(parallel=True, nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def weighted_sum(indptr: Array, indices: Array, values: Array, x: Array, out: Array) -> None:
    """out[r, h] = sum over entries e of row r of values[e, h] * x[column of e, h]."""
    heads, dim = x.shape[1], x.shape[2]
    for r in prange(len(indptr) - 1):
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
    for r in prange(len(indptr) - 1):
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
    for r in prange(len(indptr) - 1):
        out[r] = 0
        for e in range(indptr[r], indptr[r + 1]):
            place = e if straight else order[e]
            for h in range(values.shape[1]):
                out[r, h] += values[place, h]


@njit(parallel=True, nogil=True, cache=True)
def softmax(indptr: Array, scores: Array, out: Array) -> None:
    """out[e, h] = exp(scores[e, h]) over the sum of those of e's row; the largest is subtracted first."""
    heads = scores.shape[1]
    for r in prange(len(indptr) - 1):
        lo, hi = indptr[r], indptr[r + 1]
        for h in range(heads):
            top = scores.dtype.type(-np.inf)
            for e in range(lo, hi):
                top = max(top, scores[e, h])
            total = scores.dtype.type(0)
            for e in range(lo, hi):
                out[e, h] = np.exp(scores[e, h] - top)
                total += out[e, h]
            for e in range(lo, hi):
                out[e, h] /= total


@njit(parallel=True, nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def additive(
    indptr: Array, indices: Array, a: Array, b: Array, att: Array, slope: float, out: Array
) -> None:  # fmt: skip
    """out[e, h] = <att[h], leaky(a[row of e, h] + b[column of e, h])>."""
    heads, dim = a.shape[1], a.shape[2]
    for r in prange(len(indptr) - 1):
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
    for r in prange(len(indptr) - 1):
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
    for r in prange(len(indptr) - 1):
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
    for c in prange(len(t_indptr) - 1):
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
