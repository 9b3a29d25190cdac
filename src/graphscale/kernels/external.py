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
