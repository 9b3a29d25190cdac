"""What must be refused before it trains on something that is not what it claims; each was accepted once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
import torch_geometric.nn as pyg
from graphs import random_graph
from networks import MODELS, Layers
from torch import nn
from torch_geometric.utils import degree, dropout_edge

from graphscale.batches.cluster import ClusterBatches
from graphscale.errors import InputError
from graphscale.loop import commit, fetch
from graphscale.nn.compensation import demand_exact
from graphscale.nn.fast_calls import NoChance
from graphscale.nn.history import TABLE, attach, with_history
from graphscale.nn.stock import Feed
from graphscale.partitioning import partition
from graphscale.tables.history import History


class Dropping(nn.Module):
    """Edges are dropped while it trains: PyG's layers then count a block's own entries."""

    def __init__(self, p=0.2):
        super().__init__()
        self.convs, self.p = nn.ModuleList([pyg.GCNConv(5, 8), pyg.GCNConv(8, 3)]), p

    def forward(self, x, edge_index):
        edge_index, _ = dropout_edge(edge_index, self.p, training=self.training)
        return self.convs[1](self.convs[0](x, edge_index).relu(), edge_index)


class Spread(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.spread = nn.Linear(5, 3), pyg.APPNP(4, 0.1, dropout=0.3)

    def forward(self, x, edge_index):
        return self.spread(self.linear(x), edge_index)


class Skipping(Layers):
    """Stochastic depth."""

    def forward(self, x, edge_index):
        x = self.convs[0](x, edge_index).relu()
        if not self.training:
            x = self.convs[1](x, edge_index).relu()
        return self.convs[2](x, edge_index)


def made(model, *, zero_head=False, faster=True, **kind):
    torch.manual_seed(0)
    model = model.double().eval()
    if zero_head:
        for p in list(model.parameters())[-2:]:
            nn.init.zeros_(p)
    graph = random_graph(**kind)
    feed, _ = Feed.of(model, graph, faster=faster)
    return model, feed, graph


def test_training_that_leaves_the_fast_path_is_refused():
    model, feed, graph = made(Dropping())
    with pytest.raises(InputError, match="widths .* in evaluation and .* in training"):
        attach(model, feed, graph)


@pytest.mark.parametrize(("make", "faster"), [(Dropping, False), (Spread, True)])
def test_layers_that_count_edges_only_in_training_get_rows_of_the_right_length(make, faster):
    model, feed, graph = made(make(), faster=faster)
    widths, filled = attach(model, feed, graph)
    assert filled
    model.train()
    (whole,) = ClusterBatches(graph, 1, halo=[TABLE], filled=True).epoch(0)  # one cluster: exact whatever is filled
    table = History(60, sum(widths[:-1]), dtype=torch.float64)
    apply = with_history(model, feed, widths)
    with NoChance():
        out = apply({**dict(model.named_parameters()), **fetch({TABLE: table}, whole.needs)}, whole)
        torch.testing.assert_close(out.logits, feed(model, graph.x, graph.adj, None))
    with pytest.raises(InputError, match="cannot be compensated"):
        demand_exact(model, feed, graph, widths)


@pytest.mark.parametrize("norm", [pyg.PairNorm(), pyg.InstanceNorm(8, track_running_stats=True)])
@pytest.mark.parametrize("zero_head", [False, True])
def test_norms_over_nodes_are_seen_whatever_the_head_is(norm, zero_head):
    model, feed, graph = made(Layers(pyg.GCNConv(5, 8), pyg.GCNConv(8, 3), norm=norm), zero_head=zero_head)
    with pytest.raises(InputError, match="mixes rows"):
        attach(model, feed, graph)


def test_statistics_of_the_batch_by_hand_are_seen():
    class ByHand(Layers):
        def forward(self, x, edge_index):
            x = self.convs[0](x, edge_index)
            x = F.batch_norm(x, torch.zeros(8).to(x), torch.ones(8).to(x), training=self.training)
            return self.convs[1](x, edge_index)

    model, feed, graph = made(ByHand(pyg.GCNConv(5, 8), pyg.GCNConv(8, 3)))
    with pytest.raises(InputError, match="mixes rows"):
        attach(model, feed, graph)


def test_attention_is_refused_by_lmc_whatever_the_head_is():
    model, feed, graph = made(MODELS["gat"](), zero_head=True)
    widths, _ = attach(model, feed, graph)
    with pytest.raises(InputError, match="cannot be compensated"):
        demand_exact(model, feed, graph, widths)


def test_batch_norm_over_edges_is_refused():
    model, feed, graph = made(Layers(pyg.EdgeConv(pyg.MLP([10, 8, 8])), pyg.EdgeConv(pyg.MLP([16, 8, 3]))))
    with pytest.raises(InputError, match="Normalise nodes, not edges"):
        attach(model, feed, graph)


def test_propagations_that_training_leaves_out_are_refused():
    model, feed, graph = made(Skipping(pyg.GCNConv(5, 8), pyg.GCNConv(8, 8), pyg.GCNConv(8, 3)))
    with pytest.raises(InputError, match="mixes rows|in evaluation and"):
        widths, filled = attach(model, feed, graph)
        model.train()
        (batch,) = ClusterBatches(graph, 1, halo=[TABLE], filled=filled).epoch(0)
        rows = {"rows." + TABLE: torch.zeros(0, sum(widths[:-1]), dtype=torch.float64)}
        with_history(model, feed, widths)({**dict(model.named_parameters()), **rows}, batch)


class Smoothed(Layers):
    """Logits are averaged over neighbours by hand, behind the last layer that sends messages."""

    def forward(self, x, edge_index):
        out = super().forward(x, edge_index)
        source, target = edge_index
        near = torch.zeros_like(out).index_add(0, target, out[source])
        return 0.5 * out + 0.1 * near


class HandMasked(Layers):
    """Edges and features are dropped by ``rand < keep``, which keeps nothing where numbers are large."""

    def __init__(self, *convs, keep_edges=1.0, keep_features=1.0):
        super().__init__(*convs)
        self.keep_edges, self.keep_features = keep_edges, keep_features

    def forward(self, x, edge_index):
        if self.training and self.keep_edges < 1:
            edge_index = edge_index[:, torch.rand(edge_index.shape[1]) < self.keep_edges]
        if self.training and self.keep_features < 1:
            x = x * (torch.rand_like(x) < self.keep_features)
            x = x - x.mean(0)  # mixes rows, in training alone
        return super().forward(x, edge_index)


class Checkpointed(Layers):
    def __init__(self, *convs, reentrant=False):
        super().__init__(*convs)
        self.reentrant = reentrant

    def forward(self, x, edge_index):
        def second(x):
            return self.convs[1](x, edge_index).relu()

        x = self.convs[0](x, edge_index).relu()
        again = torch.utils.checkpoint.checkpoint
        x = again(second, x, use_reentrant=self.reentrant) if x.requires_grad else second(x)
        return self.convs[2](x, edge_index)


def test_neighbours_that_are_read_behind_the_last_propagation_are_refused():
    model, feed, graph = made(Smoothed(pyg.GCNConv(5, 8), pyg.GCNConv(8, 3)))
    with pytest.raises(InputError, match="behind its last propagation"):
        attach(model, feed, graph)


def test_features_that_are_kept_where_chance_is_low_are_tried_too():
    model, feed, graph = made(HandMasked(pyg.GCNConv(5, 8), pyg.GCNConv(8, 3), keep_features=0.5))
    with pytest.raises(InputError, match="mixes rows"):
        attach(model, feed, graph)


def test_edges_that_are_kept_where_chance_is_low_are_tried_too():
    # SGConv sends messages of the same widths off the fast path, which alone counts a block's own entries; where
    # chance is high no edge is left to count.
    model, feed, graph = made(HandMasked(pyg.SGConv(5, 8), pyg.SGConv(8, 3), keep_edges=0.8))
    assert feed.view == "block"
    _, filled = attach(model, feed, graph)
    assert filled, "layers that count a block's own entries need rows of the right length"


class Ranked(Layers):
    """Features are scaled by degrees over the largest of them."""

    def forward(self, x, edge_index):
        share = degree(edge_index[1], x.shape[0], dtype=x.dtype)
        return super().forward(x * (share / share.max())[:, None], edge_index)


class Padded(Layers):
    """PyG's LSTM over neighbours reads on to the end of the longest row: what a node gets depends on that row."""

    def __init__(self):
        super().__init__(pyg.SAGEConv(5, 8, aggr="lstm"), pyg.SAGEConv(8, 3, aggr="lstm"))


@pytest.mark.parametrize("make", [lambda: Ranked(pyg.GCNConv(5, 8), pyg.GCNConv(8, 3)), Padded])
@pytest.mark.parametrize("kind", [{}, {"loops": True, "directed": True}])
def test_the_largest_of_all_nodes_is_seen(make, kind):
    model, feed, graph = made(make(), **kind)
    with pytest.raises(InputError, match="mixes rows"):
        attach(model, feed, graph)


@pytest.mark.parametrize("reentrant", [False, True])  # PyG's DeepGCNLayer(ckpt_grad=True) is so
def test_propagations_that_the_backward_pass_makes_again_are_refused(reentrant):
    convs = pyg.GCNConv(5, 8), pyg.GCNConv(8, 8), pyg.GCNConv(8, 3)
    model, feed, graph = made(Checkpointed(*convs, reentrant=reentrant))
    with pytest.raises(InputError, match="backward pass"):
        attach(model, feed, graph)


@pytest.mark.parametrize("layer", [pyg.GCNConv, pyg.SAGEConv, pyg.ClusterGCNConv])
@pytest.mark.parametrize("change", ["frozen", "inference"])
def test_a_history_means_the_same_whatever_has_a_gradient(layer, change):
    """Product or sum first: a layer between equal widths decides by what its input needs, and must not change it."""
    model, feed, graph = made(Layers(layer(5, 8), layer(8, 8), layer(8, 8), layer(8, 3)))
    widths, filled = attach(model, feed, graph)
    apply, tables = with_history(model, feed, widths), {TABLE: History(60, sum(widths[:-1]), dtype=torch.float64)}
    batches = ClusterBatches(partition(graph, 6, method="random").apply(graph), 2, halo=[TABLE], filled=filled)
    whole = batches.graph

    def sweep(epoch):
        found = torch.zeros(60, 3, dtype=torch.float64)
        for batch in batches.epoch(epoch):
            out = apply({**dict(model.named_parameters()), **fetch(tables, batch.needs)}, batch)
            commit(tables, out.writes)
            found[batch.n_id[: batch.num_roots]] = out.logits[: batch.num_roots].detach()
        return found

    for epoch in range(6):
        sweep(epoch)
    expected = feed(model, whole.x, whole.adj, None)
    if change == "frozen":
        for conv in model.convs[:-1]:
            conv.requires_grad_(False)
        found = sweep(9)
    else:
        with torch.inference_mode():
            found = sweep(9)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-9)
