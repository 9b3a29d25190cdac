"""BatchNorm of the full width: the statistics of what it sees, not of what its sub-networks saw."""

from __future__ import annotations

import pytest
import torch
from graphs import random_graph

from graphscale.nn import wide
from graphscale.nn.stock import Feed
from graphscale.width import columns, store
from graphscale.width.calibrate import calibrate, moments
from graphscale.width.inference import infer
from graphscale.world import World

DIMS = {"h1": 8, "h2": 11}


def made(kind, graph):
    torch.manual_seed(0)
    return lambda d: wide.stack(
        kind, d, graph.num_features, graph.num_classes, hidden=8, heads=2, dropout=0.5, batch_norm=True
    ).double()


def test_statistics_are_those_of_a_pass_over_the_graph():
    graph = random_graph()
    model = made("gcn", graph)(DIMS)
    feed = Feed("edge_index", False, False)
    model.train()
    calibrate(model, feed, graph, torch.device("cpu"))
    assert model.training
    seen = []
    model.norms[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    feed(model.eval(), graph.x, graph.adj, None)
    torch.testing.assert_close(model.norms[1].running_mean, seen[0].mean(0))
    torch.testing.assert_close(model.norms[1].running_var, seen[0].var(0))


@pytest.mark.parametrize("kind", ["gcn", "sage", "gin"])
@pytest.mark.parametrize("scored", ["what it trains on", "a larger graph"])
def test_columns_find_the_same_statistics(kind, scored, monkeypatch):
    monkeypatch.setattr(columns, "_TILE", 7)
    graph = random_graph()
    other = random_graph(90) if scored == "a larger graph" else graph  # whose nodes must not move the statistics
    build = made(kind, graph)
    model = build(DIMS).eval()
    feed = Feed("edge_index", False, False)
    spec = infer(build, DIMS, call=lambda m: feed(m, graph.x, graph.adj, None))
    shards = store.cut(spec, World(), model.state_dict())
    calibrate(model, feed, graph, torch.device("cpu"))
    expected = feed(model, other.x, other.adj, None)
    found = columns.Columns(build, shards, other, measured=graph).logits()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_moments():
    rows = torch.randn(50, 4, dtype=torch.float64) + 3
    mean, spread = moments(rows)
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(spread, rows.var(0))
