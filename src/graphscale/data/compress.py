"""Compressed rows on disk from a stream of entries that can be run through twice: a counting sort through files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from graphscale.csr import Csr, index_dtype
from graphscale.kernels.external import looks_symmetric, place_entries, sort_and_merge

Chunk = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def compress(entries: Callable[[], Iterator[Chunk]], count: int, weighted: bool, work: Path) -> tuple[Csr, int]:
    """The matrix of a stream of entries, and how many duplicates were merged.

    Args:
        entries: begins the stream of (row, column, value or None) chunks; it is run through twice.
        count: rows and columns.
        weighted: whether entries have values.
        work: a folder; the matrix reads from files in it as long as it is used.
    """
    degree = np.zeros(count, dtype=np.int64)
    for row, _, _ in entries():
        degree += np.bincount(row, minlength=count)
    total = int(degree.sum())
    dtype = torch.empty(0, dtype=index_dtype(count, total)).numpy().dtype
    indptr = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(degree, out=indptr[1:])
    indices = np.memmap(work / "indices", dtype=dtype, mode="w+", shape=(total,))
    none = np.empty(0, dtype=np.float32)
    values = np.memmap(work / "values", dtype=np.float32, mode="w+", shape=(total,)) if weighted else none
    cursor = indptr[:-1].copy()
    for row, col, weight in entries():
        place_entries(row, col, none if weight is None else weight, cursor, indices, values)
    left = int(sort_and_merge(indptr, indices, values))
    symmetric = looks_symmetric(indptr, indices[:left], values[:left])
    adj = Csr(
        torch.from_numpy(indptr.astype(dtype)),
        torch.from_numpy(np.asarray(indices[:left])),
        torch.from_numpy(np.asarray(values[:left])) if weighted else None,
        count,
        symmetric,
    )
    return adj, total - left
