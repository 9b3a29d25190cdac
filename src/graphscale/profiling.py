"""The profile of one run: what it measures before training, its clock, and its three files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphscale import checkpoint
from graphscale.config import TrainConfig
from graphscale.folder import dumps
from graphscale.loop import Log
from graphscale.profile import rates
from graphscale.profile.clock import Stages
from graphscale.profile.report import markdown
from graphscale.profile.summary import Summary, summary
from graphscale.profile.window import Plan, Window
from graphscale.run import Run


def sure_steps(run: Run, log: Log, config: TrainConfig) -> int:
    """Steps that are left at least: patience may end a run early, but not before this."""
    last = config.epochs
    if config.patience is not None:
        scored = log.best_epoch or (log.epochs // config.eval_every + 1) * config.eval_every
        last = min(last, max(scored + config.patience, log.epochs + 1))
    return (last - log.epochs) * len(run.batches) - log.batches


@dataclass(frozen=True)
class Profiler:
    """Writes ``report.md``, ``report.json`` and ``trace.json`` of what this process trains."""

    folder: Path
    clock: Stages
    rates: rates.Rates
    facts: dict[str, Any]  # about the run, for the report

    @staticmethod
    def of(place: Path, run: Run, log: Log, config: TrainConfig) -> Profiler:
        """Measure the machine, and make ready for the run that ``log`` begins or goes on with.

        Args:
            place: the run's folder.
        """
        (place / "profile").mkdir(exist_ok=True)
        for old in (place / "profile").iterdir():  # of the part of the run that came before
            old.unlink()
        window = Window(Plan.of(sure_steps(run, log, config)), place / "profile" / "trace.json", run.device)
        facts = {
            "device": str(run.device),
            "precision": config.precision,
            "threads": torch.get_num_threads(),
            "prefetch": run.prefetch,
            "processes": run.world.size,
            "begins_after_step": log.steps,
        }
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        return Profiler(place / "profile", Stages(run.device, window), rates.measure(run.device, dtype), facts)

    def ends(self) -> Summary | None:
        """Write the files, and give what ``report.json`` holds; None where no step was made."""
        window = self.clock.window
        window.closes()
        if window.step == 1:
            return None
        busy = {"cores": os.cpu_count(), "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}
        made = summary(self.clock, self.rates, {**self.facts, **busy})
        checkpoint.write_aside(self.folder / "report.json", (dumps(made, indent=1) + "\n").encode())
        checkpoint.write_aside(self.folder / "report.md", markdown(made).encode())
        return made
