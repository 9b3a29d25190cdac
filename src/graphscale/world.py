"""Processes: the only file that touches torch.distributed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class World:
    """This process among its peers. Of size 1, every collective is the identity."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> World:
        """The initialised process group, or a world of one."""
        if dist.is_available() and dist.is_initialized():
            return World(dist.get_rank(), dist.get_world_size())
        return World()

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def total(self, number: int) -> int:
        """Sum of an integer over ranks."""
        return number if self.size == 1 else int(self.sum_(torch.tensor([number], dtype=torch.int64)))

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks in rank order; ranks may hold different numbers of rows."""
        if self.size == 1:
            return tensor
        length = torch.tensor([tensor.shape[0]], dtype=torch.int64)
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length)
        longest = max(int(n) for n in lengths)
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        rows = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(rows, padded)
        return torch.cat([row[: int(n)] for row, n in zip(rows, lengths, strict=True)])
