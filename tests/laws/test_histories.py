"""Laws of historical embeddings: a fixed point that is the full batch, and gradients where they can be exact."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch_geometric.nn as pyg
from graphs import random_graph
from networks import MODELS, PNA, Layers
from torch import nn

from graphscale.batches.cluster import ClusterBatches
from graphscale.errors import InputError
from graphscale.loop import commit, fetch
from graphscale.nn.history import TABLE, attach, with_history
from graphscale.nn.stock import Feed
from graphscale.partitioning import partition
from graphscale.tables.history import History

KINDS = {
    "plain": {},
    "directed": {"directed": True},
    "weighted": {"weighted": True},
    "loops": {"loops": True},
}


class Trained:
    """A model attached to its tables, on a graph in cluster order."""

    def __init__(self, name, *, kind="plain", faster=True, parts=5):
        graph = random_graph(**KINDS[kind])
        self.graph = partition(graph, parts, method="random").apply(graph)
        torch.manual_seed(0)
        self.model = MODELS[name]().double().eval()
        self.feed, _ = Feed.of(self.model, self.graph, faster=faster)
        widths, filled = attach(self.model, self.feed, self.graph)
        self.widths = widths[:-1]
        self.tables = {TABLE: History(self.graph.num_nodes, sum(self.widths), dtype=torch.float64)}
        self.batches = ClusterBatches(self.graph, 2, seed=0, halo=[TABLE], filled=filled)
        self.apply = with_history(self.model, self.feed, widths)

    def forward(self, batch):
        rows = fetch(self.tables, batch.needs)
        return self.apply({**dict(self.model.named_parameters()), **rows}, batch)

    def sweep(self, epoch=0):
        logits = torch.full((self.graph.num_nodes, 3), torch.nan, dtype=torch.float64)
        for batch in self.batches.epoch(epoch):
            out = self.forward(batch)
            commit(self.tables, out.writes)
            logits[batch.n_id[: batch.num_roots]] = out.logits[: batch.num_roots].detach()
        return logits

    def whole(self):
        return self.feed(self.model, self.graph.x, self.graph.adj, self.graph.edge_attr)


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("name", list(MODELS))
def test_with_frozen_weights_sweeps_reach_the_full_batch(name, faster):
    run = Trained(name, faster=faster)
    expected = run.whole()
    first = run.sweep()
    for epoch in range(len(run.widths)):
        assert not torch.allclose(first, expected), "histories of zeros cannot be exact"
        last = run.sweep(epoch + 1)
    torch.testing.assert_close(last, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", ["gcn", "gcnii", "appnp", "gat", "sage", "tag"])
def test_any_graph_has_the_same_fixed_point(name, kind):
    run = Trained(name, kind=kind)
    for epoch in range(len(run.widths) + 1):
        last = run.sweep(epoch)
    torch.testing.assert_close(last, run.whole(), rtol=1e-9, atol=1e-9)


class Attributed(nn.Module):
    """Layers that take attributes of edges."""

    def __init__(self, make):
        super().__init__()
        self.convs = nn.ModuleList([make(5, 8), make(8, 8), make(8, 3)])

    def forward(self, x, edge_index, edge_attr):
        for conv in self.convs[:-1]:
            x = conv(x, edge_index, edge_attr).relu()
        return self.convs[-1](x, edge_index, edge_attr)


ATTRIBUTED = {
    "gat": lambda a, b: pyg.GATConv(a, b, edge_dim=2),
    "gat v2": lambda a, b: pyg.GATv2Conv(a, b, edge_dim=2),
    "transformer": lambda a, b: pyg.TransformerConv(a, b, edge_dim=2),
    "gine": lambda a, b: pyg.GINEConv(nn.Linear(a, b), edge_dim=2),
    "pna": lambda a, b: pyg.PNAConv(a, b, **PNA, edge_dim=2),
}


@pytest.mark.parametrize("name", list(ATTRIBUTED))
def test_attributes_of_edges_stay_with_their_edges(name):
    MODELS["attributed"] = lambda: Attributed(ATTRIBUTED[name])
    KINDS["attributed"] = {"attributes": 2}
    run = Trained("attributed", kind="attributed")
    assert run.feed.attr
    for epoch in range(len(run.widths) + 1):
        last = run.sweep(epoch)
    torch.testing.assert_close(last, run.whole(), rtol=1e-9, atol=1e-9)


def test_with_exact_histories_the_last_layers_gradient_is_exact_and_the_firsts_is_not():
    run = Trained("gcn")
    for epoch in range(4):
        run.sweep(epoch)
    mask = run.graph.masks["train"]
    F.cross_entropy(run.whole()[mask], run.graph.y[mask], reduction="sum").backward()
    exact = {name: p.grad.clone() for name, p in run.model.named_parameters()}
    run.model.zero_grad()
    for batch in run.batches.epoch(0):
        logits = run.forward(batch).logits[: batch.num_roots][batch.mask]
        F.cross_entropy(logits, batch.y[batch.mask], reduction="sum").backward()
    found = {name: p.grad for name, p in run.model.named_parameters()}
    for name in exact:
        if name.startswith("convs.2"):
            torch.testing.assert_close(found[name], exact[name], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found["convs.0.lin.weight"], exact["convs.0.lin.weight"], rtol=1e-2)


def test_batch_norm_learns_from_roots_alone():
    run = Trained("gcn, batch norm")
    run.model.train()
    batch = next(run.batches.epoch(0))
    out = run.forward(batch)
    norms = [m for m in run.model.modules() if isinstance(m, nn.BatchNorm1d)]
    assert norms and all(int(m.num_batches_tracked) == 0 for m in norms), "statistics are committed by the loop"
    key = next(name for name in out.buffers if name.endswith("running_mean"))
    first = out.writes[TABLE].values[
        :, : run.widths[0]
    ]  # [r, 5] what the first layer's neighbourhoods gave, before its linear map
    conv = run.model.convs[0]
    torch.testing.assert_close(out.buffers[key], 0.1 * (conv.lin(first) + conv.bias).mean(0).detach())


def test_a_model_that_mixes_rows_is_refused():
    graph = random_graph()
    model = Layers(pyg.GCNConv(5, 8), pyg.GCNConv(8, 3), norm=pyg.PairNorm()).double().eval()
    feed, _ = Feed.of(model, graph)
    with pytest.raises(InputError, match="mixes rows by other ways than its messages"):
        attach(model, feed, graph)


def test_a_model_without_messages_is_refused():
    graph = random_graph()

    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, x, edge_index):
            return self.linear(x)

    model = Mlp().double().eval()
    with pytest.raises(InputError, match="sends no messages"):
        attach(model, Feed("edge_index", weight=False, attr=False), graph)


def test_reading_writes_nothing():
    run = Trained("gcn")
    run.sweep()
    before = {name: t.rows.clone() for name, t in run.tables.items()}
    for batch in run.batches.epoch(1):
        run.forward(batch)
    assert all(torch.equal(before[name], t.rows) for name, t in run.tables.items())
