"""G-Meta: few-shot nodes and links beside what it is compared with, and episodes a second beside PyG.

    GRAPHSCALE_DATA=... python benchmarks/gmeta.py [--work DIR] [--only TABLE ...] [--seeds S] [--threads T] [--page]

Runs are made once: what they gave is a line of benchmarks/results/gmeta_runs.jsonl, so a study that stopped goes on
where it stopped, on another machine too. ``--page`` writes benchmarks/results/gmeta_DATE.md of what is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import gmeta_peer
import torch
from study import Ledger, machine

from graphscale import configure, heap, probe
from graphscale.batches.ahead import ahead
from graphscale.data.synthetic import planted
from graphscale.loop import train_step
from graphscale.recipes import gmeta

RESULTS = Path(__file__).parent / "results"
Table = tuple[list[str], list[list[str]]]

METHODS: dict[str, dict[str, Any]] = {
    # Of 0.003 and 0.03 the better by validation on all six synthetic tables, five folds, seed 0.
    "G-Meta": {"inner_lr": 0.003},
    "G-Meta, author": {"variant": "author"},
    "ProtoNet": {"method": "protonet"},
    "MAML": {"method": "maml"},
    "MAML, whole graph": {"method": "maml", "reach": "graph"},
    "KNN": {"method": "knn"},
    "Finetune": {"method": "finetune"},
    "No finetune": {"method": "no_finetune", "epochs": 1, "eval_every": 1},
    "TLP (DGI)": {"method": "tlp", "epochs": 100, "eval_every": 50, "lr": 1e-3},
}
# Both steps at both rates, on the synthetic graphs.
RATES: dict[str, dict[str, Any]] = {
    "G-Meta at the rate 0.03": {"inner_lr": 0.03},
    "G-Meta, author, at the rate 0.003": {"variant": "author", "inner_lr": 0.003},
}
# A head that begins at 0 needs more than prototypes do to move: tried on fold 0 of the cycle and of wiki.
_HEADS = ("MAML", "MAML, whole graph", "Finetune", "No finetune")
# (recalled figure of the paper, settings); degrees within subgraphs are the features, 2 ways and 1 shot.
_SYN: dict[str, Any] = {
    "ways": 2, "shots": 1, "queries": 10, "hidden": 32, "inner_lr": 0.03, "lr": 0.01, "inner_steps": 5,
    "test_steps": 10, "tasks": 320, "tasks_per_step": 16, "epochs": 6, "eval_every": 2, "eval_tasks": 100,
}  # fmt: skip
SYNTHETIC: dict[str, tuple[str, dict[str, Any]]] = {
    "Cycle, one graph, new labels": ("87.2 ± 12.9", {"data": "syn-cycle", "val_labels": 2, "test_labels": 2}),
    "BA, one graph, new labels": ("86.7 ± 14.7", {"data": "syn-ba", "val_labels": 2, "test_labels": 2}),
    "Cycle, ten graphs, known labels": ("54.2 ± 4.5", {"data": "syn-cycle:10", "setup": "shared", "test_graphs": 1}),
    "BA, ten graphs, known labels": ("73.4 ± 3.8", {"data": "syn-ba:10", "setup": "shared", "test_graphs": 1}),
    "Cycle, ten graphs, new labels": (
        "76.7 ± 18.0", {"data": "syn-cycle:10", "setup": "disjoint", "val_labels": 2, "test_labels": 2}
    ),
    "BA, ten graphs, new labels": (
        "86.7 ± 20.9", {"data": "syn-ba:10", "setup": "disjoint", "val_labels": 2, "test_labels": 2}
    ),
}  # fmt: skip
_REAL: dict[str, Any] = {
    "ways": 3, "shots": 3, "queries": 24, "hidden": 64, "tasks": 160, "tasks_per_step": 8, "epochs": 4, "eval_every": 2,
    "inner_steps": 5, "test_steps": 10, "eval_tasks": 40, "inner_lr": 0.003,
}  # fmt: skip
REAL: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "wiki, new labels": ([{"fold": f} for f in range(5)], {"data": "wiki", "scaling": "standard"}),
    "email_eu_core, new labels, structure alone": ([{"fold": f} for f in range(5)], {"data": "email_eu_core"}),
    "ohmnet, links of new tissues": (
        [{"fold": f} for f in (0, 3, 6)],
        {"data": "ohmnet", "setup": "links", "shots": 16, "queries": 32, "test_graphs": 1, "cap": 300, "hidden": 32},
    ),
    "twitch, new countries": (
        [{"test_graph": g} for g in ("DE", "ENGB", "ES", "FR", "PTBR", "RU")],
        {"data": "twitch", "setup": "shared", "scaling": "standard", "hidden": 32, "tasks": 80, "cap": 300},
    ),
}  # fmt: skip


def cases(only: dict[str, Any], base: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(data, method, settings) of every run but its seed."""
    for name, row in only.items():
        parts, settings = ([{"fold": f} for f in range(5)], row[1]) if isinstance(row[0], str) else row
        for method, special in (METHODS | (RATES if name in SYNTHETIC else {})).items():
            for part in parts:
                rate = {"inner_lr": 10 * base["inner_lr"]} if method in _HEADS else {}
                yield name, method, {**base, **settings, **part, **rate, **special}


def scores(ledger: Ledger, only: dict[str, Any], base: dict[str, Any], seeds: int, *, run: bool) -> Table:
    """Test accuracy of the best epoch by validation; mean and deviation over folds and seeds, and over seeds alone."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    # A data set after the other, and all cases of a seed before the next: a study that is stopped says something.
    for name, seed in itertools.product(only, range(seeds)):
        for data, method, settings in cases({name: only[name]}, base):
            values = {"preset": "none", "threads": 1, **settings, "seed": seed}
            result = ledger.result("gmeta", f"{data} | {method}", values, run=run)
            if result is not None:
                found.setdefault((data, method), []).append((seed, 100 * result["test"]["accuracy"]))
    lines = []
    for (data, method), got in found.items():
        values = [v for _, v in got]
        by_seed = [statistics.fmean(v for s, v in got if s == seed) for seed in sorted({s for s, _ in got})]
        between = statistics.stdev(by_seed) if len(by_seed) > 1 else float("nan")
        recalled = only[data][0] if isinstance(only[data][0], str) and method == "G-Meta" else ""
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        lines.append([data, method, str(len(values)), f"{statistics.fmean(values):.1f} ± {spread:.1f}",
                      f"{between:.1f}", recalled])  # fmt: skip
    order = {name: i for i, name in enumerate(only)}
    lines.sort(key=lambda line: order[line[0]])
    return ["data", "method", "runs", "test accuracy ± over runs", "± over seeds", "paper, recalled"], lines


def synthetic(ledger: Ledger, seeds: int, run: bool) -> Table:
    """2 ways, 1 shot; five label folds (graph folds for known labels)."""
    return scores(ledger, SYNTHETIC, _SYN, seeds, run=run)


def real(ledger: Ledger, seeds: int, run: bool) -> Table:
    """3 ways, 3 shots, 24 queries; links: 16 shots, 32 queries."""
    return scores(ledger, REAL, _REAL, seeds, run=run)


SPEED = {
    "ways": 3, "shots": 3, "queries": 24, "hidden": 256, "inner_steps": 10, "tasks": 3200, "tasks_per_step": 32,
    "cap": 1000, "preset": "none", "variant": "author",
}  # fmt: skip


def speed(ledger: Ledger, seeds: int, run: bool) -> Table:
    """Episodes a second of training, subgraphs found anew (ours) or given (PyG's), 32 tasks a step, in turn."""
    lines = []
    for name in ("wiki", "generated, 169,343 nodes, 1.17 M edges"):
        lines += _speed_of(name)
        print(lines[-1], flush=True)
    return ["graph", "way", "episodes a second", "times PyG", "batches ahead", "threads"], lines


def _views(name: str, config: Any) -> Any:
    if name == "wiki":
        return gmeta.read(config)
    from graphscale import fewshot_views
    from graphscale.data.union import Collection

    graph = planted(169_343, degree=13.8, num_features=128, num_classes=40)
    real, fewshot_views.collections.load = fewshot_views.collections.load, lambda *a, **k: Collection(graph, ("g",))
    try:
        return gmeta.read(config)
    finally:
        fewshot_views.collections.load = real


def _speed_of(name: str) -> list[list[str]]:
    data = {"data": "wiki", "scaling": "row"} if name == "wiki" else {"data": "planted"}
    config: Any = configure("gmeta", **SPEED, **data)
    views = _views(name, config)
    runs = {depth: gmeta.build(config, views, 0) for depth in (0, 2)}
    streams = {depth: ahead(run.batches.epoch(0), depth) for depth, run in runs.items()}  # type: ignore[type-var]
    batch: Any = next(iter(gmeta.build(config, views, 0).batches.epoch(0)))
    found = gmeta_peer.sides(views.graph, batch, config.cap)
    peer = gmeta_peer.Net(views.x.shape[1], 256, 3)
    optimiser = torch.optim.Adam(peer.parameters(), lr=1e-3)
    took: dict[str, list[float]] = {"0": [], "2": [], "peer": []}
    for round_ in range(4):
        for depth, run in runs.items():
            began = time.perf_counter()
            for i in range(3):
                train_step(run, next(streams[depth]), i)
            took[str(depth)].append((time.perf_counter() - began) / 96)
        if round_ < 2:
            began = time.perf_counter()
            gmeta_peer.step(peer, optimiser, views.x, found, batch, steps=10, rate=0.01, tasks=2)
            took["peer"].append((time.perf_counter() - began) / 2)
    for stream in streams.values():
        stream.close()  # type: ignore[attr-defined]
    peer_rate = 1 / min(took["peer"])
    threads = str(torch.get_num_threads())
    lines = [[name, "PyG, the released code's order", f"{peer_rate:.2f}", "1", "subgraphs given", threads]]
    for depth in ("0", "2"):
        rate = 1 / statistics.median(took[depth][1:])
        lines.append([name, "graphscale", f"{rate:.1f}", f"{rate / peer_rate:.0f}", depth, threads])
    return lines


def work(ledger: Ledger, seeds: int, run: bool) -> Table:
    """What a step on wiki computes: 3 ways, 3 shots, 24 queries, 2 hops, 2 layers."""
    config: Any = configure("gmeta", data="wiki", preset="none", scaling="standard", tasks=32)
    views = gmeta.read(config)
    batch: Any = next(iter(gmeta.build(config, views, 0).batches.epoch(0)))
    sides = (batch.support, batch.query)
    whole, kept = (sum(int(n) for n in of) for of in ([s.size.sum() for s in sides], [s.lift.shape[0] for s in sides]))
    columns = statistics.fmean(gram.shape[1] for gram in batch.query.gram)
    lines = [["rows of a layer", f"{whole:,}", f"{kept:,}", f"{whole / kept:.1f}"]]
    features = views.x.shape[1]
    lines.append(["columns in the inner loop", f"{features:,}", f"{columns:.0f}", f"{features / columns:.0f}"])
    return ["", "of whole subgraphs with their features", "here", "times less"], lines


def memory(ledger: Ledger, seeds: int, run: bool) -> Table:
    """Peak anonymous memory of ten steps by inner steps, on wiki, a process each: first order, then second."""
    lines = []
    for order in ("first", "second"):
        peaks = [_own("memory", order, str(steps)) for steps in (2, 10, 40)]
        lines.append([order, *(f"{float(p[0]):,.0f}" for p in peaks)])
        print(lines[-1], flush=True)
    return ["order", "2 steps, MB", "10 steps, MB", "40 steps, MB"], lines


def _memory_of(order: str, steps: str) -> list[str]:
    config: Any = configure("gmeta", **{**SPEED, "variant": "house", "inner_steps": int(steps)}, data="wiki",
                            scaling="row", order=order)  # fmt: skip
    views = gmeta.read(config)
    made = gmeta.build(config, views, 0)
    with probe.PeakMemory() as peak:
        batches = made.batches.epoch(0)
        for i in range(10):
            train_step(made, next(batches), i)
    return [str(peak.peak_mb)]


def store(ledger: Ledger, seeds: int, run: bool) -> Table:
    """1,840 generated graphs of 788 nodes (the size of Tree-of-Life) in one store: known labels, and links."""
    lines = []
    for setup in ("shared", "links"):
        lines.append([setup, *_own("store", setup)])
        print(lines[-1], flush=True)
    return ["setup", "nodes", "seconds to open and split", "episodes a second", "validation accuracy after 20 steps",
            "peak anonymous MB"], lines  # fmt: skip


def _store_of(setup: str) -> list[str]:
    from graphscale.cli import main as command

    place = Path("runs/gmeta/store-1840x788")
    if not place.is_dir():
        command(["prepare", "planted-graphs:1840:788", "--to", str(place), "--graphs"])
    with probe.PeakMemory() as peak:
        began = time.perf_counter()
        config: Any = configure("gmeta", data=str(place), preset="none", setup=setup, shots=3, queries=10, hidden=64,
                                tasks=32 * 40, tasks_per_step=8, eval_tasks=40)  # fmt: skip
        made = gmeta.build(config, gmeta.read(config), 0)
        opened = time.perf_counter() - began
        batches = made.batches.epoch(0)
        train_step(made, next(batches), 0)
        began = time.perf_counter()
        for i in range(20):
            train_step(made, next(batches), i + 1)
        rate = 160 / (time.perf_counter() - began)
        accuracy = made.evaluate()["val"]["accuracy"]
    nodes = gmeta.read(config).graph.num_nodes if setup == "shared" else 1840 * 788
    return [f"{nodes:,}", f"{opened:.0f}", f"{rate:.0f}", f"{100 * accuracy:.1f}", f"{peak.peak_mb or 0:,.0f}"]


def _own(*what: str) -> list[str]:
    """A row measured in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(torch.get_num_threads()), "--alone", *what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: list[str] = json.loads(done.stdout.splitlines()[-1])
    return row


TABLES: dict[str, Callable[[Ledger, int, bool], Table]] = {
    "synthetic": synthetic, "real": real, "speed": speed, "work": work, "memory": memory, "store": store,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/gmeta"))
    parser.add_argument("--only", nargs="*", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="write the page of the runs that are there; make none")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    heap.keep_freed()
    if asked.alone:
        print(json.dumps({"memory": _memory_of, "store": _store_of}[asked.alone[0]](*asked.alone[1:])))  # type: ignore[operator]
        return
    ledger = Ledger(RESULTS / "gmeta_runs.jsonl", asked.work)
    lines = [f"# G-Meta, {date.today()}", "",
             f"Machine: {machine()}. Versions: {json.dumps(probe.versions())}. Commit: {probe.commit()}.",
             f"Command: `python benchmarks/gmeta.py --seeds {asked.seeds}`."]  # fmt: skip
    tables: dict[str, list[list[str]]] = {}
    for name in asked.only:
        header, rows = TABLES[name](ledger, asked.seeds, not asked.page)
        tables[name] = rows
        lines += ["", f"## {name}", "", str(TABLES[name].__doc__), "", "| " + " | ".join(header) + " |"]
        lines += ["|" + "---|" * len(header), *("| " + " | ".join(row) + " |" for row in rows)]
    text = "\n".join([*lines, ""])
    print(text)
    if asked.page:
        (RESULTS / f"gmeta_{'_'.join(asked.only)}_{date.today()}.md").write_text(text, encoding="utf-8")
    print(json.dumps({"benchmark": "gmeta", "machine": machine(), "tables": tables}))


if __name__ == "__main__":
    main()
