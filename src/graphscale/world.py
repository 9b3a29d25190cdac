"""Processes: with the launcher, the only file that touches torch.distributed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# The functions there take the process group of the moment as a default argument. Imported later (torch's
# optimisers do), they would keep a group alive that was destroyed; its threads would end in the middle of
# the interpreter's shutdown, now and then with SIGABRT after a run that was good.
import torch.distributed.nn.functional
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from graphscale.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """This process among its peers. Of size 1, every collective is the identity."""

    rank: int = 0
    size: int = 1
    group: Any = None  # the process group; None is everybody

    @staticmethod
    def current() -> World:
        """The initialised process group, or a world of one."""
        if dist.is_available() and dist.is_initialized():
            return World(dist.get_rank(), dist.get_world_size())
        return World()

    def mesh(self, columns: int) -> tuple[World, World]:
        """(this rank's column, this rank's row) of a mesh in which ``columns`` ranks are side by side; collective.

        Ranks of a column differ in what they train, those of a row in what they see.
        """
        if self.size == 1:
            return World(), World()
        from torch.distributed.device_mesh import init_device_mesh

        device = "cuda" if "nccl" in str(dist.get_backend_config(self.group)) else "cpu"
        mesh = init_device_mesh(device, (self.size // columns, columns), mesh_dim_names=("subnet", "data"))
        row, column = divmod(self.rank, columns)
        return (
            World(row, self.size // columns, mesh.get_group("subnet")),
            World(column, columns, mesh.get_group("data")),
        )

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def begin_sum(self, tensor: Tensor) -> Any:
        """Begin a sum over ranks in place; ``wait()`` on what is returned ends it."""
        return dist.all_reduce(tensor, group=self.group, async_op=True)

    def total(self, number: int) -> int:
        """Sum of an integer over ranks."""
        return number if self.size == 1 else int(self.sum_(torch.tensor([number], dtype=torch.int64)))

    def totals(self, *numbers: float) -> tuple[float, ...]:
        """Sums of several numbers over ranks, in float64."""
        if self.size == 1:
            return numbers
        return tuple(self.sum_(torch.tensor(numbers, dtype=torch.float64)).tolist())

    def first(self, tensor: Tensor) -> Tensor:
        """The tensor of rank 0, in place."""
        if self.size > 1:
            dist.broadcast(tensor, group=self.group, group_src=0)
        return tensor

    def share(self, value: T) -> T:
        """The plain value of rank 0."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self.group, group_src=0)
        return box[0]

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks in rank order; ranks may hold different numbers of rows."""
        if self.size == 1:
            return tensor
        length = torch.tensor([tensor.shape[0]], dtype=torch.int64)
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length, group=self.group)
        longest = max(int(n) for n in lengths)
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        rows = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(rows, padded, group=self.group)
        return torch.cat([row[: int(n)] for row, n in zip(rows, lengths, strict=True)])

    def exchange(
        self, rows: Tensor, counts: Sequence[int], expected: Sequence[int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """(rows that all ranks sent to this one, in rank order; how many each sent).

        Args:
            rows: those for rank 0, then those for rank 1, ...
            counts: rows for every rank.
            expected: rows from every rank, where they are known; else they are asked for first.
        """
        if self.size == 1:
            return rows, list(counts)
        if expected is None:
            sent, met = torch.tensor(counts), torch.empty(self.size, dtype=torch.int64)
            dist.all_to_all_single(met, sent, group=self.group)
            expected = met.tolist()
        width = math.prod(rows.shape[1:]) * rows.element_size()  # bytes: not every engine has every type
        out = rows.new_empty((sum(expected), *rows.shape[1:]))
        dist.all_to_all_single(
            _bytes(out),
            _bytes(rows.contiguous()),
            [width * n for n in expected],
            [width * n for n in counts],
            group=self.group,
        )
        return out, list(expected)

    def at_first(self, own: Tensor, whole: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all ranks in rank order, at rank 0, in ``whole``; other ranks keep what they gave.

        Args:
            counts: rows of every rank.
        """
        if not self.leads:
            if own.shape[0]:
                dist.send(_bytes(own.contiguous()), group=self.group, group_dst=0)
            return own
        whole[: counts[0]] = own
        start = counts[0]
        for rank in range(1, self.size):
            if counts[rank]:
                dist.recv(_bytes(whole[start : start + counts[rank]]), group=self.group, group_src=rank)
            start += counts[rank]
        return whole


def _bytes(rows: Tensor) -> Tensor:
    return rows.view(-1).view(torch.uint8) if rows.numel() else rows.new_empty(0, dtype=torch.uint8)


def launched() -> tuple[int, int, int] | None:
    """(rank, size, local rank) as torchrun or SLURM set them; None in a process started alone."""
    for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        values = [os.environ.get(name) for name in names]
        if None not in values:
            rank, size, local = (int(v) for v in values if v is not None)
            # A step of one task is an interactive shell, and no launch.
            return (rank, size, local) if size > 1 or names[0] == "RANK" else None
    return None


def _every_process_has_a_gpu(local: int) -> None:
    """NCCL wants a GPU a process; every process of the machine is told, whatever its own number."""
    there = torch.cuda.device_count()
    started = max(local + 1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    if started > there:
        raise InputError(
            f"{started} processes were started on this machine, which has {there} GPU{'s' * (there > 1)}: each needs"
            f" its own. Use --nproc {there}, or --device cpu."
        )


def leading() -> bool:
    """Whether this process is the first of its launch, or alone."""
    place = launched()
    return place is None or place[0] == 0


@contextmanager
def joined(device: str, *, timeout: float = 7200) -> Iterator[World]:
    """The world of this launch while the block runs: gloo on CPU, NCCL (with gloo for CPU tensors) on CUDA.

    Args:
        device: auto, cpu or cuda.
        timeout: seconds after which a silent rank counts as lost (one that died is noticed at once); the
            first rank evaluates alone, so it must be longer than an evaluation.

    Raises:
        InputError: where SLURM started several tasks and no address to meet at is set.
    """
    place = launched()
    if place is None:
        yield World()
        return
    rank, size, local = place
    if not {"MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        raise InputError(
            f"{size} processes were started, but MASTER_ADDR and MASTER_PORT are not set: they cannot meet. Under"
            " SLURM: export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1) MASTER_PORT=29500."
        )
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        _every_process_has_a_gpu(local)
        torch.cuda.set_device(local)
    waits = timedelta(seconds=timeout)
    # Ranks that are started again meet at the launcher's store, where the addresses of those before them still lie.
    met, *_ = next(rendezvous("env://", rank, size, timeout=waits))
    store = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", met)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=waits
    )
    try:
        yield World(rank, size)
    finally:
        dist.destroy_process_group()
