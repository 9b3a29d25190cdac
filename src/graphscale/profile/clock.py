"""Clocks of the stages of training: one that counts, and one that does nothing.

``wait`` is what the loop waits for its next batch; ``sample`` is the making of batches, which may be done
ahead by a thread while the loop trains. All other stages follow each other in the loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch

from graphscale.profile.window import Kind, Window

T = TypeVar("T")

STAGES = ("wait", "fetch", "forward", "backward", "reduce", "step", "commit")
BESIDE = ("evaluate", "checkpoint")

_END = object()
_NOTHING = nullcontext()


class Clock(Protocol):
    """What the loop tells of its stages."""

    def begins(self, epoch: int) -> None:
        """Epoch number ``epoch``, from 1, begins or goes on."""
        ...

    def made(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; making one is the stage ``sample``, in whatever thread it is done."""
        ...

    def waited(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; taking one is the stage ``wait``."""
        ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Lasts as long as a stage of the step, or of what lies beside it."""
        ...

    def done(self, seconds: float) -> None:
        """A step has ended that took so many seconds, by the loop's own clock."""
        ...


class _Off:
    def begins(self, epoch: int) -> None:
        pass

    def made(self, items: Iterator[T]) -> Iterator[T]:
        return items

    def waited(self, items: Iterator[T]) -> Iterator[T]:
        return items

    def stage(self, name: str) -> AbstractContextManager[None]:
        return _NOTHING

    def done(self, seconds: float) -> None:
        pass


OFF: Clock = _Off()


def _zeros() -> dict[str, float]:
    return dict.fromkeys(STAGES, 0.0)


@dataclass
class Sums:
    """Steps, their seconds by the loop's clock, and those of their stages."""

    steps: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=_zeros)

    def add(self, steps: int, seconds: float, stages: dict[str, float]) -> None:
        """Count so many steps more."""
        self.steps, self.seconds = self.steps + steps, self.seconds + seconds
        for name, value in stages.items():
            self.stages[name] += value


@dataclass
class Epoch:
    """What one epoch took, its steps by kind."""

    number: int
    steps: dict[Kind, Sums] = field(default_factory=lambda: {kind: Sums() for kind in Kind})
    sample: float = 0.0
    beside: dict[str, float] = field(default_factory=lambda: dict.fromkeys(BESIDE, 0.0))


class Stages:
    """The clock that counts.

    Args:
        device: of training; on CUDA every stage ends with a wait for the device, or its time would be
            that of queueing its work.
        window: the steps that are looked at more closely.
    """

    def __init__(self, device: torch.device, window: Window) -> None:
        self.device, self.window = device, window
        self.epochs: list[Epoch] = []
        self._now, self._spent = Epoch(0), _zeros()

    def begins(self, epoch: int) -> None:
        """Seconds go to this epoch from here on."""
        self._now, self._spent = Epoch(epoch), _zeros()
        self.epochs.append(self._now)
        self.window.opens()

    def made(self, items: Iterator[T]) -> Iterator[T]:
        """Counts the making, where it is done."""
        epoch = self._now  # a thread may still be at work when the next epoch begins
        while True:
            with self.window.span("sample"):
                began = time.perf_counter()
                item = next(items, _END)
                epoch.sample += time.perf_counter() - began
            if item is _END:
                return
            yield item  # type: ignore[misc]

    def waited(self, items: Iterator[T]) -> Iterator[T]:
        """Counts the waiting."""
        while True:
            with self.stage("wait"):
                item = next(items, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what the block takes."""
        seconds = self._now.beside if name in BESIDE else self._spent
        with self.window.span(name):
            began = time.perf_counter()
            try:
                yield
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
            finally:
                seconds[name] += time.perf_counter() - began

    def done(self, seconds: float) -> None:
        """Put the step's stages to those of its kind."""
        self._now.steps[self.window.kind].add(1, seconds, self._spent)
        self._spent = _zeros()
        self.window.moves_on()
