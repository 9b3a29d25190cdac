"""Graphs larger than memory: a store of 2.4 M nodes, its epochs, its evaluation, and what size costs.

    python benchmarks/scale.py [--work DIR] [--only TABLE] [--nodes N --edges E]

Stores and runs lie under --work (4 GB) and are not made again once they are there. Writes
benchmarks/results/scale_DATE.md (of a whole study) and ends with a JSON line.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from study import in_turn, machine

from graphscale import configure, probe, store
from graphscale.batches.ahead import ahead
from graphscale.batches.cluster import ClusterBatches
from graphscale.batches.neighbor import NeighborBatches
from graphscale.data.pyg import to_pyg
from graphscale.data.synthetic import planted
from graphscale.graph import Graph
from graphscale.loop import train_step
from graphscale.partitioning import partition
from graphscale.recipes import cluster_gcn
from graphscale.run import Run

AMAZON2M = (2_449_029, 61_859_140)
PART = 163.27  # nodes a part: 15,000 parts of Amazon2M
RESULTS = Path(__file__).parent / "results"
Table = tuple[list[str], list[list[str]], list[dict[str, Any]]]  # header, lines, rows of the JSON


def row(work: str, ours: float, peer: float | None, peer_name: str, unit: str) -> dict[str, Any]:
    """A row of the closing line; the ratio is ours over the peer's, or the limit's."""
    ratio = round(ours / peer, 3) if peer else None
    return {"work": work, "ours": round(ours, 4), "peer": peer, "peer_name": peer_name, "unit": unit, "ratio": ratio}


def watched(command: list[str]) -> tuple[float, float, str]:
    """(seconds, peak anonymous MB, last line printed) of a command."""
    began, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        anon = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")]
        peak = max(peak, *(kb * 1024 / 1e6 for kb in anon), 0.0)
        time.sleep(0.05)
    said = process.communicate()[0].strip().splitlines()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed.")
    return time.perf_counter() - began, peak, said[-1] if said else ""


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` found, from its file where it was made before."""
    if not file.is_file():
        file.write_text(json.dumps({**make(), "commit": probe.commit()}))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def made(work: Path, nodes: int, edges: int, partitioner: str = "stream") -> tuple[Path, dict[str, Any]]:
    """A store of that size, and what it cost to make."""
    place = work / f"store-{nodes}"

    def make() -> dict[str, Any]:
        command = [sys.executable, "-m", "graphscale", "generate", "amazon2m-like", "--to", str(place), "--overwrite",
                   "--nodes", str(nodes), "--edges", str(edges), "--num-parts", str(round(nodes / PART))]  # fmt: skip
        seconds, peak, _ = watched(command)
        return {"seconds": seconds, "peak": peak}

    return place, kept(work / f"store-{nodes}.json", make)


METIS = """
import sys, json
from graphscale import store
from graphscale.partitioning import partition
graph = store.read(__import__("pathlib").Path(sys.argv[1]))
print(json.dumps(partition(graph, graph.num_parts, method="metis").describe()))
"""


def making(work: Path, nodes: int, edges: int) -> Table:
    """Generating, cutting by the streaming partitioner and writing the store; METIS on the same graph."""
    place, cost = made(work, nodes, edges)
    manifest = json.loads((place / "manifest.json").read_text())

    def by_metis() -> dict[str, Any]:
        seconds, peak, said = watched([sys.executable, "-c", METIS, str(place)])
        return {"seconds": seconds, "peak": peak, **json.loads(said)}

    metis = kept(work / f"metis-{nodes}.json", by_metis)
    cut = manifest["partition"]
    size = f"{manifest['nodes']:,} nodes, {manifest['entries']:,} entries"
    lines = [
        [f"generate, cut by stream, write: {size}", f"{cost['seconds']:.0f}", f"{cost['peak']:.0f}",
         f"{cut['edge_cut']:.1%}", f"{cut['smallest']}..{cut['largest']}"],
        ["METIS alone, on the stored graph", f"{metis['seconds']:.0f}", f"{metis['peak']:.0f}",
         f"{metis['edge_cut']:.1%}", f"{metis['smallest']}..{metis['largest']}"],
    ]  # fmt: skip
    rows = [
        row("store of 2.4 M nodes, generated and cut", cost["seconds"], 900, "limit of 15 minutes", "s"),
        row("its peak anonymous memory", cost["peak"], 6 * 1073.74, "limit of 6 GiB", "MB"),
        row("seconds of generation, stream and store", cost["seconds"], metis["seconds"], "METIS alone", "s"),
        row("edge cut of the streaming partitioner", cut["edge_cut"], metis["edge_cut"], "METIS", "share of edges"),
    ]
    return ["work", "s", "peak anonymous MB", "edge cut", "sizes"], lines, rows


DEEP = {"hidden": 400, "parts_per_batch": 10, "lr": 0.01, "dropout": 0.2}


def depth(work: Path, nodes: int, edges: int) -> Table:
    """An epoch (mean of two, one run) and an exact evaluation at 2 to 4 layers, 400 wide, 10 parts a batch."""
    place, _ = made(work, nodes, edges)
    lines, rows = [], []
    paper = {2: 2228, 3: 2235, 4: 2241}  # MB of device memory (Cluster-GCN, table 8)
    for layers, theirs in paper.items():
        out = work / f"depth-{nodes}-{layers}"
        if not (out / "result.json").is_file():
            flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**DEEP, "layers": layers}.items()]
            command = [sys.executable, "-m", "graphscale", "train", "cluster_gcn", "--data", str(place), *flags,
                       "--epochs=2", "--eval-every=2", "--overwrite", f"--out={out}"]  # fmt: skip
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        result = json.loads((out / "result.json").read_text())
        epoch, evaluated = result["seconds"]["train"] / 2, result["seconds"]["evaluate"]
        peak, test = result["peak_anon_mb"], result["test"]["accuracy"]
        lines.append([f"{layers}", f"{epoch:.0f}", f"{evaluated:.0f}", f"{peak:.0f}", f"{theirs}", f"{test:.2%}"])
        rows.append(row(f"epoch, {layers} layers of 400", epoch, 360, "limit of 6 minutes", "s"))
        rows.append(row(f"peak anonymous memory, {layers} layers", peak, 2 * 1073.74, "limit of 2 GiB", "MB"))
    head = ["layers", "epoch, s", "exact evaluation, s", "peak anonymous MB", "paper's device MB", "test, 2 epochs"]
    return head, lines, rows


def in_ram(graph: Graph) -> Graph:
    """The same graph in anonymous memory."""
    assert isinstance(graph.x, torch.Tensor)
    adj = replace(graph.adj, indptr=graph.adj.indptr.clone(), indices=graph.adj.indices.clone())
    return replace(graph, adj=adj, x=graph.x.clone(), y=graph.y.clone())


def steps(run: Run, count: int) -> None:
    """The first steps of an epoch."""
    for i, batch in enumerate(ahead(itertools.islice(run.batches.epoch(0), count), run.prefetch)):
        train_step(run, batch, i)


def ram(work: Path, nodes: int, edges: int) -> Table:
    """150 steps of 3 layers from the store, its pages warm, and from memory, in turn."""
    place, _ = made(work, nodes, edges)
    config = configure("cluster_gcn", data=str(place), layers=3, preset="none", **DEEP)
    views = cluster_gcn.read(config)
    run = cluster_gcn.build(config, views, 0)
    other = replace(run, batches=ClusterBatches(in_ram(views.seen), DEEP["parts_per_batch"], seed=0))
    run.model.train()
    seconds = in_turn({"store": lambda: steps(run, 150), "memory": lambda: steps(other, 150)}, 5)
    line = [f"{seconds['store']:.2f}", f"{seconds['memory']:.2f}", f"{seconds['store'] / seconds['memory']:.3f}"]
    return ["store, s", "memory, s", "ratio"], [line], [
        row("150 steps from the store", seconds["store"], seconds["memory"], "from memory", "s")
    ]  # fmt: skip


def linear(work: Path, nodes: int, edges: int) -> Table:
    """Seconds an edge of an epoch (3 layers of 128, 10 parts a batch; median of 3), as the graph grows."""
    sizes, lines, found = [250_000, 500_000, 1_000_000, 2_000_000, 4_000_000], [], []
    for size in sizes:
        place, cost = made(work, size, round(size * AMAZON2M[1] / AMAZON2M[0]))
        config = configure("cluster_gcn", data=str(place), layers=3, preset="none", **{**DEEP, "hidden": 128})
        run = cluster_gcn.build(config, cluster_gcn.read(config), 0)
        run.model.train()
        seconds = in_turn({"epoch": lambda run=run: steps(run, len(run.batches))}, 3)["epoch"]
        entries = store.read(place).num_entries
        found.append(1e9 * seconds / (entries / 2))
        lines.append([f"{size:,}", f"{entries // 2:,}", f"{seconds:.1f}", f"{found[-1]:.1f}", f"{cost['seconds']:.0f}"])
    plot(sizes, found)
    lines.append(["", "", "", f"largest over smallest: {max(found) / min(found):.2f} (limit 1.20)", ""])
    rows = [row("seconds an edge, largest over smallest of five sizes", max(found), min(found), "the smallest", "ns")]
    return ["nodes", "edges", "epoch, s", "ns an edge", "store made in, s"], lines, rows


def plot(sizes: list[int], found: list[float]) -> None:
    """Seconds an edge over nodes, with the mean and 20 % about it."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3), layout="constrained")
    mean = statistics.fmean(found)
    axes.axhspan(0.9 * mean, 1.1 * mean, alpha=0.15, label="20 % wide")
    axes.plot([size / 1e6 for size in sizes], found, marker="o")
    axes.set(xscale="log", xlabel="million nodes", ylabel="ns an edge and epoch", ylim=(0, 1.4 * max(found)))
    axes.legend()
    figure.savefig(RESULTS / f"scale_linear_{date.today()}.svg")


def sampling(work: Path, nodes: int, edges: int) -> Table:
    """Batches a second of sampled neighbours, 512 roots, fan-out 10, 10, 10; one thread each."""
    graph = planted(300_000, degree=40.0, num_features=128)
    graph = partition(graph, 100).apply(graph)
    ours = NeighborBatches(graph, (10, 10, 10), 512, seed=0)

    def drawn(batches: Any) -> None:
        for _ in itertools.islice(batches, 50):
            pass

    works: dict[str, Callable[[], Any]] = {"ours": lambda: drawn(ours.epoch(0))}
    if any(importlib.util.find_spec(name) for name in ("pyg_lib", "torch_sparse")):
        from torch_geometric.loader import NeighborLoader

        data = to_pyg(graph)
        loader = NeighborLoader(data, [10, 10, 10], data.train_mask, batch_size=512, shuffle=True)
        works["PyG NeighborLoader"] = lambda: drawn(loader)
    seconds = in_turn(works, 5)
    peer = seconds.get("PyG NeighborLoader")
    line = [f"{50 / seconds['ours']:.1f}", f"{50 / peer:.1f}" if peer else "no pyg-lib, no torch-sparse here"]
    rates = (50 / seconds["ours"], round(50 / peer, 4) if peer else None)
    return ["ours, batches/s", "PyG NeighborLoader, batches/s"], [line], [
        row("sampled batches a second", *rates, "PyG NeighborLoader", "1/s")
    ]  # fmt: skip


TABLES = {"making": making, "depth": depth, "ram": ram, "linear": linear, "sampling": sampling}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/scale"))
    parser.add_argument("--only", choices=list(TABLES))
    parser.add_argument("--nodes", type=int, default=AMAZON2M[0])
    parser.add_argument("--edges", type=int, default=AMAZON2M[1])
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    text = [f"# Scale, {date.today()}", "", f"Machine: {machine()}, {torch.get_num_threads()} threads. Versions:"]
    text += [f"{json.dumps(probe.versions())}. Commit: {probe.commit()}.", "Command: `python benchmarks/scale.py`.", ""]
    rows: list[dict[str, Any]] = []
    for name in [asked.only] if asked.only else list(TABLES):
        header, lines, found = TABLES[name](asked.work, asked.nodes, asked.edges)
        rows += found
        page = [f"## {name}", "", TABLES[name].__doc__ or "", "", "| " + " | ".join(header) + " |"]
        page += ["|" + "---|" * len(header), *("| " + " | ".join(line) + " |" for line in lines), ""]
        print("\n".join(page), flush=True)
        text += page
    if not asked.only and (asked.nodes, asked.edges) == AMAZON2M:
        text += [f"![seconds an edge](scale_linear_{date.today()}.svg)", ""]
        (RESULTS / f"scale_{date.today()}.md").write_text("\n".join(text), encoding="utf-8")
    print(json.dumps({"benchmark": "scale", "machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
