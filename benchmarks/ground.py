"""The ground under all systems: partitions, sampling, processes, kills, memory of the streaming path.

    GRAPHSCALE_DATA=... python benchmarks/ground.py [--work DIR] [--only TABLE]

A run whose ``result.json`` is under --work is not repeated. Writes benchmarks/results/ground_DATE.md
and ends with a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from study import machine, trained

from graphscale import probe
from graphscale.data.static import load
from graphscale.partitioning import partition

Table = tuple[list[str], list[list[str]], list[dict[str, Any]]]  # header, lines, rows of the JSON


def row(work: str, ours: float, peer: float, peer_name: str, unit: str) -> dict[str, Any]:
    """A row of the closing line."""
    ratio = round(ours / peer, 4) if peer else None
    return {"work": work, "ours": ours, "peer": peer, "peer_name": peer_name, "unit": unit, "ratio": ratio}


def partitions(work: Path) -> Table:
    """Edge cut, halo and seconds of the three partitioners."""
    lines, rows = [], []
    partition(load("planted:1000"), 10, method="stream")  # compile apart
    for name, parts in (("facebook", 50), ("tolokers", 50), ("planted:1000000", 1000)):
        graph = load(name)
        cuts = {}
        for method in ("metis", "stream", "random"):
            began = time.perf_counter()
            cut = partition(graph, parts, method=method)  # type: ignore[arg-type]
            seconds = time.perf_counter() - began
            cuts[method] = cut.cut
            sizes = cut.part_ptr.diff()
            lines.append(
                [name, str(parts), method, f"{cut.cut:.1%}", f"{cut.halo_ratio:.2f}",
                 f"{int(sizes.min())}..{int(sizes.max())}", f"{seconds:.2f}"]
            )  # fmt: skip
        rows.append(row(f"edge cut of {name}, stream", cuts["stream"], cuts["metis"], "METIS", "share of edges"))
    return ["graph", "parts", "partitioner", "edge cut", "halo ratio", "sizes", "s"], lines, rows


def scored(found: list[dict[str, Any]]) -> tuple[float, str, str]:
    """(mean, mean and deviation in percent, seconds of training) of runs."""
    test = [r["test"]["accuracy"] for r in found]
    text = f"{100 * statistics.fmean(test):.2f} ± {100 * statistics.stdev(test):.2f}"
    return statistics.fmean(test), text, f"{statistics.fmean(r['seconds']['train'] for r in found):.1f}"


SAGE = {"layers": 2, "hidden": 64, "dropout": 0.5, "layer_norm": False, "fanout": "10,10"}
# GraphSAGE-mean as a model of the house keeps facebook's 4,714 sparse columns sparse; PyG's layer needs them dense.
HOUSE = {"model": "cluster_gcn", "norm": "row", "concat": True}


def sampling(work: Path) -> Table:
    """GraphSAGE (mean) by sampled neighbours, by clusters, on the full batch."""
    lines, rows = [], []
    for data, extra in (
        ("cora", {"model": "sage", "batch_size": 64}),
        ("facebook", {**HOUSE, "batch_size": 1024, "lr": 0.01}),
    ):
        means = {}
        for batches, epochs in (("neighbors", 60), ("clusters", 60), ("full", 200)):
            settings = {"data": data, **SAGE, **extra, "batches": batches, "epochs": epochs}
            found = trained(work, f"sage-{data}-{batches}", settings, 3)
            means[batches], text, seconds = scored(found)
            lines.append([data, batches, text, str(epochs), seconds])
        work_name = f"GraphSAGE on {data}, neighbours"
        rows.append(row(work_name, means["neighbors"], means["full"], "full batch", "test accuracy"))
    return ["data", "batches", "test", "epochs", "s/run"], lines, rows


def command(work: Path, out: str, *flags: str, recipe: str = "cluster_gcn") -> list[str]:
    """A training command in a process of its own."""
    return [sys.executable, "-m", "graphscale", "train", recipe, *flags, "--out", str(work / out)]


def processes(work: Path) -> Table:
    """One process with two threads beside two processes with one each; facebook, equal epochs."""
    lines, seconds, means = [], {}, {}
    for size in (1, 2):
        found = []
        for seed in range(3):
            out = work / f"nproc{size}-{seed}"
            if not (out / "result.json").is_file():
                # Two ranks take half the steps, each on the examples of two batches.
                flags = [
                    "--data",
                    "facebook",
                    "--epochs",
                    "60",
                    "--seed",
                    str(seed),
                    "--nproc",
                    str(size),
                    "--overwrite",
                ]
                subprocess.run(command(work, out.name, *flags), check=True, stderr=subprocess.DEVNULL)
            found.append(json.loads((out / "result.json").read_text()))
        means[size], text, train_seconds = scored(found)
        seconds[size] = float(train_seconds)
        lines.append([f"{size}", text, train_seconds])
    rows = [
        row("facebook, accuracy of 2 processes", means[2], means[1], "1 process", "accuracy"),
        row("facebook, 60 epochs on 2 processes", seconds[2], seconds[1], "1 process, 2 threads", "s"),
    ]
    return ["processes", "test", "s/run"], lines, rows


KILLED = {
    "cluster_gcn": ("cluster_gcn", []),
    "gas, histories in memory": ("gas", []),
    "gas, histories on disk": ("gas", ["--histories", "disk", "--history-dtype", "bfloat16"]),
    "gas, LMC": ("gas", ["--compensation", "lmc"]),
}


def kills(work: Path) -> Table:
    """Cora, killed ten times at random moments: the metrics must be those of the uninterrupted run."""
    lines, rows = [], []
    for name, (recipe, special) in KILLED.items():
        killed, same, epochs, equal = survived(work / name.replace(", ", "-").replace(" ", "-"), recipe, special)
        lines.append([name, str(killed), f"{same} of {epochs}", "equal" if equal else "DIFFERENT"])
        rows.append(row(f"cora, {name}: epochs equal after {killed} kills", same, epochs, "uninterrupted", "epochs"))
    return ["recipe", "kills", "epochs whose loss and scores are equal to the bit", "result"], lines, rows


def survived(work: Path, recipe: str, special: list[str]) -> tuple[int, int, int, bool]:
    """(kills, epochs that are equal, epochs, whether the results are)."""
    flags = ["--data", "cora", "--epochs", "150", "--threads", "1", "--save-seconds", "0.2", *special]
    subprocess.run(command(work, "whole", *flags, "--overwrite", recipe=recipe), check=True, stderr=subprocess.DEVNULL)
    draw, killed = random.Random(0), 0
    subprocess.run(["rm", "-rf", str(work / "killed")], check=True)
    metrics = work / "killed" / "metrics.jsonl"
    while killed < 10:
        resume = ["--resume"] if (work / "killed" / "config.toml").is_file() else []
        process = subprocess.Popen(command(work, "killed", *flags, *resume, recipe=recipe), stderr=subprocess.DEVNULL)
        before = metrics.stat().st_mtime if metrics.is_file() else 0.0
        while process.poll() is None and not (metrics.is_file() and metrics.stat().st_mtime > before):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    subprocess.run(command(work, "killed", *flags, "--resume", recipe=recipe), check=True, stderr=subprocess.DEVNULL)

    def story(name: str) -> list[tuple[Any, ...]]:
        text = (work / name / "metrics.jsonl").read_text().splitlines()
        return [(r["epoch"], r["loss"], json.dumps([r["scores"], r.get("measures")])) for r in map(json.loads, text)]

    same = sum(a == b for a, b in zip(story("whole"), story("killed"), strict=True))
    results = [json.loads((work / name / "result.json").read_text()) for name in ("whole", "killed")]
    equal = all(results[0][key] == results[1][key] for key in ("val", "test", "final", "best_epoch"))
    return killed, same, len(story("whole")), equal


def streaming(work: Path) -> Table:
    """20 M edges in Parquet to a store, the data segment limited to 1.5 GiB."""
    source = work / "edges.parquet"
    if not source.is_file():
        nodes, edges = 1_000_000, 20_000_000
        draw = np.random.default_rng(0)
        group = draw.integers(nodes // 50, size=nodes)
        members = np.argsort(group, kind="stable")
        start = np.searchsorted(group[members], np.arange(nodes // 50 + 1))
        src = draw.integers(nodes, size=edges)
        lo, hi = start[group[src]], start[group[src] + 1]
        near = members[np.minimum(lo + (draw.random(edges) * (hi - lo)).astype(np.int64), nodes - 1)]
        dst = np.where(draw.random(edges) < 0.8, near, draw.integers(nodes, size=edges))
        pq.write_table(pa.table({"src": src, "dst": dst}), source)
    lines = []
    for limit in (1536, 768):
        size = limit << 20
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "graphscale", "prepare", str(source), "--to", str(work / "store"), "--overwrite",
             "--num-parts", "1000", "--partitioner", "stream", "--undirected"],
            preexec_fn=lambda size=size: resource.setrlimit(resource.RLIMIT_DATA, (size, size)),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        lines.append([f"{limit} MiB", "done" if done.returncode == 0 else done.stderr[-200:], f"{seconds:.1f}"])
    return ["limit of the data segment", "outcome", "s"], lines, []


TABLES = {
    "partitions": partitions,
    "sampling": sampling,
    "processes": processes,
    "kills": kills,
    "streaming": streaming,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/ground"))
    parser.add_argument("--only", choices=list(TABLES))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    text = [f"# The ground, {date.today()}", "", f"Machine: {machine()}. Commit: {probe.commit()}.", ""]
    text += ["Command: `python benchmarks/ground.py`.", ""]
    rows: list[dict[str, Any]] = []
    for name in [asked.only] if asked.only else list(TABLES):
        header, lines, found = TABLES[name](asked.work)
        rows += found
        page = [f"## {name}", "", TABLES[name].__doc__ or "", "", "| " + " | ".join(header) + " |"]
        page += ["|" + "---|" * len(header)]
        page += ["| " + " | ".join(line) + " |" for line in lines] + [""]
        print("\n".join(page), flush=True)
        text += page
    if not asked.only:
        (Path(__file__).parent / "results" / f"ground_{date.today()}.md").write_text("\n".join(text), encoding="utf-8")
    print(json.dumps({"benchmark": "ground", "machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
