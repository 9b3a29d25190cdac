"""Compiled loops of ``kernels.event_attention``: a query's events are encoded, weighed and summed while in cache.

m queries, E events sampled, H heads, W numbers a head, D = T + F numbers of an event: its encoded age, its features.
A share is no less than 0, so its sign is free to say that dropout dropped it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from graphscale.kernels.attention_loops import _sign
from graphscale.kernels.dropout import mixed
from graphscale.kernels.loops import exp
from graphscale.kernels.waves import wave, wave_and_slope

Array = NDArray[Any]
_SUMS = {"contract", "reassoc", "nsz", "arcp"}
CHUNK = 16  # queries of one partial sum, whatever the threads: sums do not depend on their number


@njit(inline="always", fastmath=_SUMS)
def _product(a: Array, b: Array) -> Any:
    total = a.dtype.type(0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@njit(inline="always", fastmath=_SUMS)
def _add(scale: Any, x: Array, out: Array) -> None:
    for d in range(len(x)):
        out[d] += scale * x[d]


@njit(nogil=True, cache=True)
def _longest(indptr: Array, first: int, stop: int) -> int:
    most = 0
    for r in range(first, stop):
        most = max(most, indptr[r + 1] - indptr[r])
    return most


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def attend(
    indptr: Array, indices: Array, age: Array, feat: Array, w: Array, b: Array, query: Array, key: Array,
    value: Array, by_event: Array, drawn: Array, below: Any, scale: Any, share: Array, out: Array, sums: Array,
) -> None:  # fmt: skip
    """Shares [E, H] of a query's events; out [m, H, W] and sums [H, m, D] of values and of events by them.

    Before the softmax an event e of query r counts <query[r, h], key[c, h]> + <by_event[h, r], event>.
    """
    rows, heads, times = len(indptr) - 1, query.shape[1], len(w)
    flat = share.reshape(-1)
    for chunk in prange((rows + CHUNK - 1) // CHUNK):
        first, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, rows)
        told = np.empty((_longest(indptr, first, stop), by_event.shape[2]), dtype=query.dtype)
        for r in range(first, stop):
            lo, hi = indptr[r], indptr[r + 1]
            out[r] = 0
            for h in range(heads):
                sums[h, r] = 0
            if lo == hi:
                continue
            for e in range(lo, hi):
                wave(age[e], w, b, told[e - lo, :times])
                told[e - lo, times:] = feat[e]
                c = indices[e]
                for h in range(heads):
                    share[e, h] = _product(query[r, h], key[c, h]) + _product(by_event[h, r], told[e - lo])
            for h in range(heads):
                top = share[lo, h]
                for e in range(lo, hi):
                    top = max(top, share[e, h])
                for e in range(lo, hi):
                    share[e, h] -= top
            start, end = lo * heads, hi * heads
            exp(flat[start:end])
            for h in range(heads):
                total = query.dtype.type(0)
                for e in range(lo, hi):
                    total += share[e, h]
                total = query.dtype.type(1) / total
                for e in range(lo, hi):
                    share[e, h] *= total
            if below > 0:
                place = np.uint32(drawn[0] + np.uint32(start) + mixed(np.uint32(start >> 32)))
                _sign(flat[start:end], place, drawn[1], below)
            for e in range(lo, hi):
                for h in range(heads):
                    if share[e, h] > 0:
                        _add(share[e, h] * scale, value[indices[e], h], out[r, h])
                        _add(share[e, h] * scale, told[e - lo], sums[h, r])


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def attend_rows(
    indptr: Array, indices: Array, age: Array, feat: Array, w: Array, b: Array, key: Array, value: Array,
    by_event: Array, scale: Any, share: Array, grad: Array, grad_sums: Array, to_score: Array, to_query: Array,
    to_by_event: Array, to_w: Array, to_b: Array,
) -> None:  # fmt: skip
    """Gradients to the scores [E, H], to the queries and ``by_event``, and of a chunk's queries to w and b.

    Where w and b are constants ``to_w`` and ``to_b`` have no column.
    """
    rows, heads, times, learned = len(indptr) - 1, key.shape[1], len(w), to_w.shape[1] > 0
    for chunk in prange((rows + CHUNK - 1) // CHUNK):
        first, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, rows)
        most = _longest(indptr, first, stop)
        told = np.empty((most, by_event.shape[2]), dtype=key.dtype)
        slope = np.empty((most, times), dtype=key.dtype)
        to_told = np.empty(times, dtype=key.dtype)
        to_w[chunk], to_b[chunk] = 0, 0
        for r in range(first, stop):
            lo, hi = indptr[r], indptr[r + 1]
            to_query[r] = 0
            for h in range(heads):
                to_by_event[h, r] = 0
            for e in range(lo, hi):
                if learned:
                    wave_and_slope(age[e], w, b, told[e - lo, :times], slope[e - lo])
                else:
                    wave(age[e], w, b, told[e - lo, :times])
                told[e - lo, times:] = feat[e]
                for h in range(heads):
                    kept = scale if share[e, h] > 0 else key.dtype.type(0)
                    to_score[e, h] = kept * (
                        _product(grad[r, h], value[indices[e], h]) + _product(grad_sums[h, r], told[e - lo])
                    )
            for h in range(heads):
                total = key.dtype.type(0)
                for e in range(lo, hi):
                    total += abs(share[e, h]) * to_score[e, h]
                for e in range(lo, hi):
                    to_score[e, h] = abs(share[e, h]) * (to_score[e, h] - total)
            for e in range(lo, hi):
                to_told[:] = 0
                for h in range(heads):
                    score, weight = to_score[e, h], max(share[e, h], key.dtype.type(0)) * scale
                    _add(score, key[indices[e], h], to_query[r, h])
                    _add(score, told[e - lo], to_by_event[h, r])
                    for d in range(times if learned else 0):
                        to_told[d] += score * by_event[h, r, d] + weight * grad_sums[h, r, d]
                for d in range(times if learned else 0):
                    part = slope[e - lo, d] * to_told[d]
                    to_w[chunk, d] += part * age[e]
                    to_b[chunk, d] += part


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def attend_columns(
    indptr: Array, rows: Array, entry: Array, scale: Any, share: Array, to_score: Array, query: Array, grad: Array,
    to_key: Array, to_value: Array,
) -> None:  # fmt: skip
    """Gradients to keys and values [q, H, W], over the transposed block."""
    for c in prange(len(indptr) - 1):
        to_key[c], to_value[c] = 0, 0
        for i in range(indptr[c], indptr[c + 1]):
            r, e = rows[i], entry[i]
            for h in range(query.shape[1]):
                _add(to_score[e, h], query[r, h], to_key[c, h])
                if share[e, h] > 0:
                    _add(share[e, h] * scale, grad[r, h], to_value[c, h])
