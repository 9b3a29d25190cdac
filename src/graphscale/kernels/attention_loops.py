"""Compiled loops of ``kernels.attention``: attention of every node to its row, in one pass forward, two backward.

n nodes, E entries, H heads, D numbers a head. A share is no less than 0, so its sign is free to say that dropout
dropped it: no mask is kept for the backward pass. Everything is float32 or float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from graphscale.kernels.dropout import mixed
from graphscale.kernels.loops import balanced, exp

Array = NDArray[Any]
_SUMS = {"contract", "reassoc", "nsz", "arcp"}
_CHUNK = 1 << 12  # nodes of one partial sum, whatever the threads: sums do not depend on their number


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def products(h: Array, sources: Array, targets: Array, far: Array, near: Array) -> None:
    """far[n, h] = <h[n, h], sources[h]> and near[n, h] = <h[n, h], targets[h]>."""
    heads, dim = h.shape[1], h.shape[2]
    for n in prange(h.shape[0]):
        for k in range(heads):
            a, b = h.dtype.type(0), h.dtype.type(0)
            for d in range(dim):
                a += h[n, k, d] * sources[k, d]
                b += h[n, k, d] * targets[k, d]
            far[n, k], near[n, k] = a, b


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def products_back(h: Array, to_far: Array, to_near: Array, to_sources: Array, to_targets: Array) -> None:
    """Sums over the nodes of a chunk of to_far * h and to_near * h: partial sums [chunks, H, D]."""
    heads, dim = h.shape[1], h.shape[2]
    for chunk in prange(to_sources.shape[0]):
        to_sources[chunk], to_targets[chunk] = 0, 0
        for n in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, h.shape[0])):
            for k in range(heads):
                for d in range(dim):
                    to_sources[chunk, k, d] += to_far[n, k] * h[n, k, d]
                    to_targets[chunk, k, d] += to_near[n, k] * h[n, k, d]


def chunks(num_nodes: int) -> int:
    """Number of partial sums of ``products_back``."""
    return -(-num_nodes // _CHUNK)


@njit(nogil=True, cache=True)
def _sign(x: Array, first: Any, second: Any, below: Any) -> None:
    """Turn the sign of what dropout drops: as ``kernels.dropout`` draws it."""
    for i in range(len(x)):
        z = mixed(np.uint32(mixed(np.uint32(np.uint32(i) + first)) ^ second))
        x[i] = x[i] if z >= below else -x[i]


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def attend(
    indptr: Array, indices: Array, far: Array, near: Array, slope: Any, key: Array, below: Any, scale: Any, h: Array,
    share: Array, out: Array,
) -> None:  # fmt: skip
    """out[r] = the columns' h, weighted by softmax(leaky(far[c] + near[r])), of which dropout keeps a part.

    share [E, H] is the softmax, negative where it was dropped.
    """
    heads, dim, nothing = h.shape[1], h.shape[2], h.dtype.type(0)
    flat = share.reshape(-1)
    cuts = balanced(indptr)
    for block in prange(len(cuts) - 1):
        for r in range(cuts[block], cuts[block + 1]):
            lo, hi = indptr[r], indptr[r + 1]
            out[r] = 0
            if lo == hi:
                continue
            start, stop = lo * heads, hi * heads
            for k in range(heads):
                top = h.dtype.type(-np.inf)
                for e in range(lo, hi):
                    z = far[indices[e], k] + near[r, k]
                    z = z if z > 0 else slope * z
                    share[e, k] = z
                    top = max(top, z)
                for e in range(lo, hi):
                    share[e, k] -= top
            exp(flat[start:stop])
            for k in range(heads):
                total = nothing
                for e in range(lo, hi):
                    total += share[e, k]
                total = h.dtype.type(1) / total
                for e in range(lo, hi):
                    share[e, k] *= total
            if below > 0:
                first = np.uint32(key[0] + np.uint32(start) + mixed(np.uint32(start >> 32)))
                _sign(flat[start:stop], first, key[1], below)
            for e in range(lo, hi):
                c = indices[e]
                for k in range(heads):
                    w = nothing if share[e, k] < 0 else share[e, k] * scale
                    for d in range(dim):
                        out[r, k, d] += w * h[c, k, d]


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def attend_rows(
    indptr: Array, indices: Array, far: Array, near: Array, slope: Any, scale: Any, h: Array, share: Array, grad: Array,
    to_score: Array, to_near: Array,
) -> None:  # fmt: skip
    """Gradients of ``attend`` to far[c] + near[r] of every entry, and their sums over rows."""
    heads, dim, nothing = h.shape[1], h.shape[2], h.dtype.type(0)
    cuts = balanced(indptr)
    for block in prange(len(cuts) - 1):
        for r in range(cuts[block], cuts[block + 1]):
            lo, hi = indptr[r], indptr[r + 1]
            to_near[r] = 0  # first the softmax's own sum, of share * gradient
            for e in range(lo, hi):
                c = indices[e]
                for k in range(heads):
                    total = nothing
                    for d in range(dim):
                        total += grad[r, k, d] * h[c, k, d]
                    to_score[e, k] = nothing if share[e, k] < 0 else total * scale
                    to_near[r, k] += to_score[e, k] * abs(share[e, k])
            for e in range(lo, hi):
                c = indices[e]
                for k in range(heads):
                    v = abs(share[e, k]) * (to_score[e, k] - to_near[r, k])
                    to_score[e, k] = v if far[c, k] + near[r, k] > 0 else slope * v
            to_near[r] = 0
            for e in range(lo, hi):
                for k in range(heads):
                    to_near[r, k] += to_score[e, k]


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def attend_columns(
    indptr: Array, indices: Array, order: Array, scale: Any, share: Array, to_score: Array, to_near: Array,
    sources: Array, targets: Array, grad: Array, to_far: Array, to_h: Array,
) -> None:  # fmt: skip
    """Over the transpose: sums of to_score, and the whole gradient to h, as value, as source and as target."""
    heads, dim, nothing = to_h.shape[1], to_h.shape[2], to_h.dtype.type(0)
    cuts = balanced(indptr)
    for block in prange(len(cuts) - 1):
        for c in range(cuts[block], cuts[block + 1]):
            to_far[c] = 0
            to_h[c] = 0
            for e in range(indptr[c], indptr[c + 1]):
                r, place = indices[e], order[e]
                for k in range(heads):
                    to_far[c, k] += to_score[place, k]
                    w = nothing if share[place, k] < 0 else share[place, k] * scale
                    for d in range(dim):
                        to_h[c, k, d] += w * grad[r, k, d]
            for k in range(heads):
                for d in range(dim):
                    to_h[c, k, d] += to_far[c, k] * sources[k, d] + to_near[c, k] * targets[k, d]
