"""Records of whole tasks as batches: padded blocks of tasks of about one size, their ids numbered over the step.

T tasks of a block; s the largest support, n = s + the largest query; D dense numbers, K slots; u distinct rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphscale.errors import InputError
from graphscale.kernels.sorting import ascending
from graphscale.kernels.task_loops import MOST, by_task, places, renumbered, shuffled, unpacked
from graphscale.tasks import Tasks

EMBEDDING = "embedding"  # the table's name


@dataclass(frozen=True)
class Block:
    """Tasks of about one size, padded to the largest."""

    tasks: Tensor  # [T] numbers
    shown: Tensor  # [T] records of the support
    asked: Tensor  # [T] queries
    width: int  # s
    y: Tensor  # [T, n] support in :s, queries in s:
    dense: Tensor  # [T, n, D]
    ids: Tensor  # [T, n, K] places among the step's rows, or among the task's ``own``; -1 empty
    own: Tensor | None  # [T, v] places among the step's rows of what task t has, where every task adapts copies
    whole: bool  # every record has an id in every slot, and no field is a bag

    @property
    def size(self) -> int:
        """T."""
        return self.tasks.numel()

    def present(self) -> Tensor:
        """[T, n] bool: places that hold a record."""
        place = torch.arange(self.y.shape[1], device=self.y.device)
        support = place < self.shown[:, None]
        return torch.where(place < self.width, support, place - self.width < self.asked[:, None])

    def to(self, device: torch.device) -> Block:
        """The same block on a device; numbers of tasks stay with the host."""
        names = ("shown", "asked", "y", "dense", "ids")
        own = None if self.own is None else self.own.to(device)
        return replace(self, **{name: getattr(self, name).to(device) for name in names}, own=own)


@dataclass(frozen=True)
class TaskBatch:
    """Tasks of a step. Law: a task is whole, and is in one batch of one rank."""

    blocks: tuple[Block, ...]
    rows: Tensor  # [u] ascending rows of the space
    seed: int
    count: int  # tasks
    needs: Mapping[str, Tensor] = field(default_factory=dict)
    padding: bool = False

    @property
    def records(self) -> int:
        """Records of all its tasks that are seen."""
        return sum(int((block.shown + block.asked).sum()) for block in self.blocks)

    def to(self, device: torch.device) -> TaskBatch:
        """The same batch on a device; rows of the table stay with the host."""
        if not self.blocks or self.blocks[0].y.device == device:
            return self
        return replace(self, blocks=tuple(block.to(device) for block in self.blocks))


@dataclass
class Meter:
    """What reading took, by the thread that reads."""

    read: float = 0.0  # seconds until the words are in memory
    decode: float = 0.0  # seconds
    bytes: int = 0
    ids: int = 0  # slots that hold an id
    distinct: int = 0


class Decoder:
    """Ranges of tasks as batches.

    Args:
        private: every task adapts its own copies of rows, so ids are numbered within it.
        shots: most records of a support that are shown, the last ones; None shows all.
        redraw: share of a task's records that are drawn as its queries anew for every batch; 0 keeps the store's. All
            records of training are then learned from, in place of the queries alone.
        spare: places of padding that are worth a block of their own.
    """

    def __init__(
        self, tasks: Tasks, *, private: bool = False, shots: int | None = None, redraw: float = 0.0, spare: int = 1024
    ) -> None:  # fmt: skip
        self.tasks, self.private, self.shots, self.redraw, self.spare = tasks, private, shots, redraw, spare
        self.meter = Meter()
        self._offset, self._support = tasks.offset.numpy(), tasks.support.numpy()

    def batch(self, first: int, end: int, *, seed: int = 0) -> TaskBatch:
        """Tasks ``first:end``, which are one slice of the file.

        Raises:
            InputError: where an id is outside its table.
        """
        low, high = int(self._offset[first]), int(self._offset[end])
        began = time.perf_counter()
        words = self.tasks.records[low:high].numpy()
        if words.size:
            words[:: max(1, 4096 // words[:1].nbytes), 0].max()  # the pages come in here, in order
        self.meter.read += time.perf_counter() - began
        self.meter.bytes += words.nbytes
        begins = self._offset[first:end] - low
        support = self._support[first:end]
        asked = self._offset[first + 1 : end + 1] - self._offset[first:end] - support
        began = time.perf_counter()
        made = self.decoded(words, begins, support, asked, torch.arange(first, end), seed=seed)
        self.meter.decode += time.perf_counter() - began
        return made

    def decoded(
        self, words: np.ndarray, begins: np.ndarray, support: np.ndarray, asked: np.ndarray, numbers: Tensor, *,
        seed: int = 0,
    ) -> TaskBatch:  # fmt: skip
        """The batch of some words.

        Args:
            words: [R, W].
            begins: [T] first record of each task.
            support: [T] records of its support, which come first.
            asked: [T] queries, which follow.

        Raises:
            InputError: where an id is outside its table.
        """
        if self.redraw:
            sizes = support + asked
            order = shuffled(begins, sizes, seed)
            asked = np.clip(np.rint(self.redraw * sizes).astype(np.int64), 1, np.maximum(1, sizes - 1))
            support = sizes - asked
        else:
            order = np.arange(len(words))
        shown = support if self.shots is None else np.minimum(support, self.shots)
        most = int((shown + asked).sum()) * self.tasks.layout.slots
        if most >= MOST:
            raise InputError(
                f"a step has {most} ids, and there is room for {MOST - 1} distinct ones. Lower --tasks-per-step."
            )
        table, found, count, there, blocks = places(most), np.empty(most, dtype=np.int64), 0, 0, []
        for some in grouped(shown, asked, self.spare):
            how = (begins[some], shown[some], asked[some], (support - shown)[some])
            block, count, filled = self._block(words, order, how, numbers[some], (table, found, count))
            there += filled
            blocks.append(block)
        rows = self._renumbered(blocks, found[:count])
        self.meter.ids, self.meter.distinct = self.meter.ids + there, self.meter.distinct + len(rows)
        blocks = [self._finished(block, len(rows), whole=there == most) for block in blocks]
        return TaskBatch(tuple(blocks), rows, seed, len(begins), needs={EMBEDDING: rows})

    def _block(
        self, words: np.ndarray, order: np.ndarray, how: tuple[np.ndarray, ...], numbers: Tensor, met: tuple[Any, ...]
    ) -> tuple[Block, int, int]:
        """Some tasks, how many rows were met by then, and slots with an id; ids are numbers in the order of meeting."""
        layout, (begins, shown, asked, skip) = self.tasks.layout, how
        width = int(shown.max())
        size, n = len(begins), width + int(asked.max())
        y = np.zeros((size, n), dtype=np.int32)
        dense = np.zeros((size, n, len(layout.dense)), dtype=np.int32)
        ids = np.full((size, n, layout.slots), -1, dtype=np.int32)
        count, filled = unpacked(
            words, order, begins, shown, asked, skip, width, layout.firsts, layout.sizes, y, dense, ids, *met
        )
        if count < 0:
            raise InputError(
                "a record has an id that its table has no row for: the store is damaged, or was written with other"
                " sizes of tables than its manifest says. Prepare it again."
            )
        block = Block(
            numbers, torch.from_numpy(shown), torch.from_numpy(asked), width, torch.from_numpy(y.view(np.float32)),
            torch.from_numpy(dense.view(np.float32)), torch.from_numpy(ids), None, False,
        )  # fmt: skip
        return block, count, filled

    def _renumbered(self, blocks: list[Block], found: np.ndarray) -> Tensor:
        """Ascending rows where they lie; ids become places among them."""
        layout = self.tasks.layout
        there = found * layout.stride % layout.num_rows
        order = ascending(there, layout.num_rows - 1)
        there = there[order]
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        for block in blocks:
            renumbered(block.ids.numpy().reshape(-1), rank)
        return torch.from_numpy(there)

    def _finished(self, block: Block, count: int, *, whole: bool) -> Block:
        """The block with ids of its tasks' own, where they have copies, and what is known of its slots."""
        layout, own = self.tasks.layout, None
        if self.private:
            shape = block.ids.shape
            own = torch.from_numpy(by_task(block.ids.numpy().reshape(shape[0], shape[1] * shape[2]), count))
        return replace(block, own=own, whole=whole and layout.singles == len(layout.fields))


def grouped(shown: np.ndarray, asked: np.ndarray, spare: int) -> list[np.ndarray]:
    """Tasks in blocks, the larger ones first: one begins where its tasks then save ``spare`` places of padding."""
    sizes = shown + asked
    order = np.argsort(-sizes, kind="stable")
    out, start = [], 0
    while start < len(order):
        rest = order[start:]
        saved = (sizes[rest[0]] - sizes[rest]) * np.arange(len(rest), 0, -1)  # by a new block that begins there
        best = int(saved.argmax())
        end = start + best if saved[best] >= spare else len(order)
        out.append(order[start:end])
        start = end
    return out
