"""Compressed rows from a stream of edges, on arrays that may lie on disk: counting sort, then rows in place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from graphscale.kernels.sampling import mix

Array = NDArray[Any]


@njit(nogil=True, cache=True)
def place_entries(row: Array, col: Array, value: Array, cursor: Array, indices: Array, values: Array) -> None:
    """Put a chunk of entries at their rows' cursors, which move on. ``values`` may be empty: a pattern."""
    for i in range(len(row)):
        at = cursor[row[i]]
        indices[at] = col[i]
        if len(values):
            values[at] = value[i]
        cursor[row[i]] = at + 1


@njit(nogil=True, cache=True)
def sort_and_merge(indptr: Array, indices: Array, values: Array) -> Any:
    """Sort each row's columns and merge equal ones in place (values add up); returns entries that are left.

    Rows move towards the front; ``indptr`` is rewritten to their new bounds.
    """
    write = indptr[0]
    start = indptr[0]
    for r in range(len(indptr) - 1):
        stop = indptr[r + 1]
        columns = indices[start:stop].copy()
        order = np.argsort(columns, kind="mergesort")
        inside = values[start:stop].copy() if len(values) else values[:0].copy()
        first = write
        for i in order:
            c = columns[i]
            if write > first and indices[write - 1] == c:
                if len(values):
                    values[write - 1] += inside[i]
            else:
                indices[write] = c
                if len(values):
                    values[write] = inside[i]
                write += 1
        start = stop
        indptr[r + 1] = write
    return write


@njit(nogil=True, cache=True)
def _direction_hashes(indptr: Array, indices: Array, values: Array) -> tuple[Any, Any]:
    there, back = np.uint64(0), np.uint64(0)
    for r in range(len(indptr) - 1):
        for e in range(indptr[r], indptr[r + 1]):
            c = indices[e]
            salt = np.uint64(values[e]) if len(values) else np.uint64(1)
            there += mix(mix(np.uint64(r) + np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(c) + salt * _ODD))
            back += mix(mix(np.uint64(c) + np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(r) + salt * _ODD))
    return there, back


_ODD = np.uint64(0xD6E8FEB86659FD93)


def looks_symmetric(indptr: Array, indices: Array, values: Array) -> bool:
    """Whether a matrix without duplicates equals its transpose, by 64-bit hashes of its entries.

    Sums of hashes of (row, column, value) and (column, row, value) agree where it does; where it does not
    they agree by chance once in 2^64. Needs no memory.
    """
    there, back = _direction_hashes(indptr, indices, values.astype(np.float32, copy=False).view(np.uint32))
    return bool(there == back)


@njit(nogil=True, cache=True)
def _lot(r: Any, c: Any, count: Any, seed: Any) -> Any:
    """A number that a pair of nodes draws, the same from both sides and another for every pair."""
    return mix(
        mix(seed + np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(min(r, c)) * np.uint64(count) + np.uint64(max(r, c)))
    )


@njit(nogil=True, cache=True)
def thin(indptr: Array, indices: Array, keep: int, seed: Any) -> Any:
    """Keep ``keep`` edges of a symmetric matrix without loops, chosen by lot, in place; returns entries that are left.

    Args:
        indptr: [N + 1], rewritten to the new bounds.
        indices: [E], of which the first entries are left.
        keep: edges, each two entries; all where there are no more.
        seed: of the lots.
    """
    n = len(indptr) - 1
    if 2 * keep >= indptr[n]:
        return indptr[n]
    # The keep-th smallest lot is found by counting the leading 16 bits, then among those of one beginning.
    counts = np.zeros(1 << 16, np.int64)
    for r in range(n):
        for e in range(indptr[r], indptr[r + 1]):
            if indices[e] > r:
                counts[_lot(r, indices[e], n, seed) >> np.uint64(48)] += 1
    head, before = 0, 0
    while before + counts[head] < keep:
        before += counts[head]
        head += 1
    tied, found = np.empty(counts[head], np.uint64), 0
    for r in range(n):
        for e in range(indptr[r], indptr[r + 1]):
            if indices[e] > r:
                lot = _lot(r, indices[e], n, seed)
                if lot >> np.uint64(48) == np.uint64(head):
                    tied[found] = lot
                    found += 1
    last = np.sort(tied)[keep - before - 1]
    write, start = 0, 0
    for r in range(n):
        stop = indptr[r + 1]
        for e in range(start, stop):
            if _lot(r, indices[e], n, seed) <= last:
                indices[write] = indices[e]
                write += 1
        start = stop
        indptr[r + 1] = write
    return write
