"""What a person sees: a live bar on a terminal, plain lines elsewhere. All on standard error."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as Rich
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from graphscale.config import TrainConfig
from graphscale.loop import Record
from graphscale.metrics import LOWER_IS_BETTER
from graphscale.profile.report import STAGE_HEAD, floor_line, stage_rows
from graphscale.profile.summary import Summary
from graphscale.run import SCORED, Run

# Without a terminal: so many lines a run, and one at least every so many seconds.
_LINES, _EVERY = 10, 5.0


class Console:
    """Tells of a session as it goes; ``quiet`` tells nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.rich = Rich(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._last, self._total = 0.0, 1
        self._said: set[str] = set()

    def say(self, line: str) -> None:
        """A line, once: what two seeds would both say is said by the first."""
        if line not in self._said:
            self._said.add(line)
            self.rich.print(line, markup=False)

    def begins(self, run: Run, seed: int, config: TrainConfig, done: int = 0) -> None:
        """What was read and built, how many epochs are done already, and the bar of one seed."""
        if done:
            self.say(f"seed {seed}: goes on after epoch {done}")
        for note in run.notes:
            self.say(f"note: {note}")
        if run.partition:
            p = run.partition
            self.say(
                f"seed {seed}: {p['num_parts']} {p['method']} clusters of {p['smallest']}..{p['largest']} nodes,"
                f" {float(str(p['edge_cut'])):.1%} of the edges between them"
            )
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
        )
        if self.rich.is_terminal and not self.rich.quiet:
            self._progress = Progress(*columns, console=self.rich)
            self._progress.start()
            self._progress.add_task(f"seed {seed}", total=config.epochs, completed=done, line="")
        self._last, self._total = time.monotonic(), config.epochs

    def epoch(self, run: Run, record: Record) -> None:
        """One epoch's loss and validation score."""
        line = f"loss {record.loss:.4f}"
        if record.scores is not None:
            line += f"  val {run.monitor} {_shown(run.monitor, record.scores['val'][run.monitor])}"
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=record.epoch, line=line)
            return
        tenth = record.epoch in (1, self._total) or record.epoch % -(-self._total // _LINES) == 0
        if tenth or time.monotonic() - self._last > _EVERY:
            self._last = time.monotonic()
            self.rich.print(f"epoch {record.epoch}  {line}", markup=False)

    def ends(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def profiled(self, made: Summary | None, folder: Path) -> None:
        """Where the time of a run went; None where no step was left to make."""
        if made is None:
            self.say("profile: no step was left to train, so there is nothing to report")
            return
        table = Table(STAGE_HEAD[0])
        for name in STAGE_HEAD[1:]:
            table.add_column(name, justify="right")
        for row in stage_rows(made):
            table.add_row(*row)
        self.rich.print(table)
        self.rich.print(f"{floor_line(made)}; profile: {folder}", markup=False)

    def finished(self, result: Mapping[str, Any], out: Path) -> None:
        """The scores, and where the run lies."""
        self.rich.print(scores_table(result))
        stale = result.get("histories", {})
        if stale:
            errors = [f"{value:.1%}" for name, value in stale.items() if name.startswith("history_error")]
            bound = f"; bound of the outputs' error {stale['history_bound']:.2g}" if "history_bound" in stale else ""
            self.rich.print(
                f"histories: rows read were {stale['history_age']:.1f} steps old"
                + (f"; error by layer {' '.join(errors)}{bound}" if errors else ""),
                markup=False,
            )
        seconds = result["seconds"]
        self.rich.print(
            f"prepared in {seconds['prepare']:.1f} s, trained in {seconds['train']:.1f} s,"
            f" evaluated in {seconds['evaluate']:.1f} s; peak anonymous memory"
            f" {result['peak_anon_mb'] or float('nan'):.0f} MB{_of_the_gpu(result)}; run folder: {out}",
            markup=False,
        )

    def trial_begins(self, number: int, params: Mapping[str, Any], *, again: bool) -> None:
        """The settings of a search's trial."""
        self.say(f"trial {number}: {_settings(params)}{' (begun before, goes on)' if again else ''}")

    def trial_ends(self, row: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        """How a trial ended, and which is the best so far.

        Args:
            row: as ``result.json`` of a search has it.
        """
        how = row.get("reason") or f"val {row['monitor']} {_shown(row['monitor'], row['score'])}"
        line = f"trial {row['trial']} {row['state']} in {row['seconds']:.1f} s: {how}"
        if best is not None and best["trial"] != row["trial"]:
            line += f"; best so far: trial {best['trial']}, {_shown(best['monitor'], best['score'])}"
        self.say(line)

    def searched(self, result: Mapping[str, Any], out: Path) -> None:
        """A search's best trials by validation, the chosen one's scores, the budget."""
        spent, best, budget = result["spent"], result["best"], result["budget"]
        if best is not None:
            self.rich.print(trials_table(result))
            self.say(f"trial {best['trial']} is chosen by its validation score: {_settings(best['params'])}")
            if "test" in best or "mean" in best:
                self.rich.print(scores_table(best))
        limit = "" if budget["seconds"] is None else f", {budget['seconds']:g} s a command"
        states = ", ".join(f"{spent[s]} {s}" for s in ("complete", "failed", "pruned", "running") if spent[s])
        self.say(f"budget: {budget['trials']} trials{limit}; made: {states}, in {spent['seconds']:.1f} s")
        if best is not None:
            self.say(f"best configuration: graphscale train {result['recipe']} --config {out / 'best.toml'}")


def trials_table(result: Mapping[str, Any], most: int = 5) -> Table:
    """The best trials of a search by validation; nobody chooses by the test, so it is not here."""
    best = result["best"]
    table = Table("trial", f"validation {best['monitor']}", "settings")
    complete = [row for row in result["trials"] if row["score"] is not None]
    complete.sort(key=lambda row: (row["trial"] != best["trial"], abs(row["score"] - best["score"]), row["trial"]))
    for row in complete[:most]:
        table.add_row(str(row["trial"]), _shown(row["monitor"], row["score"]), _settings(row["params"]))
    return table


def _of_the_gpu(result: Mapping[str, Any]) -> str:
    """What it held at most, where there was one."""
    peak = result.get("peak_device_mb")
    return "" if peak is None else f", of {result['device']} {peak:.0f} MB"


def _settings(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} = {v:.4g}" if isinstance(v, float) else f"{n} = {v}" for n, v in sorted(params.items()))


def scores_table(result: Mapping[str, Any], title: str | None = None) -> Table:
    """Percent on screens: a row a metric, a column a split, deviations where there are several runs."""
    mean, std = result.get("mean", result), result.get("std")
    splits = [split for split in SCORED if split in mean]
    table = Table(
        "metric", *({"val": "validation"}.get(split, split.replace("_", " ")) for split in splits), title=title
    )  # fmt: skip
    for name in mean["test"]:
        cells = []
        for split in splits:
            cell = _shown(name, mean[split][name])
            if std is not None:
                cell += f" ± {_shown(name, std[split][name]).removesuffix(' %')}"
            cells.append(cell)
        table.add_row(name, *cells)
    return table


def _shown(metric: str, value: float) -> str:
    return f"{value:.4f}" if metric in LOWER_IS_BETTER else f"{100 * value:.2f} %"
