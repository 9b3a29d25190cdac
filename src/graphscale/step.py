"""The words of one step: sample, fetch, loss, backward, reduce, step, commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from graphscale.batch import Batch

Params = dict[str, Tensor]  # parameters by name, and "rows.<table>" after the fetch
ROWS = "rows."

B_contra = TypeVar("B_contra", contravariant=True)


class Write(NamedTuple):
    """Rows that a step would like to write."""

    ids: Tensor  # [k]
    values: Tensor  # [k, dim]
    time: Tensor | None = None  # [k]


class Taps(NamedTuple):
    """Rows to be written after the backward pass: the gradients that then lie in leaves, side by side."""

    ids: Tensor  # [k]
    leaves: tuple[Tensor, ...]  # [k, ...] each

    def gradients(self) -> Write:
        """The write; zeros where no gradient reached a leaf."""
        if not self.leaves:
            return Write(self.ids, torch.empty(self.ids.numel(), 0))
        rows = [torch.zeros_like(t) if t.grad is None else t.grad for t in self.leaves]
        return Write(self.ids, torch.cat([row.flatten(1) for row in rows], dim=1))


class Forward(NamedTuple):
    """What applying a model to a batch gives."""

    logits: Tensor  # [n, C]
    writes: Mapping[str, Write]
    buffers: Mapping[str, Tensor]
    taps: Mapping[str, Taps] = {}
    penalty: Tensor | None = None  # [] to be added to the mean loss


Apply = Callable[[Params, Batch], Forward]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A loss as a *sum* over ``count`` examples, and what the step would like to write.

    The loop divides by the reduced count: a mean over no labels would be NaN, and ranks with
    unequal counts would disagree with one process.
    """

    loss_sum: Tensor  # []
    count: int
    writes: Mapping[str, Write] = field(default_factory=dict)  # table name -> rows
    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # BatchNorm's statistics and the like
    scores: Mapping[str, Tensor] = field(default_factory=dict)  # what metrics consume
    taps: Mapping[str, Taps] = field(default_factory=dict)  # table name -> rows known after the backward pass


class Objective(Protocol[B_contra]):
    """What is minimised. Pure: it writes nothing, and the same arguments give the same outcome."""

    def __call__(self, params: Params, batch: B_contra) -> Outcome:
        """The outcome of one batch under the given parameters and fetched rows."""
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """A module that trains, with its optimiser and its objective.

    Replicas have one slot a rank. GIST hosts several narrower modules, hence an objective each.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    objective: Objective[Batch]

    def params(self) -> Params:
        """Trainable parameters by name: leaves, so that their gradients accumulate."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}


class Sync(Protocol):
    """How ranks agree."""

    def slots(self) -> Sequence[Slot]:
        """The slots of this rank, trained in turn on every batch."""
        ...

    def reduce(self, slot: Slot, count: int) -> int:
        """Between backward and step: make gradients those of the mean over all ranks' examples.

        Returns the reduced count; 0 means that nobody had a label and the step must be left out.
        """
        ...

    def finish(self, step: int) -> None:
        """After step number ``step`` (from 0): agree on buffers, merge, re-partition."""
        ...

    def state(self) -> list[Any]:
        """What the first rank's checkpoint file holds of the slots."""
        ...

    def restore(self, state: list[Any]) -> None:
        """The reverse of ``state``.

        Raises:
            RuntimeError, KeyError, ValueError: where it is of another configuration.
        """
        ...


@runtime_checkable
class Sharded(Protocol):
    """A ``Sync`` whose state no rank holds whole: its parts are saved side by side, and may be read by other ranks."""

    every: int  # steps between two exchanges; ranks do not speak within

    def save(self, folder: Path) -> None:
        """Write all ranks' parts to ``folder``; collective."""
        ...

    def load(self, folder: Path) -> None:
        """Read this rank's parts; collective."""
        ...
