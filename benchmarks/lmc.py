"""LMC beside GAS and Cluster-GCN: epochs and seconds to 99 % of the full batch's accuracy, and errors of gradients.

    GRAPHSCALE_DATA=... python benchmarks/lmc.py [--only DATA] [--threads T]

One stock GCN by every way, the same parts, ten batches an epoch. "Reaches" is the first epoch whose test accuracy
is 99 % of the best that the full batch had; the gradient's error is |sum over an epoch's batches - full batch's| /
|full batch's|, frozen weights, without dropout, mean over layers. Seconds are of processors, all threads', so that a
busy machine does not change them. Writes benchmarks/results/lmc_DATE.md with plots
and ends with a JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from study import machine
from torch import Tensor

from graphscale import configure, heap, probe
from graphscale.batches.ahead import ahead, announced
from graphscale.data import static
from graphscale.data.synthetic import planted
from graphscale.data.transform import Scaler, Views, degree_features
from graphscale.graph import Graph
from graphscale.loop import fetch, prefetch, train_step
from graphscale.partitioning import partition
from graphscale.recipes import cluster_gcn, gas
from graphscale.run import Run

RESULTS = Path(__file__).parent / "results"
DATA: dict[str, tuple[Callable[[], Graph], dict[str, Any], int, int]] = {
    # data -> (graph, settings, epochs, epochs of the full batch)
    "facebook": (lambda: static.load("facebook"), {"hidden": 128, "layers": 3, "dropout": 0.3, "lr": 0.005}, 25, 120),
    "300k": (
        lambda: planted(300_000, degree=40.0, num_features=128, noise=16.0, num_classes=16),
        {"hidden": 128, "layers": 3, "dropout": 0.3, "lr": 0.01},
        12,
        60,
    ),
}
PARTS = {"facebook": 50, "300k": 100}
SEEDS = {"facebook": 3, "300k": 1}
WAYS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "Cluster-GCN": (cluster_gcn, "cluster_gcn", {}),
    "GAS": (gas, "gas", {}),
    "LMC, beta 0": (gas, "gas", {"compensation": "lmc", "beta": 0.0}),
    "LMC, beta 0.4 linear": (gas, "gas", {"compensation": "lmc", "beta": 0.4}),
    "LMC, beta 0.8 convex": (gas, "gas", {"compensation": "lmc", "beta": 0.8, "score": "convex"}),
    "LMC, beta 1 constant": (gas, "gas", {"compensation": "lmc", "beta": 1.0, "score": "constant"}),
}


def composed(graph: Graph, way: str, settings: dict[str, Any], seed: int, parts: int) -> Run:
    """The run of a way; parts 1 is the full batch."""
    recipe, name, special = WAYS[way]
    config = configure(name, data="planted", preset="none", model="gcn", layer_norm=False, num_parts=parts,
                       parts_per_batch=max(1, parts // 10), **settings, **special,
                       **({"staleness": 0} if name == "gas" else {}))  # fmt: skip
    return recipe.build(config, Views(graph, graph, Scaler("none")), seed)


def epoch(run: Run, index: int) -> None:
    """One epoch as the loop makes it."""
    run.model.train()
    batches = announced(ahead(run.batches.epoch(index), run.prefetch), lambda b: prefetch(run.tables, b.needs))
    for step, batch in enumerate(batches):
        train_step(run, batch, step)


def gradient(run: Run, index: int) -> list[Tensor]:
    """The sum of an epoch's gradients with frozen weights; nothing is written."""
    (slot,) = run.sync.slots()
    run.model.eval()
    run.model.zero_grad()
    for batch in run.batches.epoch(index):
        outcome = slot.objective({**slot.params(), **fetch(run.tables, batch.needs)}, batch)
        if outcome.count or outcome.taps:
            outcome.loss_sum.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in slot.params().values()]


def error(run: Run, whole: Run, index: int) -> float:
    """How far the epoch's gradient is from the full batch's, mean over weights."""
    whole.model.load_state_dict(run.model.state_dict())
    found, exact = gradient(run, index), gradient(whole, index)
    return statistics.fmean(
        float((f - e).norm() / e.norm().clamp(min=1e-12)) for f, e in zip(found, exact, strict=True)
    )


def curve(
    graph: Graph, way: str, settings: dict[str, Any], seed: int, parts: int, epochs: int, every: int
) -> dict[str, Any]:
    """Test accuracy, seconds of processors in training and error of the gradient, by epoch."""
    run = composed(graph, way, settings, seed, parts)
    whole = composed(graph, "GAS", settings, seed, 1) if parts > 1 and seed == 0 and every else None
    out: dict[str, Any] = {"test": [], "seconds": [], "error": []}
    spent = 0.0
    for index in range(epochs):
        began = time.process_time()
        epoch(run, index)
        spent += time.process_time() - began
        out["seconds"].append(spent)
        out["test"].append(run.evaluate()["test"]["accuracy"])
        if whole is not None and (index % every == 0 or index == epochs - 1):
            out["error"].append((index + 1, error(run, whole, index)))
    return out


def reached(curve: dict[str, Any], goal: float) -> tuple[int, float] | None:
    """(epoch, seconds) at which the accuracy is at the goal."""
    for i, test in enumerate(curve["test"]):
        if test >= goal:
            return i + 1, curve["seconds"][i]
    return None


def study(name: str, seeds: int, work: Path) -> tuple[list[str], dict[str, Any]]:
    """Lines of the report, and the curves of seed 0."""
    make, settings, epochs, full_epochs = DATA[name]
    graph = make()
    graph = degree_features(graph) if graph.x is None else graph
    clustered = partition(graph, PARTS[name], seed=0).apply(graph)
    whole = partition(graph, 1).apply(graph)

    def kept(way: str, seed: int, work_graph: Graph, parts: int, epochs: int) -> dict[str, Any]:
        file = work / f"{name}-{way.replace(' ', '-').replace(',', '')}-{parts}-{seed}.json"
        if not file.is_file():
            file.write_text(json.dumps(curve(work_graph, way, settings, seed, parts, epochs, max(1, epochs // 6))))
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    full = [kept("GAS", seed, whole, 1, full_epochs) for seed in range(seeds)]
    goal = 0.99 * statistics.fmean(max(c["test"]) for c in full)
    lines = [
        f"## {name}: {graph.num_nodes:,} nodes, {graph.num_entries:,} entries, {PARTS[name]} parts,"
        f" {max(1, PARTS[name] // 10)} a batch",
        "",
        f"Full batch: {100 * goal / 0.99:.2f} % (best of {full_epochs} epochs, {seeds} seeds); 99 % of it is"
        f" {100 * goal:.2f} %. Settings: {json.dumps(settings)}.",
        "",
        "| way | epochs to 99 % | seconds to 99 % | s an epoch"
        f" | best test in {epochs} epochs | gradient's error: first, middle, last |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    curves: dict[str, Any] = {"full batch": full[0]}
    for way in WAYS:
        found = [kept(way, seed, clustered, PARTS[name], epochs) for seed in range(seeds)]
        curves[way] = found[0]
        marks = [reached(c, goal) for c in found]
        met = [m for m in marks if m is not None]
        best = [100 * max(c["test"]) for c in found]
        errors = found[0]["error"]
        told = " ".join(f"{errors[i][1]:.3f}" for i in (0, len(errors) // 2, -1)) if errors else ""
        whens = [
            f"{statistics.fmean(m[i] for m in met):.1f}" if len(met) == seeds else f"{len(met)} of {seeds} runs"
            for i in (0, 1)
        ]
        lines.append(
            f"| {way} | {whens[0]} | {whens[1]} | {statistics.fmean(c['seconds'][-1] for c in found) / epochs:.2f} |"
            f" {statistics.fmean(best):.2f} ± {statistics.stdev(best) if seeds > 1 else 0:.2f} | {told} |"
        )
        print(lines[-1], flush=True)
    return [*lines, ""], curves


def plot(name: str, curves: dict[str, Any]) -> str:
    """Accuracy over epochs and seconds, error of the gradient over epochs."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for way, c in curves.items():
        if way != "full batch":
            axes[0].plot(range(1, len(c["test"]) + 1), c["test"], label=way)
            axes[1].plot(c["seconds"], c["test"], label=way)
            if c["error"]:
                axes[2].plot(*zip(*c["error"], strict=True), label=way, marker=".")
    axes[0].set(xlabel="epoch", ylabel="test accuracy")
    axes[1].set(xlabel="seconds of training")
    axes[2].set(xlabel="epoch", ylabel="gradient's error", yscale="log")
    axes[2].legend(fontsize=7)
    file = f"lmc_{name}_{date.today()}.svg"
    figure.savefig(RESULTS / file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(DATA))
    parser.add_argument("--work", type=Path, default=Path("runs/lmc"))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    heap.keep_freed()
    text = [
        f"# LMC, {date.today()}",
        "",
        f"Machine: {machine()}, {torch.get_num_threads()} threads used. Versions: {json.dumps(probe.versions())}.",
    ]
    text += [f"Commit: {probe.commit()}. Command: `python benchmarks/lmc.py`.", ""]
    for name in [asked.only] if asked.only else list(DATA):
        lines, curves = study(name, SEEDS[name], asked.work)
        text += [*lines, f"![{name}]({plot(name, curves)})", ""]
    page = "\n".join(text)
    print(page)
    if not asked.only:
        (RESULTS / f"lmc_{date.today()}.md").write_text(page, encoding="utf-8")
    print(json.dumps({"benchmark": "lmc", "machine": machine()}))


if __name__ == "__main__":
    main()
