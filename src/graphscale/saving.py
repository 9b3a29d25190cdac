"""While a run trains: when it is saved, when it stops, what is written of its epochs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from graphscale import folder
from graphscale.config import TrainConfig
from graphscale.console import Console
from graphscale.interrupt import Interrupted, Stop
from graphscale.loop import Log, Record
from graphscale.profile.clock import Clock
from graphscale.progress import Progress
from graphscale.run import Run
from graphscale.step import Sharded
from graphscale.world import World

_STOP = 1000  # above any number of ranks that only say that a checkpoint is due


@dataclass
class Saving:
    """What ``fit`` calls after steps and epochs."""

    run: Run
    log: Log
    config: TrainConfig
    world: World
    place: Path
    store: folder.RunFolder | None  # of the rank that leads
    progress: Progress | None
    console: Console
    stop: Stop
    again: str  # what is said of going on after Ctrl-C
    clock: Clock
    _saved: float = field(default_factory=time.monotonic)
    _saved_steps: int = field(init=False)

    def __post_init__(self) -> None:
        self._saved_steps = self.log.steps

    def save(self) -> None:
        """A checkpoint of all ranks; collective."""
        run, log = self.run, self.log
        with self.clock.stage("checkpoint"):
            shards = folder.save_shards(self.place, log, run)
            if run.in_shards and log.best_epoch == log.epochs and not log.best_shards:
                log.best_shards = shards
            state = {**folder.gathered(log, run), "shards": shards}
            if self.store is not None:
                self.store.save(log, run, state)
        self._saved, self._saved_steps = time.monotonic(), log.steps

    def on_step(self, log: Log) -> None:
        """Save where that is due, and stop where a rank wishes to: saving is collective, so ranks agree.

        Raises:
            Interrupted: after a checkpoint.
        """
        if self.progress is not None:
            self.progress.at(log.steps)
        apart = self.run.sync.every if isinstance(self.run.sync, Sharded) else 1
        if log.steps % apart:  # sub-networks train apart: no word between them within a round
            return
        said = self.world.total(_STOP * self.stop.wished + (self.world.leads and self._due(log)))
        if said:
            self.save()
        if said >= _STOP:
            raise Interrupted(self.again)

    def _due(self, log: Log) -> bool:
        counted = self.config.steps_a_save()
        passed = bool(counted and log.steps // counted > self._saved_steps // counted)
        return passed or time.monotonic() - self._saved >= self.config.save_seconds

    def on_epoch(self, log: Log, record: Record) -> None:
        """Write what is known of the epoch; save every so often, and best weights that no rank holds at once."""
        if self.store is not None:
            self.store.record(record)
        self.console.epoch(self.run, record)
        if log.epochs % self.config.save_every == 0 or (self.run.in_shards and log.best_epoch == log.epochs):
            self.save()
