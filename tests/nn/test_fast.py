"""Accelerated layers give what PyG's give: values, gradients, state, and the way back."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from graphs import random_graph
from torch import nn
from torch_geometric import nn as pyg

from graphscale.csr import Csr
from graphscale.edge_view import BlockEdges
from graphscale.graph import from_edges
from graphscale.nn.fast import accelerate, accelerated, restore
from graphscale.nn.splice import spliced
from graphscale.nn.stock import Feed

DEGREES = torch.tensor([3, 4, 9, 9, 2, 1])
PNA = {"aggregators": ["mean", "min", "max", "std", "var", "sum"], "deg": DEGREES}
LAYERS = {
    "gcn": lambda: pyg.GCNConv(5, 8),
    "gcn narrowing": lambda: pyg.GCNConv(5, 3),
    "gcn improved": lambda: pyg.GCNConv(5, 8, improved=True, bias=False),
    "gcn without loops": lambda: pyg.GCNConv(5, 8, add_self_loops=False),
    "gcn as it is": lambda: pyg.GCNConv(5, 3, normalize=False),
    "sage": lambda: pyg.SAGEConv(5, 8),
    "sage narrowing": lambda: pyg.SAGEConv(5, 3),
    "sage max": lambda: pyg.SAGEConv(5, 3, aggr="max"),
    "sage sum": lambda: pyg.SAGEConv(5, 3, aggr="sum", normalize=True, root_weight=False, bias=False),
    "sage projected": lambda: pyg.SAGEConv(5, 8, project=True),
    "gin": lambda: pyg.GINConv(nn.Linear(5, 8), train_eps=True),
    "gin max": lambda: pyg.GINConv(nn.Linear(5, 8), aggr="max"),
    "gat": lambda: pyg.GATConv(5, 4, heads=2),
    "gat averaged": lambda: pyg.GATConv(5, 4, heads=3, concat=False, residual=True),
    "gat without loops": lambda: pyg.GATConv(5, 4, heads=2, add_self_loops=False),
    "gatv2": lambda: pyg.GATv2Conv(5, 4, heads=2),
    "gatv2 shared": lambda: pyg.GATv2Conv(5, 4, heads=2, share_weights=True, concat=False, residual=True),
    "transformer": lambda: pyg.TransformerConv(5, 4, heads=2),
    "transformer beta": lambda: pyg.TransformerConv(5, 4, heads=2, beta=True, concat=False),
    "transformer alone": lambda: pyg.TransformerConv(5, 4, root_weight=False),
    "appnp": lambda: pyg.APPNP(3, 0.2),
    "cluster": lambda: pyg.ClusterGCNConv(5, 8, diag_lambda=0.7),
    "cluster narrowing": lambda: pyg.ClusterGCNConv(5, 3, bias=False),
    "pna": lambda: pyg.PNAConv(5, 8, scalers=["identity", "amplification", "attenuation"], towers=2, **PNA),
    "pna divided": lambda: pyg.PNAConv(
        4, 8, scalers=["linear", "inverse_linear"], towers=2, divide_input=True, train_norm=True, **PNA
    ),
}
KINDS = {
    "undirected": lambda: random_graph().adj,
    "directed with loops": lambda: random_graph(directed=True, loops=True).adj,
    "some isolated": lambda: sparse_graph(),
}


def sparse_graph() -> Csr:
    draw = torch.Generator().manual_seed(0)
    edges = torch.randint(60, (2, 50), generator=draw)
    return from_edges(edges, 60, y=torch.arange(60) % 2, masks={"train": torch.ones(60, dtype=torch.bool)}).adj


def outcome(layer, edges, width, weight=None):
    """Output, and gradients to the input and to every parameter of something that is not linear."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(60, width, dtype=torch.float64, generator=draw).requires_grad_()
    out = layer(x, edges) if weight is None else layer(x, edges, weight)
    out.square().sum().backward()
    found = {name: p.grad for name, p in layer.named_parameters()}
    layer.zero_grad(set_to_none=True)
    return {"out": out.detach(), "x": x.grad, **found}


def assert_same(one, other, error=1e-9):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value is None) == (other[name] is None), name
        if value is not None:
            torch.testing.assert_close(other[name], value, rtol=error, atol=error, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients(name, kind):
    torch.manual_seed(0)
    layer, adj = LAYERS[name]().double(), KINDS[kind]()
    width = 4 if name == "pna divided" else 5
    edges = BlockEdges(adj)
    expected = outcome(layer, edges.whole, width)
    assert accelerated(accelerate(layer))
    lazy = BlockEdges(adj)
    # Some of PyG's layers count degrees in float32, whatever the features.
    assert_same(expected, outcome(layer, lazy, width), 1e-5 if name.startswith(("cluster", "pna")) else 1e-9)
    assert "whole" not in lazy.__dict__, "the fast way never makes PyG's edges"
    assert_same(expected, outcome(layer, edges.whole, width))  # and PyG's own way is still there


@pytest.mark.parametrize("name", ["gcn", "gcn improved", "gcn as it is", "appnp"])
@pytest.mark.parametrize("loops", [False, True])
def test_edge_weights(name, loops):
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    adj = random_graph(weighted=True, directed=True, loops=loops).adj
    edges = BlockEdges.of(adj, torch.float64, weighted=True)
    expected = outcome(layer, edges.whole, 5, edges.weight)
    assert_same(expected, outcome(accelerate(layer), edges, 5, edges.weight))
    # Weights that are not the block's own may need a gradient: PyG's way.
    other = (edges.weight * 2).requires_grad_()
    outcome(layer, edges, 5, other)
    assert other.grad is not None


def test_gcn2():
    torch.manual_seed(0)
    for shared in (True, False):
        layer = pyg.GCN2Conv(5, 0.3, theta=0.5, layer=2, shared_weights=shared).double()
        edges = BlockEdges(random_graph(loops=True).adj)
        x, x_0 = torch.randn(2, 60, 5, dtype=torch.float64)
        expected = layer(x, x_0, edges.whole)
        torch.testing.assert_close(accelerate(layer)(x, x_0, edges), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_state_copies_and_the_way_back(name):
    layer = LAYERS[name]()
    kind, names = type(layer), list(layer.state_dict())
    accelerate(layer)
    assert isinstance(layer, kind) and type(layer) is not kind
    assert list(layer.state_dict()) == names
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(twin) is type(layer)
    assert type(restore(layer)) is kind


def test_what_is_not_handled_goes_the_old_way():
    torch.manual_seed(0)
    edges = BlockEdges(random_graph().adj)
    x, attr = torch.randn(60, 5), torch.randn(edges.shape[1], 2)
    with_attr = pyg.GATConv(5, 4, edge_dim=2)
    torch.testing.assert_close(accelerate(copy.deepcopy(with_attr))(x, edges, attr), with_attr(x, edges.whole, attr))
    asked = pyg.TransformerConv(5, 4)
    _, (_, share) = accelerate(asked)(x, edges, return_attention_weights=True)
    assert share.shape == (edges.shape[1], 1)
    for layer in (
        pyg.GCNConv(5, 3, cached=True), pyg.SAGEConv(5, 3, aggr="lstm"), pyg.GCNConv(5, 3, flow="target_to_source"),
        pyg.PNAConv(5, 8, scalers=["identity"], pre_layers=2, **PNA), pyg.ChebConv(5, 3, K=2),
        pyg.ClusterGCNConv(5, 3, add_self_loops=False),
    ):  # fmt: skip
        assert not accelerated(accelerate(layer))

    class Mine(pyg.GCNConv):
        def message(self, x_j, edge_weight):
            return 2 * x_j

    assert not accelerated(accelerate(Mine(5, 3)))


@pytest.mark.parametrize("name", LAYERS)
def test_hooks_on_propagations_are_heard(name):
    layer, adj = accelerate(LAYERS[name]()), random_graph().adj
    x = torch.randn(60, 4 if name == "pna divided" else 5)
    plain = layer(x, BlockEdges(adj))
    seen = []
    with spliced(layer, lambda number, out: seen.append(out.shape[0]) or torch.zeros_like(out)):
        spoiled = layer(x, BlockEdges(adj))
    assert seen and set(seen) == {60}
    assert not torch.equal(spoiled, plain)
    assert torch.equal(layer(x, BlockEdges(adj)), plain)


@pytest.mark.parametrize("name", ["gcn", "sage", "gin", "cluster", "appnp"])
def test_autocast_sums_in_bf16(name):
    torch.manual_seed(0)
    layer, adj = accelerate(LAYERS[name]()), random_graph().adj
    x = torch.randn(60, 5)
    expected, summed = layer(x, BlockEdges(adj)), []
    with torch.autocast("cpu", torch.bfloat16), spliced(layer, lambda _, out: summed.append(out.dtype) or out):
        out = layer(x, BlockEdges(adj))
    assert set(summed) == {torch.bfloat16}
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)


def test_a_feed_accelerates_where_it_may():
    graph = random_graph()
    model = pyg.GCN(5, 8, 2, 3).double()
    feed, _ = Feed.of(model, graph)
    assert feed.view == "block" and accelerated(model)
    slow, _ = Feed.of(pyg.GCN(5, 8, 2, 3).double(), graph, faster=False)
    assert slow.view != "block"


def test_a_layer_whose_result_would_differ_is_left_alone(monkeypatch):
    from graphscale.nn.fast import gcn

    monkeypatch.setattr(gcn.GCNConv, "propagated", lambda self, edges, x, weight: x)
    model = pyg.GCN(5, 8, 2, 3).double()
    feed, _ = Feed.of(model, random_graph())
    assert feed.view != "block" and not accelerated(model)


def test_block_edges_are_a_tensor_to_everybody():
    adj = random_graph().adj
    edges = BlockEdges(adj)
    plain = torch.stack([adj.indices.long(), adj.row_of])
    assert isinstance(edges, torch.Tensor) and edges.shape == plain.shape and edges.dtype == torch.int64
    assert "whole" not in edges.__dict__
    assert torch.equal(edges, plain)
    source, target = edges
    assert torch.equal(source, plain[0]) and torch.equal(target + 1, plain[1] + 1)
    assert BlockEdges.of(adj, torch.float32, weighted=True) is BlockEdges.of(adj, torch.float32, weighted=False)


def test_a_block_is_freed_with_its_batch():
    adj = random_graph(weighted=True).adj
    edges = BlockEdges.of(adj, torch.float64, weighted=True)
    assert BlockEdges.of(adj, torch.float64, weighted=True) is edges
    assert edges.looped.num_entries and edges.weighted.t.num_entries and edges.loopless.num_entries
    gone = weakref.ref(edges.adj), weakref.ref(adj)
    gc.disable()
    try:
        del adj, edges
        assert all(ref() is None for ref in gone), "a circle waits for the garbage collector, batch after batch"
    finally:
        gc.enable()
