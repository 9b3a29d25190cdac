"""Batches of whole tasks, read in order (Meta-IO): a batch is a slice of the file, and so is a rank's share.

| Meta-IO of G-Meta (CIKM 2023)                    | here                                                  |
|--------------------------------------------------|-------------------------------------------------------|
| records of a task side by side, fixed width      | ``tasks.Tasks``, ``store.tasks``                      |
| batches shuffled, not records                    | ``TaskReader.epoch``: an order of slices              |
| GroupBatch: whole tasks only                     | a batch is a range of tasks, a share a range of it    |
| decode and de-duplicate ahead of the step        | ``loop`` runs ``epoch`` in a thread (``prefetch``)    |

Which tasks a step has is a function of (seed, epoch) alone; ranks share them out as the world is large. So another
number of ranks makes the same steps, and may go on in the middle of an epoch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from graphscale import rng
from graphscale.batches.task_decoder import Decoder, TaskBatch
from graphscale.tasks import TRAIN, Tasks
from graphscale.world import World


class TaskReader:
    """The training tasks in batches, shuffled as slices every epoch.

    Args:
        decoder: makes batches.
        size: tasks a step, of all ranks together.
        part: what is read.
        shuffled: an order by (seed, epoch); else that of the file.
    """

    def __init__(
        self, decoder: Decoder, size: int, *, part: str = TRAIN, seed: int = 0, world: World | None = None,
        shuffled: bool = True,
    ) -> None:  # fmt: skip
        self.decoder, self.size, self.seed, self.world, self.shuffled = decoder, size, seed, world or World(), shuffled
        self.first, self.end = decoder.tasks.parts[part]
        self._file = _opened(decoder.tasks)

    def __len__(self) -> int:
        """Steps an epoch, the same on every rank."""
        return -(-(self.end - self.first) // self.size)

    def order(self, index: int) -> np.ndarray:
        """Slices of an epoch in the order of its steps."""
        if not self.shuffled:
            return np.arange(len(self))
        return torch.randperm(len(self), generator=rng.generator(rng.ORDER, self.seed, index)).numpy()

    def share(self, slice_: int) -> tuple[int, int]:
        """Tasks first:end of this rank's share: whole tasks, about as many records for each rank."""
        first = self.first + slice_ * self.size
        end = min(first + self.size, self.end)
        offset = self.decoder.tasks.offset[first : end + 1]
        cuts = offset[0] + (offset[-1] - offset[0]) * torch.arange(1, self.world.size) // self.world.size
        ends = [0, *torch.searchsorted(offset, cuts).tolist(), end - first]
        return first + ends[self.world.rank], first + ends[self.world.rank + 1]

    def epoch(self, index: int, start: int = 0) -> Iterator[TaskBatch]:
        """This rank's batches ``start``.. of an epoch; a rank without a task of a step gets one that is padding."""
        order = self.order(index)
        for step in range(start, len(self)):
            for later in order[step + 1 : step + 3]:
                self._announce(*self.share(int(later)))
            first, end = self.share(int(order[step]))
            batch = self.decoder.batch(first, end, seed=rng.derive(rng.STEP, self.seed, index, step))
            yield replace(batch, padding=True) if first == end else batch

    def _announce(self, first: int, end: int) -> None:
        """Let the system read what comes next while this is decoded."""
        if self._file is None:
            return
        offset, width = self.decoder.tasks.offset, 4 * self.decoder.tasks.layout.words
        low, high = int(offset[first]) * width, int(offset[end]) * width
        os.posix_fadvise(self._file.fileno(), self._file.head + low, high - low, os.POSIX_FADV_WILLNEED)


class _Opened:
    """A records file, open for advice to the system."""

    def __init__(self, path: Any) -> None:
        self.file = open(path, "rb")  # noqa: SIM115 - open as long as the reader is
        np.lib.format.read_magic(self.file)
        np.lib.format.read_array_header_1_0(self.file)
        self.head = self.file.tell()
        self.fileno = self.file.fileno

    def __del__(self) -> None:
        self.file.close()


def _opened(tasks: Tasks) -> _Opened | None:
    if tasks.path is None or not hasattr(os, "posix_fadvise"):
        return None
    return _Opened(tasks.path / "records.npy")
