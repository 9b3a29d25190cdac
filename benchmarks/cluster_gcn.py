"""Cluster-GCN's speed beside PyG's, in one process, in turn: one aggregation, and an epoch of clusters.

    python benchmarks/cluster_gcn.py [--nodes N] [--degree D] [--only TABLE] [--repeats R] [--device cuda]

Ours and the peers see the same graph in the same order, the same parts, the same model with the same
weights and the same float type; losses on the same batches are checked to agree before anything is timed,
accuracies after it. PyG's loader runs as it comes, without workers; "PyG on our batches" has our read-ahead. Writes
benchmarks/results/cluster_gcn_speed_DATE.md (of a whole study) and ends with a JSON line. On CUDA there is the
aggregation alone, and the clock waits for the device.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from study import in_turn, machine
from torch import Tensor
from torch_geometric.loader import ClusterData, ClusterLoader
from torch_geometric.nn import GCN

from graphscale import heap, probe
from graphscale.batches.ahead import ahead
from graphscale.batches.cluster import ClusterBatches
from graphscale.csr import Csr
from graphscale.data.pyg import to_pyg
from graphscale.data.synthetic import planted
from graphscale.edge_view import BlockEdges
from graphscale.graph import Graph
from graphscale.kernels.aggregate import aggregate
from graphscale.nn.fast import accelerate
from graphscale.partitioning import partition

warnings.filterwarnings("ignore", message="Sparse")
WIDTH, PARTS, PER_BATCH = 128, 100, 10
Row = dict[str, Any]


def row(work: str, ours: float, peer: float, peer_name: str) -> Row:
    """A row of the closing line: a ratio above 1 says how many times faster ours is."""
    return {"work": work, "ours": float(f"{ours:.4g}"), "peer": float(f"{peer:.4g}"), "peer_name": peer_name,
            "unit": "s", "ratio": round(peer / ours, 2)}  # fmt: skip


def copy_rate(device: str, megabytes: int = 512) -> float:
    """Bytes a second that a copy reads and writes on a device."""
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    seconds = in_turn({"copy": lambda: target.copy_(source)}, 5, device=device)["copy"]
    return 2 * source.numel() * 4 / seconds


def gather_scatter(edge_index: Tensor, x: Tensor) -> Tensor:
    """What ``MessagePassing`` does by default: a row an edge is gathered, and scattered to its target."""
    source, target = edge_index
    out = x.new_zeros(x.shape)
    return out.scatter_add_(0, target[:, None].expand(-1, x.shape[1]), x.index_select(0, source))


def aggregation(graph: Graph, repeats: int, device: str = "cpu") -> tuple[list[Row], list[str]]:
    """One sum over neighbours, forward and backward, nodes in cluster order."""
    adj = graph.adj.to(torch.device(device))
    x = torch.randn(graph.num_nodes, WIDTH, device=device, requires_grad=True)
    grad = torch.randn_like(x)
    edge_index = torch.stack([adj.indices.long(), adj.row_of])
    csr = sparse(adj)
    narrow, narrow_grad = x.detach().bfloat16().requires_grad_(), grad.bfloat16()

    def both(forward: Callable[[Tensor], Tensor], x: Tensor = x, grad: Tensor = grad) -> Tensor:
        x.grad = None
        forward(x).backward(grad)
        assert x.grad is not None
        return x.grad

    works = {
        "ours": lambda: both(lambda v: aggregate(adj, v)),
        "ours, bf16": lambda: both(lambda v: aggregate(adj, v), narrow, narrow_grad),
        "torch sparse CSR": lambda: both(lambda v: csr @ v),
        "PyG, gather and scatter": lambda: both(lambda v: gather_scatter(edge_index, v)),
    }
    expected = works["PyG, gather and scatter"]()
    for name in ("ours", "torch sparse CSR"):
        torch.testing.assert_close(works[name](), expected, rtol=1e-4, atol=1e-3)
    seconds = in_turn(works, repeats, slow=("PyG, gather and scatter",), device=device)
    moved = 2 * (adj.num_entries + graph.num_nodes) * WIDTH * 4  # rows read and sums written, both ways
    rate = {name: moved / (2 if "bf16" in name else 1) / seconds[name] / 1e9 for name in works}
    most = copy_rate(device) / 1e9
    work = f"aggregation forward + backward, {graph.num_nodes:,} nodes, {adj.num_entries:,} entries, {WIDTH} floats"
    rows = [row(work, seconds["ours"], seconds[peer], peer) for peer in works if not peer.startswith("ours")]
    rows.append(row(f"{work}, bf16", seconds["ours, bf16"], seconds["torch sparse CSR"], "torch sparse CSR, fp32"))
    said = [
        "Read and written in a second: " + ", ".join(f"{rate[name]:.1f} GB ({name})" for name in works)
        + f"; a copy moves {most:.1f} GB. Rates above it are of rows that lie in a cache."
    ]  # fmt: skip
    return rows, said


class Parted(ClusterData):
    """PyG's clusters from given parts: its wheel from PyPI cannot call METIS."""

    def __init__(self, data: Any, part: Tensor) -> None:
        self.given = part
        super().__init__(data, int(part.max()) + 1, log=False)

    def _metis(self, edge_index: Tensor, num_nodes: int) -> Tensor:
        return self.given


def sparse(adj: Csr) -> Tensor:
    """PyG's best view of a block, values inside."""
    values = torch.ones(adj.num_entries, device=adj.device)
    return torch.sparse_csr_tensor(adj.indptr.long(), adj.indices.long(), values, adj.shape, check_invariants=False)


def epochs(graph: Graph, repeats: int) -> tuple[list[Row], list[str]]:
    """An epoch of a 3-layer, 256-wide GCN by clusters, sampling to the last step."""
    torch.manual_seed(0)
    stock = GCN(graph.num_features, 256, 3, graph.num_classes)
    fast = accelerate(copy.deepcopy(stock))
    ours = ClusterBatches(graph, PER_BATCH, seed=0)
    data = to_pyg(graph)
    part = torch.repeat_interleave(torch.arange(graph.num_parts), graph.part_ptr.diff())
    loader = ClusterLoader(Parted(data, part), batch_size=PER_BATCH, shuffle=True)

    def train(model: torch.nn.Module, batches: Any, view: Callable[[Any], Any], bf16: bool = False) -> float:
        """Mean loss over the training nodes of an epoch."""
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        total, count = 0.0, 0
        for batch in batches():
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                out = model(batch.x, view(batch))
            loss = F.cross_entropy(out[batch.train_mask].float(), batch.y[batch.train_mask])
            loss.backward()
            optimiser.step()
            held = int(batch.train_mask.sum())
            total, count = total + float(loss.detach()) * held, count + held
        return total / count

    def fresh(model: torch.nn.Module, *arguments: Any, **keywords: Any) -> Callable[[], float]:
        return lambda: train(copy.deepcopy(model), *arguments, **keywords)

    def ordered() -> Any:
        return ahead(ours.epoch(0), 2)

    def block(batch: Any) -> BlockEdges:
        return BlockEdges.of(batch.adj, torch.float32, weighted=False)

    works = {
        "ours": fresh(fast, ordered, block),
        "ours, bf16": fresh(fast, ordered, block, bf16=True),
        "PyG, ClusterLoader, adj_t": fresh(stock, lambda: loader, lambda b: sparse_of(b.edge_index, b.num_nodes)),
        "PyG on our batches, adj_t": fresh(stock, ordered, lambda b: sparse(b.adj)),
        "PyG, ClusterLoader, edge_index": fresh(stock, lambda: loader, lambda b: b.edge_index),
    }
    if importlib.util.find_spec("torch_sparse"):
        from torch_sparse import SparseTensor

        def compiled(b: Any) -> Any:
            return SparseTensor(row=b.edge_index[1], col=b.edge_index[0], sparse_sizes=(b.num_nodes, b.num_nodes))

        works["PyG with torch-sparse, ClusterLoader"] = fresh(stock, lambda: loader, compiled)
    # The yardstick that sees all edges: one step an epoch, in memory of the whole graph.
    works["PyG, full batch, adj_t"] = fresh(stock, lambda: [data], lambda b: sparse(graph.adj))
    works["PyG, ClusterLoader, edge_index, bf16"] = fresh(stock, lambda: loader, lambda b: b.edge_index, bf16=True)
    # The same batches give the same loss, whichever way they are computed.
    exact = fresh(stock, ordered, lambda b: b.edge_index)()
    for name in ("ours", "PyG on our batches, adj_t"):
        assert abs(works[name]() - exact) < 1e-3 * exact, name
    assert abs(works["ours, bf16"]() - exact) < 3e-2 * exact
    seconds = in_turn(works, repeats, slow=("PyG, ClusterLoader, edge_index", "PyG, ClusterLoader, edge_index, bf16"))
    work = f"epoch of a 3-layer, 256-wide GCN, {graph.num_nodes:,} nodes, {graph.num_entries:,} entries"
    peers = [name for name in works if not name.startswith("ours")]
    rows = [row(f"{work}, fp32", seconds["ours"], seconds[p], p) for p in peers if not p.endswith("bf16")]
    # torch's sparse products on a CPU take no bf16: there the peer stays in fp32, and the row says so.
    named = {p: p if p.endswith("bf16") else f"{p}, fp32" for p in peers}
    rows += [row(f"{work}, bf16", seconds["ours, bf16"], seconds[p], named[p]) for p in peers]
    scores = {
        "ours": accuracy(graph, fast, lambda model: train(model, ordered, block)),
        "ours in bf16": accuracy(graph, fast, lambda model: train(model, ordered, block, bf16=True)),
        "PyG": accuracy(graph, stock, lambda model: train(model, ordered, lambda b: sparse(b.adj))),
    }
    assert max(scores.values()) - min(scores.values()) < 0.005, scores
    told = ", ".join(f"{name} {value:.2%}" for name, value in scores.items())
    batch = next(iter(ours.epoch(0)))
    sizes = f"A batch: {batch.num_nodes:,} nodes, {batch.adj.num_entries:,} entries; {len(ours)} an epoch."
    return rows, [f"{sizes} Test accuracy after 3 epochs on the same batches: {told}."]


def accuracy(graph: Graph, model: torch.nn.Module, epoch: Callable[[torch.nn.Module], Any]) -> float:
    """Test accuracy on the whole graph, computed by PyG, after 3 epochs from the model's weights."""
    own = copy.deepcopy(model)
    for _ in range(3):
        epoch(own)
    with torch.no_grad():
        right = own.eval()(graph.x, sparse(graph.adj)).argmax(1) == graph.y
    return float(right[graph.masks["test"]].double().mean())


def sparse_of(edge_index: Tensor, num_nodes: int) -> Tensor:
    """The same view from a loader's edges."""
    from torch_geometric.utils import to_torch_csr_tensor

    return to_torch_csr_tensor(edge_index.flip(0), size=(num_nodes, num_nodes))


Table = Callable[[Graph, int], tuple[list[Row], list[str]]]
TABLES: dict[str, Table] = {"aggregation": aggregation, "epochs": epochs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=300_000)
    parser.add_argument("--degree", type=float, default=40.0)
    parser.add_argument("--only", choices=list(TABLES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    asked = parser.parse_args()
    if asked.device == "cuda" and asked.only != "aggregation":
        parser.error("--device cuda times the aggregation alone: add --only aggregation")
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here")
    heap.keep_freed()  # for ours and for the peers: a process that only runs PyG is slower still
    where = f", {torch.cuda.get_device_name()}" if asked.device == "cuda" else ""
    graph = planted(asked.nodes, degree=asked.degree, num_features=WIDTH)
    graph = partition(graph, PARTS).apply(graph)
    tables = TABLES | {"aggregation": partial(aggregation, device=asked.device)}
    rows: list[Row] = []
    lines = [
        f"# Cluster-GCN: speed, {date.today()}",
        "",
        f"Machine: {machine()}{where}, {torch.get_num_threads()} threads. Versions: {json.dumps(probe.versions())}."
        f" Commit: {probe.commit()}.",
        f"Command: `python {' '.join(sys.argv)}`. Medians of {asked.repeats} rounds in turn (3 of the slowest),"
        " warm-up apart; ratios in one run.",
    ]
    for name in [asked.only] if asked.only else list(TABLES):
        found, said = tables[name](graph, asked.repeats)
        rows += found
        lines += [
            "",
            f"## {name}",
            "",
            *said,
            "",
            "| work | ours, s | peer | peer, s | ratio |",
            "|---|---|---|---|---|",
        ]
        for r in found:
            lines.append(f"| {r['work']} | {r['ours']:.3g} | {r['peer_name']} | {r['peer']:.3g} | {r['ratio']:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if not asked.only and asked.nodes == 300_000:
        (Path(__file__).parent / "results" / f"cluster_gcn_speed_{date.today()}.md").write_text(text, encoding="utf-8")
    print(json.dumps({"benchmark": "cluster_gcn_speed", "machine": machine() + where, "rows": rows}))


if __name__ == "__main__":
    main()
