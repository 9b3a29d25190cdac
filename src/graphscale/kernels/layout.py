"""Compiled passes over CSR arrays. Each is one sweep over the entries; none holds the interpreter lock."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[Any]


@njit(nogil=True, cache=True)
def _transpose(indptr: Ints, indices: Ints, t_indptr: Ints, t_indices: Ints, entry: Ints) -> None:
    num_cols = len(t_indptr) - 1
    for e in range(len(indices)):
        t_indptr[indices[e] + 1] += 1
    for c in range(num_cols):
        t_indptr[c + 1] += t_indptr[c]
    fill = t_indptr[:-1].copy()
    for r in range(len(indptr) - 1):
        for e in range(indptr[r], indptr[r + 1]):
            c = indices[e]
            t_indices[fill[c]] = r
            entry[fill[c]] = e
            fill[c] += 1


def transpose_entries(indptr: Ints, indices: Ints, num_cols: int) -> tuple[Ints, Ints, Ints]:
    """Counting sort by column: (indptr, indices, entry) of the transpose, rows sorted within a column."""
    t_indptr = np.zeros(num_cols + 1, dtype=indptr.dtype)
    t_indices = np.empty(len(indices), dtype=indices.dtype)
    entry = np.empty(len(indices), dtype=np.int64)
    _transpose(indptr, indices, t_indptr, t_indices, entry)
    return t_indptr, t_indices, entry


@njit(nogil=True, cache=True)
def _induced(
    indptr: Ints, indices: Ints, part_ptr: Ints, parts: Ints, part_of: Ints, shift: Ints,
    out_ptr: Ints, out_indices: Ints, out_entry: Ints,
) -> int:  # fmt: skip
    want_entry = len(out_entry) > 0
    row, kept = 0, 0
    for k in parts:
        for r in range(part_ptr[k], part_ptr[k + 1]):
            for e in range(indptr[r], indptr[r + 1]):
                c = indices[e]
                move = shift[part_of[c]]
                if move >= 0:
                    out_indices[kept] = c - part_ptr[part_of[c]] + move
                    if want_entry:
                        out_entry[kept] = e
                    kept += 1
            row += 1
            out_ptr[row] = kept
    return kept


def induced_by_parts(
    indptr: Ints, indices: Ints, part_ptr: Ints, part_of: Ints, parts: Ints, want_entry: bool
) -> tuple[Ints, Ints, Ints]:
    """The square block of the rows and columns of the given parts, columns relabelled to the block.

    Nodes lie in part order, so a column's new place is arithmetic on its part: no table of N
    places is filled or searched. Costs the entries of the chosen rows.

    Args:
        part_ptr: [P + 1] rows of part k are part_ptr[k]:part_ptr[k + 1].
        part_of: [N] part of every node.
        parts: [q] chosen parts; the block's rows follow their order.
        want_entry: also return the position of every kept entry in ``indices``.
    """
    sizes = part_ptr[parts + 1] - part_ptr[parts]
    shift = np.full(len(part_ptr) - 1, -1, dtype=np.int64)
    shift[parts] = np.cumsum(sizes) - sizes
    bound = int((indptr[part_ptr[parts + 1]] - indptr[part_ptr[parts]]).sum())
    out_ptr = np.zeros(int(sizes.sum()) + 1, dtype=indptr.dtype)
    out_indices = np.empty(bound, dtype=indices.dtype)
    out_entry = np.empty(bound if want_entry else 0, dtype=np.int64)
    kept = _induced(indptr, indices, part_ptr, parts, part_of, shift, out_ptr, out_indices, out_entry)
    return out_ptr, out_indices[:kept], out_entry[:kept]


@njit(nogil=True, cache=True)
def _boundary(indptr: Ints, indices: Ints, part: Ints, order: Ints, part_ptr: Ints) -> tuple[int, int, int]:
    stamp = np.full(len(indptr) - 1, -1, dtype=np.int64)
    inside, cut, halo = 0, 0, 0
    for k in range(len(part_ptr) - 1):
        for i in range(part_ptr[k], part_ptr[k + 1]):
            r = order[i]
            for e in range(indptr[r], indptr[r + 1]):
                c = indices[e]
                if part[c] != k:
                    cut += 1
                    if stamp[c] != k:
                        stamp[c] = k
                        halo += 1
                elif c != r:
                    inside += 1
    return inside, cut, halo


def boundary(indptr: Ints, indices: Ints, part: Ints, order: Ints, part_ptr: Ints) -> tuple[int, int, int]:
    """Of a partition: entries inside clusters (loops apart), entries between, and halo nodes over clusters.

    A cluster's halo is the set of sources outside it of its nodes' entries.
    """
    inside, cut, halo = _boundary(indptr, indices, part, order, part_ptr)
    return int(inside), int(cut), int(halo)


@njit(nogil=True, cache=True)
def _permuted_rows(indptr: Ints, indices: Ints, rows: Ints, rank: Ints, column: Ints, entry: Ints) -> None:
    kept = 0
    for r in rows:
        start = kept
        for e in range(indptr[r], indptr[r + 1]):
            column[kept] = rank[indices[e]]
            entry[kept] = e
            kept += 1
        by = np.argsort(column[start:kept], kind="mergesort")
        column[start:kept] = column[start:kept][by]
        entry[start:kept] = entry[start:kept][by]


def permuted_rows(indptr: Ints, indices: Ints, rows: Ints, rank: Ints) -> tuple[Ints, Ints]:
    """Entries of ``rows`` with column c renamed ``rank[c]``, sorted within a row, and where each came from."""
    total = int((indptr[rows + 1] - indptr[rows]).sum())
    column, entry = np.empty(total, dtype=indices.dtype), np.empty(total, dtype=np.int64)
    _permuted_rows(indptr, indices, rows, rank, column, entry)
    return column, entry


@njit(nogil=True, cache=True)
def count_among(indptr: Ints, indices: Ints, rows: Ints, place: Ints, loops: bool) -> Ints:
    """[len(rows) + 1] indptr of the entries of ``rows`` whose column c has a place[c] >= 0, with loops or without."""
    out = np.zeros(len(rows) + 1, dtype=np.int64)
    for i in range(len(rows)):
        r = rows[i]
        kept = 0
        for e in range(indptr[r], indptr[r + 1]):
            c = indices[e]
            kept += place[c] >= 0 and (loops or c != r)
        out[i + 1] = out[i] + kept
    return out


@njit(nogil=True, cache=True)
def fill_among(
    indptr: Ints, indices: Ints, rows: Ints, place: Ints, loops: bool, out_indices: Ints, out_entry: Ints
) -> None:  # fmt: skip
    """The places of the columns that ``count_among`` counted, and, unless ``out_entry`` is empty, where each was."""
    kept = 0
    for r in rows:
        for e in range(indptr[r], indptr[r + 1]):
            c = indices[e]
            if place[c] >= 0 and (loops or c != r):
                out_indices[kept] = place[c]
                if len(out_entry):
                    out_entry[kept] = e
                kept += 1


@njit(nogil=True, cache=True)
def loop_entries(indptr: Ints, indices: Ints) -> Ints:
    """[rows] the position of every row's entry on the diagonal, -1 where there is none."""
    out = np.full(len(indptr) - 1, -1, dtype=np.int64)
    for r in range(len(out)):
        for e in range(indptr[r], indptr[r + 1]):
            if indices[e] == r:
                out[r] = e
    return out


@njit(nogil=True, cache=True)
def row_totals(indptr: Ints, values: NDArray[Any]) -> NDArray[Any]:
    """[rows] float64 sum of every row's values."""
    out = np.zeros(len(indptr) - 1)
    for r in range(len(out)):
        for e in range(indptr[r], indptr[r + 1]):
            out[r] += values[e]
    return out


@njit(nogil=True, cache=True)
def count_loops(indptr: Ints, indices: Ints) -> int:
    """Entries on the diagonal."""
    loops = 0
    for r in range(len(indptr) - 1):
        for e in range(indptr[r], indptr[r + 1]):
            loops += indices[e] == r
    return loops


@njit(nogil=True, cache=True)
def looped(indptr: Ints, indices: Ints, loops: int, wanted: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """(indptr, indices) with one entry on the diagonal of every wanted row, its last; ``loops`` lie there already."""
    rows = len(indptr) - 1
    out_ptr, out = np.empty_like(indptr), np.empty(len(indices) - loops + wanted.sum(), dtype=indices.dtype)
    out_ptr[0], kept = 0, 0
    for r in range(rows):
        for e in range(indptr[r], indptr[r + 1]):
            if indices[e] != r:
                out[kept] = indices[e]
                kept += 1
        if wanted[r]:
            out[kept] = r
            kept += 1
        out_ptr[r + 1] = kept
    return out_ptr, out
