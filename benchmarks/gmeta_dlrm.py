"""G-Meta for recommenders: MovieLens-100K by tasks, throughput and its ablations, a step beside torchrec, limits.

    GRAPHSCALE_DATA=... python benchmarks/gmeta_dlrm.py [--work DIR] [--only TABLE ...] [--seeds S] [--configs N]

Tables: ratings, cold_start, throughput, exchange, limits, preparing, restarts. Every run is a folder under --work and
is made once, so a stopped study goes on where it stopped. Writes benchmarks/results/gmeta_dlrm_TABLES_DATE.md, and ends
with a JSON line. ``throughput`` and ``exchange`` measure time: nothing else may run beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from study import machine

from graphscale import configure, probe, rating_baselines, rating_runs, train
from graphscale.rng import derive

RESULTS = Path(__file__).parent / "results"
Table = tuple[list[str], list[list[str]]]

# RecBole-MetaRec's protocol: users 8 : 1 : 1, 13 to 100 ratings, 10 random ones asked. --split s seeds both.
USUAL = {"data": "ml-100k", "epochs": 30, "patience": 5, "threads": 1, "preset": "none"}
# Searched at random on splits that no table reports, by validation MAE.
SEARCHED = (100, 101)
SPACE: dict[str, tuple[Any, ...]] = {
    "model": ("wide_deep", "melu", "dlrm"),
    "dim": (8, 16),
    "top": ("32", "64", "32,32"),
    "adapt": ("head", "decision", "dense", "all"),
    "order": ("first", "second"),
    "inner_lr": (0.01, 0.03, 0.1),
    "offset_lr": (0.2, 0.5),
    "inner_steps": (1, 2, 3),
    "rates": ("no", "tensor", "number"),
    "shrink": (2.0, 5.0, 10.0),
    "lr": (0.0005, 0.001, 0.002),
    "row_optimiser": ("adam",),
    "row_lr": (0.001, 0.002, 0.005),
    "row_decay": (0.0, 1e-3),
    "row_scale": (0.01, 0.05),
    "tasks_per_step": (16, 32),
    "redraw": (0.3, 0.5, 0.7),
}
JOINT = {"adapt": "none", "rates": "no"}
# Lee et al.: Adam 5e-5 outside, 5e-6 inside, one step, 32 numbers a field, layers of 64, 32 users a step.
MELU = {
    "model": "melu", "dim": 32, "top": "64,64", "adapt": "decision", "order": "first", "inner_lr": 5e-6,
    "inner_steps": 1, "lr": 5e-5, "row_optimiser": "adam", "row_lr": 5e-5, "row_scale": 0.1, "epochs": 20,
}  # fmt: skip
METRICS = ("mae", "precision@5", "ndcg_binary@5", "ndcg@1", "ndcg@3", "ndcg@5")


def one(work: Path, name: str, settings: dict[str, Any], split: int) -> dict[str, Any]:
    """The result of one split, made where it is not there."""
    out = work / f"{name}-{split}"
    if not (out / "result.json").is_file():
        train(
            "gmeta_dlrm",
            configure("gmeta_dlrm", **{**USUAL, **settings}, split=split, seed=split, out=out, overwrite=True),
        )
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def drawn(number: int, fixed: dict[str, Any]) -> dict[str, Any]:
    """Settings number ``number`` of the random search."""
    draw = np.random.default_rng(derive(7, number, len(fixed)))
    settings = {name: values[int(draw.integers(len(values)))] for name, values in SPACE.items()}
    return {**settings, **fixed}


def searched(work: Path, kind: str, fixed: dict[str, Any], configs: int) -> tuple[dict[str, Any], float, int]:
    """(Settings with the lowest validation MAE, that MAE, settings tried)."""
    found = []
    for number in range(configs):
        settings = drawn(number, fixed)
        runs = [one(work / "search", f"{kind}-{number}", settings, split) for split in SEARCHED]
        found.append((statistics.fmean(run["val"]["mae"] for run in runs), number))
    mae, number = min(found)
    return drawn(number, fixed), mae, len(found)


def spread(values: list[float]) -> str:
    """Mean and deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {deviation:.4f}"


WAYS: dict[str, dict[str, Any]] = {
    "MAML, second order": {"order": "second"},
    "MAML, first order": {"order": "first"},
    "joint training": JOINT,
}


def ratings(work: Path, seeds: int, configs: int) -> Table:
    """Item 1: MovieLens-100K, users as disjoint tasks."""
    lines, bias = [], []
    for split in range(seeds):
        tasks = rating_runs.read(configure("gmeta_dlrm", **USUAL, split=split)).tasks
        bias.append({
            "offsets, damping by validation": rating_baselines.bias_scores(tasks, "item")["test"],
            "random order": rating_baselines.random_scores(tasks, "item", seed=split)["test"],
        })  # fmt: skip
    bar = [found["offsets, damping by validation"]["mae"] for found in bias]
    for name in bias[0]:
        lines.append(row(name, [found[name] for found in bias], bar, ""))
    for name, fixed in WAYS.items():
        kind = "-".join(f"{v}" for v in fixed.values())
        settings, mae, tried = searched(work, kind, fixed, configs)
        tests = [one(work, kind, settings, split)["test"] for split in range(seeds)]
        lines.append(row(name, tests, bar, f"{tried} tried, validation {mae:.4f}: {said(settings)}"))
    tests = [one(work, "melu", MELU, split)["test"] for split in range(seeds)]
    lines.append(row("MeLU, its authors' rates", tests, bar, ""))
    return ["", *METRICS, "MAE less than offsets'", "settings"], lines


def row(name: str, tests: list[dict[str, float]], bar: list[float], settings: str) -> list[str]:
    """A line of the table: scores, and the difference to the bar split by split."""
    less = [b - test["mae"] for b, test in zip(bar, tests, strict=True)]
    return [name, *(spread([test[m] for test in tests]) for m in METRICS), spread(less), settings]


def said(settings: dict[str, Any]) -> str:
    """Settings in a line."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


TABLES: dict[str, Callable[[Path, int, int], Table]] = {"ratings": ratings}


def markdown(table: Table) -> str:
    """A table as Markdown."""
    head, lines = table
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("runs/gmeta_dlrm"))
    parser.add_argument("--only", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--configs", type=int, default=24)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    pages, rows = [], []
    for name in arguments.only:
        table = TABLES[name](arguments.work, arguments.seeds, arguments.configs)
        doc = (TABLES[name].__doc__ or name).splitlines()[0]
        pages.append(f"## {doc}\n\n{markdown(table)}\n")
        rows += [{"table": name, **dict(zip(table[0], line, strict=True))} for line in table[1]]
        print(pages[-1], flush=True)
    page = RESULTS / f"gmeta_dlrm_{'_'.join(arguments.only)}_{date.today()}.md"
    page.write_text(f"# G-Meta for recommenders\n\nCommit {probe.commit()}, {machine()}.\n\n" + "\n".join(pages))
    print(json.dumps({"benchmark": "gmeta_dlrm", "machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
