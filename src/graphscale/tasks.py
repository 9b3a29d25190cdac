"""Samples by task: what a recommender is trained on. A task is a user, a scene, an advertiser.

T tasks, R records, D dense numbers and K slots of ids a record. A record is W = 1 + D + K words of four bytes: its
label, dense numbers, ids. A task's records lie side by side, those of its support first; tasks of a part (train,
val, test, ...) lie side by side. So a batch of tasks is one slice.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphscale.errors import InputError

TRAIN = "train"
EMPTY = -1  # a slot that holds no id
UNKNOWN = 0  # the row, in every table, of values that training has not


@dataclass(frozen=True)
class Field:
    """A feature of ids: one slot, or the slots of a bag."""

    name: str
    table: str
    width: int = 1

    @property
    def bag(self) -> bool:
        """Whether a record has several values of it, of which the mean row is taken."""
        return self.width > 1


@dataclass(frozen=True)
class Layout:
    """What the words of a record are, and where the rows of its ids lie: all tables are one space of rows.

    Fields of one slot come before bags.
    """

    dense: tuple[str, ...]
    fields: tuple[Field, ...]
    tables: Mapping[str, int]  # name -> rows, in the order in which they lie in the space

    def __post_init__(self) -> None:
        widths = [field.width for field in self.fields]
        if (
            sorted(field.bag for field in self.fields) != [field.bag for field in self.fields]
            or min(widths, default=1) < 1
        ):
            raise InputError("fields of one slot come before bags, and have a slot at least. Order them so.")
        missing = {field.table for field in self.fields} - set(self.tables)
        if missing:
            raise InputError(f"no size of the tables {', '.join(sorted(missing))} is given. Give their rows.")

    @property
    def words(self) -> int:
        """W."""
        return 1 + len(self.dense) + self.slots

    @functools.cached_property
    def starts(self) -> tuple[int, ...]:
        """[F + 1] first slot of every field."""
        return tuple(np.cumsum([0, *(field.width for field in self.fields)]).tolist())

    @property
    def slots(self) -> int:
        """K."""
        return self.starts[-1]

    @property
    def singles(self) -> int:
        """Fields of one slot."""
        return sum(not field.bag for field in self.fields)

    @functools.cached_property
    def num_rows(self) -> int:
        """Rows of all tables."""
        return sum(self.tables.values())

    @functools.cached_property
    def firsts(self) -> np.ndarray:
        """[K] int64: number of the first row of a slot's table."""
        ends = dict(zip(self.tables, np.cumsum([0, *self.tables.values()]).tolist(), strict=False))
        return np.array([ends[field.table] for field in self.fields for _ in range(field.width)], dtype=np.int64)

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """[K] int64: rows of a slot's table."""
        return np.array([self.tables[f.table] for f in self.fields for _ in range(f.width)], dtype=np.int64)

    @functools.cached_property
    def stride(self) -> int:
        """Row number n of the space lies at ``n * stride % num_rows``: neighbours lie far apart.

        Rows are shared out to ranks in ranges. A table of frequent ids would lie with one rank; so it lies with all.
        """
        return stride_of(self.num_rows)

    def rows(self, ids: Tensor) -> Tensor:
        """[..., K] ids of slots as rows of the space; empty slots stay empty."""
        there = (ids.long() + torch.from_numpy(self.firsts)) * self.stride % self.num_rows
        return torch.where(ids < 0, ids.long(), there)


def stride_of(num_rows: int) -> int:
    """About the golden share of ``num_rows``, and without a common factor with it."""
    stride = max(1, round(0.6180339887 * num_rows))
    while math.gcd(stride, num_rows) != 1:
        stride += 1
    return stride


def in_order(rows: Tensor) -> Tensor:
    """[num_rows, d] rows as they lie, in the order of their numbers in the space."""
    size = rows.shape[0]
    return rows[torch.arange(size) * stride_of(size) % size]


@dataclass(frozen=True)
class Tasks:
    """Tasks and their records."""

    layout: Layout
    records: Tensor  # [R, W] int32; labels and dense numbers are the bits of float32
    offset: Tensor  # [T + 1] int64: task t has records offset[t]:offset[t + 1]
    support: Tensor  # [T] int64: so many of them, the first ones, are its support
    parts: Mapping[str, tuple[int, int]]  # name -> tasks first:end
    identity: str
    path: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.support.numel()

    @property
    def num_records(self) -> int:
        """R."""
        return self.records.shape[0]

    def numbers(self, part: str) -> Tensor:
        """Tasks of a part."""
        first, end = self.parts[part]
        return torch.arange(first, end)

    def labels(self, first: int, end: int) -> Tensor:
        """[end - first] float32: labels of records."""
        return self.records[first:end, 0].contiguous().view(torch.float32)

    def span(self, part: str) -> tuple[int, int]:
        """Records of a part."""
        first, end = self.parts[part]
        return int(self.offset[first]), int(self.offset[end])

    def mean_label(self, part: str = TRAIN) -> float:
        """Mean label of a part, in blocks."""
        first, end = self.span(part)
        total = sum(float(self.labels(a, b).double().sum()) for a, b in blocks(first, end))
        return total / max(1, end - first)


def blocks(first: int, end: int, size: int = 1 << 20) -> Iterator[tuple[int, int]]:
    """Ranges of records, a million at a time."""
    return ((a, min(a + size, end)) for a in range(first, end, size))


def words(label: np.ndarray, dense: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """[n, W] int32: records of labels [n], dense numbers [n, D] and ids [n, K]."""
    floats = np.concatenate([label[:, None], dense], axis=1, dtype=np.float32)
    return np.concatenate([floats.view(np.int32), ids.astype(np.int32)], axis=1)


def in_memory(
    layout: Layout, records: np.ndarray, offset: np.ndarray, support: np.ndarray, parts: Mapping[str, tuple[int, int]]
) -> Tasks:
    """Tasks of arrays, checked.

    Raises:
        InputError: where they do not fit together.
    """
    digest = hashlib.blake2b(digest_size=16)
    for array in (records, offset, support):
        digest.update(np.ascontiguousarray(array).data)
    made = Tasks(
        layout, torch.from_numpy(records), torch.from_numpy(offset), torch.from_numpy(support), dict(parts),
        digest.hexdigest(),
    )  # fmt: skip
    demand_sound(made)
    return made


def demand_sound(tasks: Tasks) -> None:
    """Refuse tasks whose arrays disagree: compiled code relies on them. One pass over the index, none over records.

    Raises:
        InputError: naming what is wrong.
    """
    offset, support = tasks.offset, tasks.support
    ends = list(tasks.parts.values())
    wrong = [
        name
        for name, sound in (
            ("records", tasks.records.dim() == 2 and tasks.records.shape[1] == tasks.layout.words),
            ("offset", offset.numel() == support.numel() + 1 and int(offset[0]) == 0),
            ("offset", int(offset[-1]) == tasks.records.shape[0] and bool((offset.diff() >= 0).all())),
            ("support", bool(((support >= 0) & (support <= offset.diff())).all())),
            ("parts", TRAIN in tasks.parts and all(0 <= a <= b <= support.numel() for a, b in ends)),
        )
        if not sound
    ]
    if wrong:
        raise InputError(
            f"the tasks are inconsistent in {', '.join(sorted(set(wrong)))}: they are damaged. Prepare them again."
        )
