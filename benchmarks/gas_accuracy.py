"""GAS's accuracy: the presets on Cora and CiteSeer beside the full batch, with and without refreshed histories.

    GRAPHSCALE_DATA=... python benchmarks/gas_accuracy.py [--work DIR] [--only PREFIX ...] [--page]

What a run gave is a line of benchmarks/results/gas_runs.jsonl and is not made again, so a study that stopped goes on
where it stopped, on another machine too. ``--page`` writes benchmarks/results/gas_accuracy_DATE.md of the runs that
are there, and makes none; rows of earlier pages were made before there was such a file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from datetime import date
from pathlib import Path
from typing import Any

from study import Ledger, machine

from graphscale import probe
from graphscale.presets import PRESETS

SEEDS = {"gcn": 10, "gat": 5, "appnp": 5, "gcnii": 3}
# The least that is asked of GAS, the paper's full batch and its GAS (table 1, 20 initialisations).
PAPER = {
    "cora": (81.3, 81.88, 82.29),
    "cora-gat": (82.3, 82.80, 83.32),
    "cora-appnp": (82.3, 83.28, 83.19),
    "cora-gcnii": (84.3, 85.04, 85.52),
    "citeseer": (70.3, 70.98, 71.18),
    "citeseer-gat": (70.8, 71.72, 71.86),
    "citeseer-appnp": (71.3, 72.13, 72.63),
    "citeseer-gcnii": (72.0, 73.06, 73.89),
}
# One part is the whole graph: the same model and settings without histories.
WAYS: dict[str, dict[str, Any]] = {
    "full batch": {"num_parts": 1, "parts_per_batch": 1, "staleness": 0},
    "GAS": {},
    "GAS, refreshed": {"refresh": "epoch"},
}
PARTS = {"num_parts": 50, "parts_per_batch": 10}
SAGE = {
    "preset": "none", "model": "sage", "hidden": 128, "layers": 3, "dropout": 0.3, "lr": 0.005, "epochs": 40, **PARTS,
}  # fmt: skip
# (name, recipe, settings): the same stock GraphSAGE and parts by three ways.
OTHERS = [
    (f"{data} {way}", recipe, {"data": data, **SAGE, **settings})
    for data in ("facebook", "tolokers")
    for way, recipe, settings in (
        ("full batch", "cluster_gcn", {"batches": "full", "epochs": 120}),
        ("Cluster-GCN", "cluster_gcn", {}),
        ("GAS", "gas", {}),
    )
]


def studies() -> dict[str, tuple[str, dict[str, Any], int]]:
    """Name -> (recipe, settings, seeds) of every row."""
    known = {preset.name: preset for preset in PRESETS["gas"]}
    rows: dict[str, tuple[str, dict[str, Any], int]] = {}
    for name in PAPER:
        preset = known[name]
        for way, special in WAYS.items():
            settings = {"data": preset.data, "preset": name, "threads": 1, **special}
            rows[f"{name}: {way}"] = ("gas", settings, SEEDS[preset.settings["model"]])
    for name, recipe, settings in OTHERS:
        rows[name] = (recipe, {"threads": 1, **settings}, 5)
    return rows


def there(ledger: Ledger, name: str, recipe: str, settings: dict[str, Any], seeds: int, *, only: bool) -> list[Any]:
    """The runs of a row; with ``only`` those that are there."""
    found = [ledger.result(recipe, name, {**settings, "seed": seed}, run=not only) for seed in range(seeds)]
    return [result for result in found if result is not None]


def page(rows: dict[str, list[Any]]) -> str:
    """The report in Markdown."""
    lines = [
        f"# GAS: accuracy, {date.today()}",
        "",
        f"Machine: {machine()}. Versions: {json.dumps(probe.versions())}.",
        "Command: `python benchmarks/gas_accuracy.py`. Test scores at the best validation epoch, exact on the whole",
        "graph; mean and sample deviation over seeds 0, 1, ...; one thread a run.",
        "",
        "| run | seeds | test | asked of GAS | paper | epochs | s a run | rows' age, steps | error of histories |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        if not found:
            continue
        monitor = found[0]["monitor"]
        test = [100 * r["test"][monitor] for r in found]
        preset, _, way = name.partition(": ")
        asked, full, gas = PAPER.get(preset, (None, None, None))
        spread = statistics.stdev(test) if len(test) > 1 else float("nan")
        stale = found[-1].get("histories") or {}
        errors = [v for k, v in stale.items() if k.startswith("history_error")]
        errors = errors[:: max(1, len(errors) // 4)]  # a few of deep networks
        lines.append(
            f"| {name} | {len(test)} | {statistics.fmean(test):.2f} ± {spread:.2f} |"
            f" {'' if asked is None or way == 'full batch' else asked} |"
            f" {'' if asked is None else full if way == 'full batch' else gas} |"
            f" {statistics.fmean(r['epochs'] for r in found):.0f} |"
            f" {statistics.fmean(r['seconds']['train'] for r in found):.0f} |"
            f" {'' if not errors else format(stale['history_age'], '.1f')} |"
            f" {' '.join(f'{e:.2f}' for e in errors)} |"
        )
    commits = sorted({str(r["commit"]) for found in rows.values() for r in found})
    return "\n".join([*lines, "", f"Commits of the runs: {', '.join(commits)}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/gas_accuracy"))
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of the rows to run")
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(Path(__file__).parent / "results" / "gas_runs.jsonl", asked.work)
    rows: dict[str, list[Any]] = {}
    for name, (recipe, settings, seeds) in studies().items():
        if not any(name.startswith(prefix) for prefix in asked.only):
            continue
        rows[name] = there(ledger, name, recipe, settings, seeds, only=asked.page)
        test = [r["test"][r["monitor"]] for r in rows[name]]
        print(name, [f"{100 * t:.2f}" for t in test], flush=True)
    if asked.page:
        place = Path(__file__).parent / "results" / f"gas_accuracy_{date.today()}.md"
        place.write_text(page(rows), encoding="utf-8")
    scores = {name: statistics.fmean(r["test"][r["monitor"]] for r in found) for name, found in rows.items() if found}
    print(json.dumps({"benchmark": "gas_accuracy", "machine": machine(), "test": scores}))


if __name__ == "__main__":
    main()
