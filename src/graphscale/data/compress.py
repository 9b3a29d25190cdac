"""Compressed rows on disk from a stream of entries that can be run through twice: a counting sort through files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphscale import scratch
from graphscale.csr import Csr, index_dtype
from graphscale.errors import InputError
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
    indices = _file(work / "indices", dtype, total)
    values = _file(work / "values", np.dtype(np.float32), total if weighted else 0)
    cursor = indptr[:-1].copy()
    for row, col, weight in entries():
        place_entries(row, col, values[:0] if weight is None else weight, cursor, indices, values)
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


def _file(path: Path, dtype: np.dtype[Any], count: int) -> np.ndarray:
    """An array of a new file, whose room is there before anything is written to it."""
    if count == 0:
        return np.empty(0, dtype=dtype)
    try:
        with open(path, "wb") as file:
            scratch.reserve(file.fileno(), count * dtype.itemsize)
    except OSError as error:
        raise InputError(
            f"no room for {count * dtype.itemsize / 1e6:,.0f} MB of edges in {path.parent} ({error.strerror})."
            " Free some, or make the store on another disk (--to)."
        ) from error
    return np.memmap(path, dtype=dtype, mode="r+", shape=(count,))
