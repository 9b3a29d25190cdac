"""Rows of (column, value) entries: adjacency, a batch's block, sparse features: one layout for all.

Row i of an adjacency lists the *sources* of node i's incoming edges, so a product with it gathers
from the neighbours. Indices are int32 wherever rows, columns and entries allow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from graphscale.kernels.layout import count_loops, looped, row_totals, transpose_entries

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Csr:
    """A sparse [rows, cols] matrix; frozen, so its transpose is computed once and kept.

    ``values`` of None means that every entry is 1. ``symmetric`` promises that the matrix, values
    included, equals its transpose (the readers check; the blocks of a symmetric matrix inherit it).
    """

    indptr: Tensor  # [rows + 1]
    indices: Tensor  # [entries] column of every entry; sorted within a row in what is read or stored
    values: Tensor | None  # [entries]
    num_cols: int
    symmetric: bool = False
    degrees: Tensor | None = None  # [rows, 2] entries, sum of values in the graph: for blocks whose rows are cut off

    @property
    def num_rows(self) -> int:
        """Rows."""
        return self.indptr.numel() - 1

    @property
    def num_entries(self) -> int:
        """Stored entries."""
        return self.indices.numel()

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.num_rows, self.num_cols

    @property
    def device(self) -> torch.device:
        """Where the matrix lies."""
        return self.indices.device

    @cached_property
    def row_of(self) -> Tensor:
        """[entries] row of every entry, int64."""
        return torch.repeat_interleave(torch.arange(self.num_rows, device=self.device), self.indptr.diff().long())

    @cached_property
    def transposed(self) -> tuple[Csr, Tensor]:
        """The transpose, and [entries] the place here of every entry there."""
        if self.device.type == "cpu":
            arrays = transpose_entries(self.indptr.numpy(), self.indices.numpy(), self.num_cols)
            indptr, indices, entry = (torch.from_numpy(a) for a in arrays)
        else:
            entry = self.indices.argsort(stable=True)
            indices = self.row_of[entry].to(self.indices.dtype)
            counts = torch.bincount(self.indices, minlength=self.num_cols)
            indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(self.indptr.dtype)
        values = None if self.values is None else self.values[entry]
        return Csr(indptr, indices, values, self.num_rows), entry

    @property
    def t(self) -> Csr:
        """The transpose: the matrix itself where it is symmetric."""
        return self if self.symmetric else self.transposed[0]

    def with_values(self, values: Tensor | None) -> Csr:
        """The same pattern with other values; a transpose already computed is reordered, not redone."""
        # Degrees of the graph are known for its own values and for none, not for any other ones.
        degrees = self.degrees if values is None else None
        new = replace(self, values=values, symmetric=self.symmetric and values is None, degrees=degrees)
        if "transposed" in self.__dict__ or not new.symmetric:
            transposed, entry = self.transposed
            moved = None if values is None else values[entry]
            new.__dict__["transposed"] = (replace(transposed, values=moved), entry)
        return new

    def degree(self) -> Tensor:
        """[rows] float64 sum of a row's values, the number of its entries where all are 1: the graph's, where known."""
        if self.degrees is not None:
            return self.degrees[:, 0 if self.values is None else 1]
        if self.values is None:
            return self.indptr.diff().double()
        if self.device.type == "cpu":
            return torch.from_numpy(row_totals(self.indptr.numpy(), self.values.detach().numpy()))
        out = torch.zeros(self.num_rows, dtype=torch.float64, device=self.device)
        return out.index_add_(0, self.row_of, self.values.double())

    def rows(self, start: int, stop: int) -> Csr:
        """Rows start:stop as views of the same memory."""
        lo, hi = int(self.indptr[start]), int(self.indptr[stop])
        values = None if self.values is None else self.values[lo:hi]
        return Csr(self.indptr[start : stop + 1] - lo, self.indices[lo:hi], values, self.num_cols)

    def entries_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the entries of ``rows``, in that order, and the indptr of the selection."""
        lengths = self.indptr.diff()[rows].long()
        ptr = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        start = self.indptr[:-1][rows].long()
        entry = torch.repeat_interleave(start - ptr[:-1], lengths) + torch.arange(int(ptr[-1]), device=self.device)
        return entry, ptr

    def take(self, rows: Tensor) -> Csr:
        """Any rows, in any order."""
        entry, ptr = self.entries_of(rows)
        values = None if self.values is None else self.values[entry]
        return Csr(ptr.to(self.indptr.dtype), self.indices[entry], values, self.num_cols)

    def without_loops(self) -> Csr:
        """The same square matrix without its diagonal."""
        return self.select(self.row_of != self.indices) if self.has_loops() else self

    def with_diagonal(self, rows: Tensor | None = None) -> Csr:
        """The pattern of the same square matrix with exactly one entry a row on the diagonal, the row's last.

        Args:
            rows: [rows] bool, those that get it, the others losing theirs; default all.
        """
        if self.device.type == "cpu":
            own = self.indptr.numpy(), self.indices.numpy()
            wanted = torch.ones(self.num_rows, dtype=torch.bool) if rows is None else rows
            arrays = looped(*own, count_loops(*own), wanted.numpy())
            return Csr(torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1]), None, self.num_cols, self.symmetric)
        return self._looped_on_any_device(rows)

    def _looped_on_any_device(self, rows: Tensor | None) -> Csr:
        rest = replace(self, values=None, degrees=None).select(self.row_of != self.indices)
        chosen = torch.arange(rest.num_rows, device=self.device) if rows is None else rows.nonzero()[:, 0]
        ends = torch.zeros(rest.num_rows + 1, dtype=torch.int64, device=self.device)
        ends[chosen + 1] = 1
        ends = ends.cumsum(0)  # diagonal entries before every row
        place = torch.arange(rest.num_entries, device=self.device) + ends[rest.row_of]
        indices = rest.indices.new_empty(rest.num_entries + chosen.numel())
        diagonal = torch.ones_like(indices, dtype=torch.bool)
        diagonal[place] = False
        indices[place], indices[diagonal] = rest.indices, chosen.to(indices.dtype)
        return Csr(rest.indptr + ends.to(rest.indptr.dtype), indices, None, self.num_cols, rest.symmetric)

    def has_loops(self) -> bool:
        """Whether an entry lies on the diagonal."""
        if self.device.type != "cpu":
            return bool((self.row_of == self.indices).any())
        return bool(count_loops(self.indptr.numpy(), self.indices.numpy()))

    def select(self, keep: Tensor) -> Csr:
        """Only the entries where ``keep`` ([entries] bool) holds; rows and columns stay."""
        counts = torch.zeros(self.num_rows, dtype=torch.int64, device=self.device)
        counts.index_add_(0, self.row_of[keep], torch.ones_like(self.row_of[keep]))
        ptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(self.indptr.dtype)
        values = None if self.values is None else self.values[keep]
        return replace(self, indptr=ptr, indices=self.indices[keep], values=values, degrees=None)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[rows, cols]; entries of the same place add up."""
        out = torch.zeros(self.shape, dtype=dtype, device=self.device)
        ones = torch.ones((), dtype=dtype, device=self.device).expand(self.num_entries)
        values = ones if self.values is None else self.values.to(dtype)
        return out.index_put_((self.row_of, self.indices.long()), values, accumulate=True)

    def to(self, device: torch.device) -> Csr:
        """A copy on ``device``, or this very matrix where it lies there already."""
        if self.device == device:
            return self
        values = None if self.values is None else self.values.to(device)
        degrees = None if self.degrees is None else self.degrees.to(device)
        return Csr(self.indptr.to(device), self.indices.to(device), values, self.num_cols, self.symmetric, degrees)

    def check_symmetric(self) -> bool:
        """Whether the matrix equals its transpose, values included."""
        if self.num_rows != self.num_cols:
            return False
        other = self.transposed[0]
        same = torch.equal(self.indptr, other.indptr) and torch.equal(self.indices, other.indices)
        if not same or self.values is None or other.values is None:
            return same
        return torch.equal(self.values, other.values)


def index_dtype(*sizes: int) -> torch.dtype:
    """int32 where all sizes fit, int64 otherwise."""
    return torch.int32 if max(sizes, default=0) <= _INT32_MAX else torch.int64


def from_entries(row: Tensor, col: Tensor, shape: tuple[int, int], values: Tensor | None = None) -> tuple[Csr, Tensor]:
    """A matrix from unsorted entries, and the order ([entries]) in which they were taken."""
    num_rows, num_cols = shape
    # One 64-bit key sorts by row, then column; N below 3e9 keeps it in range.
    order = (row.long() * num_cols + col.long()).argsort(stable=True)
    dtype = index_dtype(num_rows, num_cols, row.numel())
    counts = torch.bincount(row.long(), minlength=num_rows)
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(dtype)
    taken = None if values is None else values[order]
    return Csr(indptr, col[order].to(dtype), taken, num_cols), order


def merge_duplicates(matrix: Csr) -> tuple[Csr, int]:
    """One entry per place, and how many were merged away: values add up, a pattern stays a pattern."""
    row, col = matrix.row_of, matrix.indices
    if matrix.num_entries == 0:
        return matrix, 0
    first = torch.ones(matrix.num_entries, dtype=torch.bool)
    first[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
    merged = matrix.num_entries - int(first.sum())
    if merged == 0:
        return matrix, 0
    unique = matrix.select(first)
    if matrix.values is None:
        return unique, merged
    values = torch.zeros(unique.num_entries, dtype=matrix.values.dtype)
    values.index_add_(0, first.cumsum(0) - 1, matrix.values)
    return replace(unique, values=values), merged


def symmetrised(matrix: Csr) -> Csr:
    """A + A^T without loops (of a pattern: A or A^T): what a partitioner needs."""
    row, col = matrix.row_of, matrix.indices.long()
    values = None if matrix.values is None else torch.cat([matrix.values, matrix.values])
    both, _ = from_entries(torch.cat([row, col]), torch.cat([col, row]), matrix.shape, values)
    return replace(merge_duplicates(both)[0].without_loops(), symmetric=True)


def from_scipy_arrays(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray | None, num_cols: int) -> Csr:
    """A matrix from NumPy arrays, copied to the house's index type."""
    dtype = index_dtype(len(indptr), num_cols, len(indices))
    values = None if data is None else torch.from_numpy(np.array(data))
    return Csr(
        torch.from_numpy(np.array(indptr)).to(dtype),
        torch.from_numpy(np.array(indices)).to(dtype),
        values,
        num_cols,
    )
