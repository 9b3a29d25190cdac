"""GAS's speed and memory: epochs beside PyG's ways to the same histories, peak memory as the graph grows, 2.4 M nodes.

    python benchmarks/gas.py [--work DIR] [--only TABLE] [--repeats R] [--device cuda]

The peers are written as PyGAS writes its models (histories after the activation, weights of the whole graph),
in stock PyG, on the same batches; making batches is in everybody's time. On a GPU the peer's histories lie there,
ours with the host and there, and everybody's next batch travels beside the step. Writes benchmarks/results/gas_DATE.md
(of a whole study) and ends with a JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from cluster_gcn import row as faster
from cluster_gcn import sparse
from scale import AMAZON2M, Table, made, row, watched
from study import in_turn, machine
from torch import Tensor, nn
from torch_geometric.nn import GAT, GCN, GATConv, GCNConv

from graphscale import configure, heap, probe
from graphscale.batches.aboard import aboard
from graphscale.batches.ahead import announced
from graphscale.batches.cluster import ClusterBatches
from graphscale.data.synthetic import planted
from graphscale.data.transform import Scaler, Views
from graphscale.graph import Graph
from graphscale.loop import prefetch, train_step
from graphscale.partitioning import partition
from graphscale.recipes import gas
from graphscale.run import Run

warnings.filterwarnings("ignore", message="Sparse")
RESULTS = Path(__file__).parent / "results"
PARTS, PER_BATCH = 100, 10
DEVICE = "cpu"
MODELS: dict[str, dict[str, Any]] = {
    "gcn": {"model": "gcn", "hidden": 256, "layers": 3},
    "gat": {"model": "gat", "hidden": 64, "heads": 4, "layers": 3},
}

BF16, THERE = {"precision": "bf16", "history_dtype": "bfloat16"}, {"histories": "device"}


def composed(graph: Graph, **settings: Any) -> Run:
    """The recipe's run on a graph that is in cluster order already."""
    usual = {"data": "planted", "preset": "none", "layer_norm": False, "dropout": 0.5, "lr": 1e-3, "staleness": 0,
             "device": DEVICE}  # fmt: skip
    config = configure("gas", **usual, parts_per_batch=PER_BATCH, **settings)
    run = gas.build(config, Views(graph, graph, Scaler("none")), 0)
    run.model.train()
    return run


def epoch(run: Run) -> float:
    """One epoch as the loop makes it; the mean loss."""
    total, count = 0.0, 0
    batches = aboard(run.batches.epoch(0), run.device, run.prefetch)
    for step, batch in enumerate(announced(batches, lambda b: prefetch(run.tables, b.needs))):
        loss, held = train_step(run, batch, step)
        total, count = total + loss, count + held
    return total / count


class Peer(nn.Module):
    """PyGAS's GCN or GAT in stock PyG: the roots' rows are computed, pushed, and joined with the halo's."""

    def __init__(self, kind: str, graph: Graph, view: str) -> None:
        super().__init__()
        dims = [graph.num_features, *[MODELS[kind]["hidden"]] * (MODELS[kind]["layers"] - 1), graph.num_classes]
        self.kind, self.view, heads = kind, view, MODELS[kind].get("heads", 1)
        last = len(dims) - 2
        self.convs = nn.ModuleList(
            GCNConv(a, b, normalize=False)
            if kind == "gcn"
            else GATConv(
                a, b // (1 if i == last else heads), heads, concat=i != last, add_self_loops=False, dropout=0.5
            )
            for i, (a, b) in enumerate(itertools.pairwise(dims))
        )
        self.histories = [torch.zeros(graph.num_nodes, d, device=DEVICE) for d in dims[1:-1]]
        self.to(DEVICE)

    def forward(self, batch: Any) -> Tensor:
        """Logits of the roots."""
        r, n = batch.num_roots, batch.n_id.numel()
        own = replace(batch.adj.rows(0, r), degrees=None)
        edges = torch.stack([own.indices.long(), own.row_of])
        x = batch.x
        for i, conv in enumerate(self.convs):
            if self.kind == "gat":
                x = conv((x, x[:r]), edges, size=(n, r))
            elif self.view == "adj_t":
                values = own.values
                x = conv(
                    x,
                    torch.sparse_csr_tensor(
                        own.indptr.long(), own.indices.long(), values, (r, n), check_invariants=False
                    ),
                )
            else:
                x = conv(x, edges, own.values)[:r]
            if i < len(self.histories):
                x = F.relu(x) if self.kind == "gcn" else F.elu(x)
                history = self.histories[i]
                history[batch.n_id[:r]] = x.detach()
                x = F.dropout(torch.cat([x, history[batch.halo]]), 0.5, self.training)
        return x


def peer_epoch(graph: Graph, kind: str, view: str) -> Callable[[], float]:
    """An epoch of a peer."""
    looped = graph.adj.with_diagonal()
    root = looped.indptr.diff().float().rsqrt()
    weights = root[looped.row_of] * root[looped.indices.long()] if kind == "gcn" else None
    whole = replace(graph, adj=replace(looped.with_values(weights), symmetric=True))
    model = Peer(kind, graph, view)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = ClusterBatches(whole, PER_BATCH, seed=0, halo=[])

    def run() -> float:
        total, count = 0.0, 0
        for batch in aboard(batches.epoch(0), torch.device(DEVICE), 2):
            optimiser.zero_grad()
            loss = F.cross_entropy(model(batch)[batch.mask], batch.y[batch.mask])
            loss.backward()
            optimiser.step()
            total, count = total + float(loss.detach()) * batch.count, count + batch.count
        return total / count

    return run


def full_epoch(graph: Graph, kind: str) -> Callable[[], float]:
    """PyG's full batch: one step."""
    s = MODELS[kind]
    if kind == "gcn":
        model: nn.Module = GCN(graph.num_features, s["hidden"], s["layers"], graph.num_classes, dropout=0.5)
        edges = sparse(graph.adj)
    else:
        model = GAT(graph.num_features, s["hidden"], s["layers"], graph.num_classes, dropout=0.5, heads=s["heads"])
        edges = torch.stack([graph.adj.indices.long(), graph.adj.row_of])
    model, edges, x, y = model.to(DEVICE), edges.to(DEVICE), graph.x.to(DEVICE), graph.y.to(DEVICE)  # type: ignore[union-attr]
    optimiser, mask = torch.optim.Adam(model.parameters(), lr=1e-3), graph.masks["train"].to(DEVICE)

    def run() -> float:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x, edges)[mask], y[mask])
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return run


def epochs(work: Path, repeats: int) -> Table:
    """An epoch, 100 METIS parts, 10 a batch; 300,000 nodes, 128 features; GCN 3 x 256, GAT 3 x 64 in 4 heads."""
    graph = planted(300_000, degree=40.0, num_features=128)
    graph = partition(graph, PARTS).apply(graph)
    lines, rows = [], []
    peers: dict[str, dict[str, Callable[[], Any]]] = {}
    for kind in MODELS:
        peers[kind] = {"histories on edge_index": peer_epoch(graph, kind, "edge_index")}
        if kind == "gcn":  # PyG's GATConv sends messages by edges on either view
            peers[kind]["histories on adj_t"] = peer_epoch(graph, kind, "adj_t")
        if kind == "gcn" or DEVICE == "cuda":  # its full batch of GAT keeps tens of gigabytes of messages
            peers[kind]["PyG, full batch"] = full_epoch(graph, kind)
    first = {kind: {name: work() for name, work in works.items()} for kind, works in peers.items()}
    alone = {
        kind: in_turn(works, 1, device=DEVICE) for kind, works in peers.items()
    }  # as in a process that only runs PyG
    heap.keep_freed()  # as in ours, for the peers too
    for kind, theirs in peers.items():
        ways: dict[str, dict[str, Any]] = {"ours": {}, "ours, bf16": BF16}
        if DEVICE == "cuda":
            ways |= {"ours, histories there": THERE, "ours, histories there, bf16": {**THERE, **BF16}}
        runs = {name: composed(graph, **MODELS[kind], **special) for name, special in ways.items()}
        works = {**{name: lambda run=run: epoch(run) for name, run in runs.items()}, **theirs}
        first[kind] |= {name: works[name]() for name in runs}
        seconds = in_turn(works, repeats, slow=("histories on edge_index",), device=DEVICE)
        batch = next(iter(runs["ours"].batches.epoch(0)))
        size = f"{batch.num_roots:,} roots, {batch.halo.numel():,} halo, {batch.adj.num_entries:,} entries a batch"
        told = ", ".join(f"{name} {loss:.3f}" for name, loss in first[kind].items() if "full" not in name)
        lines.append([f"{kind}: {size}; losses of the first epoch: {told}", *[""] * 5])
        for name in theirs:
            for own in runs:
                rows.append(faster(f"GAS epoch, {kind}, {own}", seconds[own], alone[kind][name], name))
                kept, came = seconds[name] / seconds[own], alone[kind][name] / seconds[own]
                lines.append(
                    [own, f"{seconds[own]:.2f}", name, f"{alone[kind][name]:.2f}", f"{came:.2f}", f"{kept:.2f}"]
                )
    header = ["work", "ours, s", "peer", "peer as it comes, s", "ratio", "ratio where freed memory is kept for both"]
    return header, lines, rows


STEP = """
import json, sys, itertools
sys.path.insert(0, sys.argv[3])
import torch
from graphscale import configure, heap, probe
from graphscale.batches.ahead import ahead, announced
from graphscale.loop import prefetch, train_step
from graphscale.recipes import gas
config = configure("gas", data=sys.argv[1], preset="none", model="gcn", hidden=128, layers=3, layer_norm=False,
                   parts_per_batch=int(sys.argv[2]), histories="disk", staleness=0, dropout=0.5, prefetch=0)
views = gas.read(config)
run = gas.build(config, views, 0)
run.model.train()
nodes, steps = 0, 0
with probe.PeakMemory(0.002) as memory:
    before = probe.anon_mb()
    epochs = itertools.chain.from_iterable(run.batches.epoch(i) for i in itertools.count())
    batches = ahead(itertools.islice(epochs, 12), run.prefetch)
    for step, batch in enumerate(announced(batches, lambda b: prefetch(run.tables, b.needs))):
        train_step(run, batch, step)
        nodes, steps = nodes + batch.num_nodes, steps + 1
print(json.dumps({"before": before, "peak": memory.peak_mb, "nodes": nodes / steps}))
"""


def memory(work: Path, repeats: int) -> Table:
    """Peak anonymous memory of steps: GCN 3 x 128, disk histories, 20 clusters of 750 nodes, none made ahead."""
    lines, rows, found = [], [], []
    for nodes in (75_000, 300_000, 1_200_000):
        place = work / f"near-{nodes}"
        if not (place / "manifest.json").is_file():
            flags = {"nodes": nodes, "edges": 15 * nodes, "features": 128, "classes": 8, "inside": 0.995, "exponent": 4}
            flags["num-parts"] = nodes // 750
            command = [sys.executable, "-m", "graphscale", "generate", "amazon2m-like", "--to", str(place)]
            command += ["--overwrite", *(f"--{name}={value}" for name, value in flags.items())]
            watched(command)
        said = watched([sys.executable, "-c", STEP, str(place), "20", str(Path(__file__).parent)])[2]
        out = json.loads(said)
        found.append(out["peak"])
        lines.append([f"{nodes:,}", f"{out['nodes']:,.0f}", f"{out['before']:.0f}", f"{out['peak']:.0f}"])
    rows.append(
        row("peak of a training step, largest over smallest graph", max(found), min(found), "the smallest", "MB")
    )
    lines.append([f"largest over smallest: {max(found) / min(found):.3f} (limit 1.10)", "", "", ""])
    return ["nodes", "nodes a batch, halo included", "before the steps, MB", "peak, MB"], lines, rows


LARGE = {"hidden": 128, "layers": 3, "lr": 0.01, "dropout": 0.2, "parts_per_batch": 50}


def large(work: Path, repeats: int) -> Table:
    """2,449,029 nodes, an epoch of GCN 3 x 128, 50 parts of 15,000 a batch, histories on disk; Cluster-GCN."""
    place, _ = made(work, *AMAZON2M)
    lines, rows = [], []
    ways = {
        "Cluster-GCN": ("cluster_gcn", {}),
        "GAS": ("gas", {"histories": "disk", "history_dtype": "bfloat16", "staleness": 0}),
    }
    seconds: dict[str, float] = {}
    for name, (recipe, special) in ways.items():
        out = work / f"large-{recipe}"
        if not (out / "result.json").is_file():
            settings = {"model": "gcn", "precision": "fp32", **LARGE, **special}
            flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
            flags += ["--no-layer-norm", "--epochs=1", "--overwrite", f"--out={out}"]
            command = [sys.executable, "-m", "graphscale", "train", recipe, "--data", str(place), *flags]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        result = json.loads((out / "result.json").read_text())
        seconds[name] = result["seconds"]["train"]
        peak, test = result["peak_anon_mb"], result["test"]["accuracy"]
        lines.append(
            [name, f"{seconds[name]:.0f}", f"{result['seconds']['evaluate']:.0f}", f"{peak:.0f}", f"{test:.2%}"]
        )
        if name == "GAS":
            rows.append(row("peak anonymous memory, GAS", peak, 3 * 1073.74, "limit of 3 GiB", "MB"))
    rows.append(row("epoch of GAS, 2.4 M nodes", seconds["GAS"], seconds["Cluster-GCN"], "Cluster-GCN", "s"))
    return ["recipe", "epoch, s", "exact evaluation, s", "peak anonymous MB", "test, 1 epoch"], lines, rows


TABLES: dict[str, Callable[[Path, int], Table]] = {"epochs": epochs, "memory": memory, "large": large}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/scale"))
    parser.add_argument("--only", choices=list(TABLES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the table epochs")
    asked = parser.parse_args()
    global DEVICE
    DEVICE = asked.device
    asked.work.mkdir(parents=True, exist_ok=True)
    text = [f"# GAS: speed and memory, {date.today()}", "", f"Machine: {machine()}, {torch.get_num_threads()} threads."]
    text += [
        f"Versions: {json.dumps(probe.versions())}. Commit: {probe.commit()}.",
        "Command: `python benchmarks/gas.py`.",
        "",
    ]
    rows: list[dict[str, Any]] = []
    for name in [asked.only] if asked.only else list(TABLES):
        header, lines, found = TABLES[name](asked.work, asked.repeats)
        rows += found
        page = [f"## {name}", "", TABLES[name].__doc__ or "", "", "| " + " | ".join(header) + " |"]
        page += ["|" + "---|" * len(header), *("| " + " | ".join(line) + " |" for line in lines), ""]
        print("\n".join(page), flush=True)
        text += page
    if not asked.only:
        (RESULTS / f"gas_{date.today()}.md").write_text("\n".join(text), encoding="utf-8")
    print(json.dumps({"benchmark": "gas", "machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
