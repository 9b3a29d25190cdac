"""How far a run has come, in a file that survives its processes: it tells what a loss has cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphscale.config import TrainConfig
from graphscale.loop import Log
from graphscale.world import World


class Progress:
    """The number of steps that the leading rank has done, in a mapped file of 8 bytes."""

    def __init__(self, path: Path, steps: int) -> None:
        there = path.is_file() and path.stat().st_size == 8
        self._cell = np.memmap(path, dtype=np.int64, mode="r+" if there else "w+", shape=(1,))
        self.before = int(self._cell[0])  # when the file was opened
        self.at(steps)

    @staticmethod
    def of(place: Path, log: Log, world: World, config: TrainConfig) -> Progress | None:
        """That of a run whose processes may be started again, on the rank that leads."""
        return Progress(place / "progress", log.steps) if config.lives() and world.leads else None

    def at(self, steps: int) -> None:
        """Note the number of steps done."""
        self._cell[0] = steps

    def lost(self, log: Log, restart: int) -> str:
        """What a loss cost, in a sentence."""
        again = max(0, self.before - log.steps)
        return (
            f"restart {restart}: a process was lost after step {self.before}; the run goes on from step {log.steps}, in"
            f" epoch {log.epochs + 1}, and {again} steps are done again"
        )
