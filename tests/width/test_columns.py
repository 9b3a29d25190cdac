"""The full width scored by columns gives what the whole model gives."""

from __future__ import annotations

import pytest
import torch
from graphs import random_graph

from graphscale.errors import InputError
from graphscale.nn import wide
from graphscale.nn.stock import Feed
from graphscale.width import columns, store
from graphscale.width.inference import infer
from graphscale.world import World


def made(kind, norm, graph, dims):
    return lambda d: wide.stack(
        kind, d, graph.num_features, graph.num_classes, hidden=8, heads=2, dropout=0.3,
        layer_norm=norm == "layer", batch_norm=norm == "batch",
    )  # fmt: skip


def call(graph):
    return lambda m: Feed("edge_index", False, False)(m, graph.x, graph.adj, None)


@pytest.mark.parametrize("kind", ["gcn", "sage", "gin"])
@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize("weighted", [False, True])
def test_columns_equal_the_whole(kind, norm, weighted, monkeypatch):
    monkeypatch.setattr(columns, "_TILE", 7)
    monkeypatch.setattr(columns, "_COLUMNS", 3)
    graph = random_graph(weighted=weighted, loops=True)
    build = made(kind, norm, graph, {})
    dims = {"h1": 8, "h2": 11}
    model = build(dims).double().eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.dim():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
    spec = infer(lambda d: build(d).double(), dims, call=call(graph))
    shards = store.cut(spec, World(), model.state_dict())
    feed = Feed("edge_index", weighted and kind == "gcn", False)
    expected = feed(model, graph.x, graph.adj, None)
    found = columns.Columns(lambda d: build(d).double(), shards, graph).logits()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_other_models_are_refused():
    graph = random_graph()
    build = made("gat", "none", graph, {})
    spec = infer(build, {"heads1": 4}, call=call(graph))
    shards = store.cut(spec, World(), build({"heads1": 4}).state_dict())
    with pytest.raises(InputError, match="cannot be scored by columns"):
        columns.Columns(build, shards, graph)
