"""What studies share: runs that are made once, works that are timed in turn, and the machine."""

from __future__ import annotations

import inspect
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from graphscale import configure, probe, train
from graphscale.config import plain
from graphscale.folder import dumps

RESULTS = Path(__file__).parent / "results"
Table = tuple[list[str], list[list[str]]]  # header, rows


def trained(
    work: Path, name: str, settings: dict[str, Any], seeds: int, recipe: str = "cluster_gcn"
) -> list[dict[str, Any]]:
    """Results of seeds 0, 1, ...: each run is a folder under ``work``, and is not repeated once it has a result."""
    found = []
    for seed in range(seeds):
        out = work / f"{name}-{seed}"
        if not (out / "result.json").is_file():
            train(recipe, configure(recipe, **settings, seed=seed, out=out, overwrite=True))
        found.append(json.loads((out / "result.json").read_text()))
    return found


class Ledger:
    """What runs gave, a line each, in a file that is committed: a study goes on where it stopped, on any machine.

    Args:
        file: the lines, a JSON object each: recipe, name, settings, and what the run gave.
        work: where runs are made; they are not kept.
        courses: measures of which a line keeps the values over epochs, where a run has them.
    """

    def __init__(self, file: Path, work: Path, courses: tuple[str, ...] = ()) -> None:
        self.file, self.work, self.courses = file, work, courses
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        self._known = {self._key(line["recipe"], line["settings"]): line for line in map(json.loads, lines)}

    @staticmethod
    def _key(recipe: str, settings: dict[str, Any]) -> str:
        return json.dumps([recipe, settings], sort_keys=True)

    def result(self, recipe: str, name: str, settings: dict[str, Any], *, run: bool = True) -> dict[str, Any] | None:
        """The line of a run; where there is none it is made, or with ``run`` False is None."""
        return self.kept(recipe, settings, lambda: self._made(recipe, name, settings) if run else None)

    def kept(
        self, recipe: str, settings: dict[str, Any], make: Callable[[], dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """The line of what has this name and these settings; where there is none, of what ``make`` gives, if any."""
        key = self._key(recipe, settings)
        made = None if key in self._known else make()
        if made is not None:
            line = json.loads(dumps({"recipe": recipe, "settings": settings, **made, "date": str(date.today())}))
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self._known[key] = line
            print(line.get("name", recipe), settings.get("seed"), line["test"], flush=True)
        return self._known.get(key)

    def _made(self, recipe: str, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        made = train(recipe, configure(recipe, **settings, out=self.work / "run", overwrite=True))
        kept = ("monitor", "val", "test", "final", "best_epoch", "epochs", "seconds", "measures", "histories", "commit",
                "device")  # fmt: skip
        records = [json.loads(line) for line in (self.work / "run" / "metrics.jsonl").read_text().splitlines()]
        courses = {name: _few({r["epoch"]: r["measures"][name] for r in records if name in r.get("measures", {})})
                   for name in self.courses}  # fmt: skip
        courses = {name: course for name, course in courses.items() if course}
        curve = {r["epoch"]: r["scores"]["val"][made["monitor"]] for r in records if r.get("scores")}
        return {"name": name, **{k: made[k] for k in kept if k in made}, "curve": _few(curve),
                **({"courses": courses} if courses else {})}  # fmt: skip


def _few(values: dict[int, float]) -> dict[str, float]:
    """At most fifty of the epochs, by their numbers as JSON has them."""
    epochs = list(values)
    return {str(e): values[e] for e in epochs[:: -(-len(epochs) // 50) or 1]}


def special(settings: dict[str, Any], recipe: str = "cluster_gcn") -> dict[str, Any]:
    """The settings of a run that differ from the recipe's defaults."""
    usual = plain(configure(recipe, data="planted", preset="none"))
    return {name: value for name, value in settings.items() if name != "seed" and value != usual.get(name)}


def report(name: str, title: str, command: str, tables: dict[str, Callable[[], Table]]) -> None:
    """Make tables, write them to benchmarks/results/NAME_TABLES_DATE.md, print them and a JSON line at the end."""
    lines = [f"# {title}, {date.today()}", ""]
    lines += [f"Machine: {machine()}. Versions: {json.dumps(probe.versions())}. Commit: {probe.commit()}."]
    lines += [f"Command: `{command}`."]
    found: dict[str, list[list[str]]] = {}
    for table, make in tables.items():
        said, (header, rows) = inspect.getdoc(make) or "", make()
        found[table] = rows
        lines += ["", f"## {table}", "", said, "", "| " + " | ".join(header) + " |"]
        lines += ["|" + "---|" * len(header), *("| " + " | ".join(row) + " |" for row in rows)]
    text = "\n".join([*lines, ""])
    (RESULTS / f"{name.split('_')[0]}_{'_'.join(tables)}_{date.today()}.md").write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps({"benchmark": name, "machine": machine(), "tables": found}))


def machine() -> str:
    """Processor, cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        model = f"{names[0]}, {len(names)} cores" if names else model
    return model


def finished(work: Callable[[], Any], device: str) -> float:
    """Seconds of a work, to the end of what it started on the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def in_turn(
    works: dict[str, Callable[[], Any]], repeats: int, slow: tuple[str, ...] = (), device: str = "cpu"
) -> dict[str, float]:
    """Median seconds of every work, one after the other in every round, warm-up apart; slow ones in 3 rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(repeats + 1):
        for name, work in works.items():
            if name in slow and round_ > 3:
                continue
            took = finished(work, device)
            if round_:
                seconds[name].append(took)
    return {name: statistics.median(values) for name, values in seconds.items()}
