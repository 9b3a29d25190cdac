"""Cluster-GCN's accuracy: Cora and CiteSeer beside the full batch, METIS beside random parts, facebook, depth.

    GRAPHSCALE_DATA=... python benchmarks/accuracy.py [--work DIR] [--only TABLE] [--seeds K]

Every run is a folder under --work; a run whose ``result.json`` is there is not repeated, so a stopped
study goes on where it stopped. Writes benchmarks/results/cluster_gcn_accuracy_DATE.md and ends with a
JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from datetime import date
from pathlib import Path
from typing import Any

from study import machine, special, trained

from graphscale import probe

DEPTH = {
    "data": "facebook", "hidden": 128, "num_parts": 50, "parts_per_batch": 5, "epochs": 50, "dropout": 0.1,
    "lr": 0.002, "eval_every": 2,
}  # fmt: skip

# table -> rows of (name, settings over the preset of the data, seeds, the peer row, what the paper says)
Row = tuple[str, dict[str, Any], int, str | None, str]
TABLES: dict[str, list[Row]] = {
    "citation": [
        ("cora full batch", {"data": "cora", "batches": "full"}, 10, None, "81.5 (Kipf and Welling 2017)"),
        ("cora clusters", {"data": "cora"}, 10, "cora full batch", "82.5 (table 2; its own split)"),
        ("cora random parts", {"data": "cora", "partitioner": "random"}, 10, "cora clusters", "78.4 (table 2)"),
        ("citeseer full batch", {"data": "citeseer", "batches": "full"}, 10, None, "70.3 (Kipf and Welling 2017)"),
        ("citeseer clusters", {"data": "citeseer"}, 10, "citeseer full batch", "-"),
    ],
    "facebook": [
        ("facebook full batch", {"data": "facebook", "batches": "full", "epochs": 400}, 5, None, "-"),
        ("facebook clusters", {"data": "facebook"}, 5, "facebook full batch", "-"),
    ],
    "depth": [
        (f"{layers} layers, {norm}", {**DEPTH, "preset": "none", "layers": layers, "norm": norm}, 5, peer, paper)
        for layers, norm, peer, paper in (
            (2, "diag", None, "89.6 (table 11, PPI)"),
            (8, "diag", "2 layers, diag", "96.2 (table 11, PPI)"),
            (2, "row", None, "90.3 (table 11, PPI)"),
            (8, "row", "2 layers, row", "43.1 (table 11, PPI)"),
        )
    ]
    + [
        (
            f"{layers} layers, {norm}, no LayerNorm",
            {**DEPTH, "preset": "none", "layers": layers, "norm": norm, "layer_norm": False},
            3,
            f"2 layers, {norm}, no LayerNorm" if layers == 8 else None,
            "as above",
        )
        for layers in (2, 8)
        for norm in ("diag", "row")
    ],
}


def run(name: str, settings: dict[str, Any], seeds: int, work: Path) -> dict[str, Any]:
    """What the report says of the runs of every seed."""
    found = trained(work, name.replace(" ", "-").replace(",", ""), settings, seeds)
    test = [r["test"]["accuracy"] for r in found]
    val = [r["val"]["accuracy"] for r in found]
    return {
        "name": name,
        "settings": found[0]["config"],
        "test": statistics.fmean(test),
        "std": statistics.stdev(test),
        "val": statistics.fmean(val),
        "train_seconds": statistics.fmean(r["seconds"]["train"] for r in found),
        "epochs": statistics.fmean(r["epochs"] for r in found),
        "best_epoch": statistics.fmean(r["best_epoch"] for r in found),
        "peak_anon_mb": max(r["peak_anon_mb"] for r in found),
        "edge_cut": found[0]["partition"].get("edge_cut"),
        "commits": sorted({r["commit"] for r in found}),
        "seeds": seeds,
    }


def page(tables: dict[str, list[dict[str, Any]]], papers: dict[str, str]) -> str:
    """The report in Markdown."""
    lines = [
        f"# Cluster-GCN: accuracy, {date.today()}",
        "",
        f"Machine: {machine()}. Versions: {json.dumps(probe.versions())}.",
        "Command: `python benchmarks/accuracy.py`. Test accuracy at the best validation epoch, exact on the whole",
        "graph, percent, mean ± sample deviation over seeds 0, 1, ...; seconds of training and epochs a run.",
        "",
    ]
    for title, rows in tables.items():
        lines += [f"## {title}", ""]
        lines += ["| run | seeds | test | validation | paper | edge cut | epochs (best) | s/run | peak MB |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        for r in rows:
            cut = "-" if r["edge_cut"] is None else f"{100 * r['edge_cut']:.1f} %"
            lines.append(
                f"| {r['name']} | {r['seeds']} | {100 * r['test']:.2f} ± {100 * r['std']:.2f} | {100 * r['val']:.2f}"
                f" | {papers[r['name']]} | {cut} | {r['epochs']:.0f} ({r['best_epoch']:.0f})"
                f" | {r['train_seconds']:.1f} | {r['peak_anon_mb']:.0f} |"
            )
        lines += ["", "Settings where they differ from the defaults, and commits:", ""]
        lines += [
            f"- {r['name']}: `{json.dumps(special(r['settings']))}` at {', '.join(map(str, r['commits']))}"
            for r in rows
        ]
        lines += [""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--only", choices=list(TABLES))
    parser.add_argument("--seeds", type=int, help="fewer or more seeds than the study's")
    asked = parser.parse_args()
    tables, papers, rows = {}, {}, []
    for title in [asked.only] if asked.only else list(TABLES):
        done = []
        for name, settings, seeds, _, paper in TABLES[title]:
            done.append(run(name, settings, asked.seeds or seeds, asked.work))
            papers[name] = paper
            print(f"{name}: {100 * done[-1]['test']:.2f} ± {100 * done[-1]['std']:.2f}", flush=True)
        tables[title] = done
        score = {r["name"]: r["test"] for r in done}
        rows += [
            {"work": n, "ours": score[n], "peer": score[p], "peer_name": p, "unit": "test accuracy",
             "ratio": round(score[n] / score[p], 4)}
            for n, _, _, p, _ in TABLES[title] if p
        ]  # fmt: skip
    if not asked.only and not asked.seeds:
        folder = Path(__file__).parent / "results"
        folder.mkdir(exist_ok=True)
        (folder / f"cluster_gcn_accuracy_{date.today()}.md").write_text(page(tables, papers), encoding="utf-8")
    print(json.dumps({"benchmark": "cluster_gcn_accuracy", "machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
