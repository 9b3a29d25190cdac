"""A composed run, and every reason to refuse one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from graphscale.batch import Batches
from graphscale.errors import InputError
from graphscale.step import Sharded, Sync
from graphscale.table import Table
from graphscale.world import World

Scores = Mapping[str, Mapping[str, float]]  # split -> metric -> fraction

SCORED = ("val", "test", "new_items", "new_both")  # splits that may be scored, in the order of screens


@dataclass(frozen=True)
class Run:
    """Everything that ``fit`` needs: what is seen, what outlives a step, what trains, how ranks agree.

    ``evaluate`` scores the full model on the validation and test nodes; it writes nothing.
    """

    model: nn.Module
    batches: Batches
    sync: Sync
    evaluate: Callable[[], Scores]
    metrics: tuple[str, ...]  # the names that ``evaluate`` gives
    monitor: str
    tables: Mapping[str, Table] = field(default_factory=dict)
    world: World = field(default_factory=World)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    partition: Mapping[str, object] = field(default_factory=dict)  # its quality, for the result
    begins: Callable[[], None] | None = None  # all ranks call it before an epoch's first step
    # All ranks call it after an epoch's steps, with whether the model is scored next; what it gives is recorded.
    ends: Callable[[bool], Mapping[str, float]] | None = None
    keeps: Mapping[str, Any] = field(default_factory=dict)  # what a checkpoint needs besides weights
    notes: tuple[str, ...] = ()
    prefetch: int = 0  # batches made ahead by a thread
    in_shards: bool = False  # no rank holds the model: its best weights are saved when they are scored, or are gone


def check(run: Run) -> None:
    """Refuse a run that cannot mean anything, before any work is done.

    Raises:
        InputError: what, why, what instead.
    """
    if run.monitor not in run.metrics:
        raise InputError(
            f"monitor '{run.monitor}' is not scored in this task. Choose --monitor among {', '.join(run.metrics)}."
        )
    slots = run.sync.slots()
    if not any(slot.params() for slot in slots):
        raise InputError("the model has no trainable parameter: training would change nothing. Check its freezing.")
    if isinstance(run.sync, Sharded) and not all(table.learns for table in run.tables.values()):
        raise InputError(
            f"tables ({', '.join(run.tables)}) with sub-networks: the columns that one sub-network"
            " writes mean other hidden units to the next. Use replicas with tables, or sub-networks without."
        )
    if len(run.batches) < 1:
        raise InputError("an epoch has no batch. Give a training split that is not empty.")


def device_of(name: str) -> torch.device:
    """The device of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: where CUDA is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device. Use --device cpu, or install torch for CUDA.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """``cpu``, or what the GPU calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def device_peak_mb(device: torch.device) -> float | None:
    """The most megabytes of tensors that the GPU held since the process began; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
