"""A model passed over a graph in tiles gives what one pass gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch_geometric.nn as pyg
from graphs import random_graph
from torch import nn

from graphscale.nn import tiles
from graphscale.nn.splice import last_input, spliced
from graphscale.nn.stock import Feed
from graphscale.nn.tiles import in_tiles, tile_of, way
from graphscale.reach import Reach

CPU = torch.device("cpu")


class Layers(nn.Module):
    """Two layers of any kind."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


class First(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, edge_index):
        return self.inner(x)


class Own(pyg.TAGConv):
    """A layer of somebody's own, which counts the entries of a block."""


MODELS = {
    "gcn": (lambda: pyg.GCN(5, 8, 3, 3), "bare"),
    "gcn with batch norm": (lambda: pyg.GCN(5, 8, 3, 3, norm="batch_norm"), "bare"),
    "jumping knowledge": (lambda: pyg.GraphSAGE(5, 8, 3, 3, jk="cat"), "bare"),
    "sage": (lambda: pyg.GraphSAGE(5, 8, 3, 3), "bare"),
    "gat": (lambda: pyg.GAT(5, 8, 3, 3, heads=2), "bare"),
    "gin": (lambda: pyg.GIN(5, 8, 2, 3), "bare"),
    "appnp": (lambda: Layers(nn.Identity(), pyg.APPNP(3, 0.1)), "bare"),
    "tag": (lambda: Layers(pyg.TAGConv(5, 8, K=2), pyg.TAGConv(8, 3, K=1)), "bare"),
    "own": (lambda: Layers(Own(5, 8, K=2), Own(8, 3, K=1)), "degrees"),
    "transformer": (lambda: Layers(pyg.TransformerConv(5, 4, heads=2), pyg.TransformerConv(8, 3)), "bare"),
    "no message": (lambda: Layers(nn.Identity(), nn.Identity()), "bare"),
    "mixes all rows": (
        lambda: Layers(pyg.GCNConv(5, 8), First(nn.Sequential(pyg.PairNorm(), nn.Linear(8, 3)))),
        "whole",
    ),
}  # fmt: skip


def made(name, **kind):
    torch.manual_seed(0)
    model, expected = MODELS[name]
    graph = random_graph(classes=3, **kind)
    graph = replace(
        graph,
        x=graph.x.float(),
        adj=replace(graph.adj, values=None if graph.adj.values is None else graph.adj.values.float()),
    )
    built = model()
    if name == "appnp":
        built.first = First(nn.Linear(5, 3))
    if name == "no message":
        built.first, built.second = First(nn.Linear(5, 8)), First(nn.Linear(8, 3))
    if name == "gcn with batch norm":  # statistics that are not the identity
        for norm in (m for m in built.modules() if isinstance(m, nn.BatchNorm1d)):
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    return graph, built.eval(), expected


def whole(model, feed, graph):
    with torch.no_grad(), last_input(model) as seen:
        logits = feed(model, graph.x, graph.adj, graph.edge_attr)
    return logits, seen[-1] if seen else None


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", [{}, {"directed": True}, {"loops": True}], ids=str)
def test_tiles_equal_one_pass(name, kind):
    graph, model, expected = made(name, **kind)
    feed = Feed.of(model, graph)[0]
    assert way(model, feed, graph) == expected
    if expected == "whole":
        return
    logits, hidden = whole(model, feed, graph)
    for rows, entries in ((7, 10**6), (60, 100), (1, 1), (60, 10**6)):
        got, inner = in_tiles(model, feed, graph, device=CPU, rows=rows, entries=entries, degrees=expected == "degrees")
        torch.testing.assert_close(got, logits, rtol=1e-4, atol=1e-5)
        if hidden is None:
            assert inner is None
        else:
            torch.testing.assert_close(inner, hidden.flatten(1), rtol=1e-4, atol=1e-5)


def test_layers_that_count_entries_themselves_get_filled_rows():
    graph, model, _ = made("gcn", weighted=True, loops=True)
    feed = Feed.of(model, graph, faster=False)[0]
    assert way(model, feed, graph) == "degrees"
    got, _ = in_tiles(model, feed, graph, device=CPU, rows=9, entries=300, degrees=True)
    torch.testing.assert_close(got, whole(model, feed, graph)[0], rtol=1e-4, atol=1e-5)


def test_weights_and_attributes():
    graph, _, _ = made("gcn", weighted=True, attributes=2)
    graph = replace(graph, edge_attr=graph.edge_attr.float())
    for model in (pyg.GCN(5, 8, 3, 3), pyg.GAT(5, 8, 2, 3, edge_dim=2)):
        feed = Feed.of(model.eval(), graph)[0]
        found = way(model, feed, graph)
        assert found == "bare"
        got, _ = in_tiles(model, feed, graph, device=CPU, rows=9, entries=300, degrees=found == "degrees")
        torch.testing.assert_close(got, whole(model, feed, graph)[0], rtol=1e-4, atol=1e-5)


def test_a_tile_holds_its_roots_rows_and_the_degrees_of_its_halo():
    graph = random_graph(weighted=True, loops=True)
    reach = Reach(graph.adj)
    dense = graph.adj.dense(torch.float64)
    for degrees in (False, True):
        tile = tile_of(reach, 10, 25, degrees=degrees)
        assert tile.n_id[:15].tolist() == list(range(10, 25))
        assert set(tile.halo.tolist()) == set(dense[10:25].sum(0).nonzero().flatten().tolist()) - set(range(10, 25))
        block = tile.adj.dense(torch.float64)
        assert torch.equal(block[:15], dense[10:25][:, tile.n_id])
        loops = dense.diagonal()[tile.halo]
        torch.testing.assert_close(block[15:].sum(1), dense[tile.halo].sum(1) if degrees else loops)
        torch.testing.assert_close(block[15:, 15:].diagonal(), loops)
        torch.testing.assert_close(tile.adj.degree(), dense[tile.n_id].sum(1))
        torch.testing.assert_close(tile.adj.with_values(None).degree(), (dense[tile.n_id] > 0).sum(1).double())
        assert bool((reach.place == -1).all())


def test_tiles_stay_within_their_bounds():
    graph = random_graph()
    sizes = []
    for tile in tiles.tiles(graph.adj, rows=20, entries=150, degrees=True):
        assert tile.stop - tile.start <= 20
        assert tile.adj.num_entries <= 150 or tile.stop - tile.start == 1
        sizes.append(tile.stop - tile.start)
    assert sum(sizes) == 60


def test_hooks_do_not_stay():
    graph, model, _ = made("gcn")
    feed = Feed("edge_index", weight=False, attr=False)
    before, _ = whole(model, feed, graph)
    with spliced(model, lambda number, out: out * 0):
        pass
    assert torch.equal(whole(model, feed, graph)[0], before)
    numbers = []
    with spliced(model, lambda number, out: numbers.append(number) or out):
        whole(model, feed, graph)
    assert numbers == [0, 1, 2]


class Coded(nn.Module):
    """Features are codes that are looked up; rows mix by their mean too."""

    def __init__(self):
        super().__init__()
        self.look, self.conv = nn.Embedding(40, 8), pyg.GATConv(8, 3)

    def forward(self, x, edge_index):
        h = self.look(x[:, 0].long())
        return self.conv(h - 0.5 * h.mean(0), edge_index)


def test_mixing_that_only_real_features_show_is_seen():
    torch.manual_seed(0)
    graph = random_graph()
    codes = torch.zeros(60, 1)  # nearly all alike: the trial must meet those that are not
    codes[:4, 0] = torch.tensor([7.0, 11.0, 30.0, 39.0])
    model = Coded().eval()
    feed = Feed.of(model, replace(graph, x=codes))[0]
    assert way(model, feed, replace(graph, x=codes)) == "whole"


class Named(nn.Module):
    """Layers called by keyword, defined in another order than they are called in."""

    def __init__(self):
        super().__init__()
        self.second, self.first = pyg.SAGEConv(8, 3), pyg.SAGEConv(5, 8)

    def forward(self, x, edge_index):
        return self.second(x=self.first(x=x, edge_index=edge_index).relu(), edge_index=edge_index)


def test_layers_by_keyword_and_in_any_order():
    torch.manual_seed(0)
    graph, _, _ = made("sage")
    model = Named().eval()
    feed = Feed.of(model, graph)[0]
    assert way(model, feed, graph) == "bare"
    logits, hidden = in_tiles(model, feed, graph, device=CPU, rows=9, entries=100, degrees=False)
    expected, inner = whole(model, feed, graph)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(hidden, inner)
    assert hidden.shape == (60, 8)  # what enters the layer called last
