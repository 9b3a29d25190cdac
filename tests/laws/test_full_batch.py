"""All clusters in one batch are the full batch: loss and every gradient, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from graphs import random_graph

from graphscale.batches.cluster import ClusterBatches
from graphscale.batches.full import FullBatch
from graphscale.graph import Graph
from graphscale.nn import named, stock
from graphscale.nn.plain import plain
from graphscale.nn.static import ClusterGCN, precompute
from graphscale.objectives.node import node_loss
from graphscale.partitioning import partition

NORMS = ("row", "row+I", "self", "self+I", "diag", "sym")


def gradients(model, feed, batch):
    model.zero_grad()
    params = dict(model.named_parameters())
    outcome = node_loss(plain(model, feed))(params, batch)
    (outcome.loss_sum / outcome.count).backward()
    return outcome.loss_sum.detach() / outcome.count, {n: p.grad.clone() for n, p in params.items()}


def assert_equal_full(model, feed, graph: Graph) -> None:
    whole = next(FullBatch(graph).epoch(0))
    clusters = partition(graph, 5).apply(graph)
    united = next(ClusterBatches(clusters, 5).epoch(0))
    assert not torch.equal(united.n_id, whole.n_id) or not torch.equal(clusters.node_id, graph.node_id)
    loss, grads = gradients(model, feed, whole)
    loss2, grads2 = gradients(model, feed, united)
    assert abs(loss - loss2) < 1e-12
    for name, grad in grads.items():
        torch.testing.assert_close(grads2[name], grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("directed", [False, True])
def test_house_model(norm, weighted, directed):
    graph = random_graph(weighted=weighted, directed=directed)
    model = ClusterGCN(5, 8, 3, 3, dropout=0.0, norm=norm).double()
    assert_equal_full(model, None, graph)


@pytest.mark.parametrize("concat", [False, True])
def test_precomputed_first_layer(concat):
    graph = random_graph()
    graph = replace(graph, x=precompute(graph.x, graph.adj, "diag", 1.0, concat=concat))
    model = ClusterGCN(graph.num_features, 8, 3, 3, dropout=0.0, concat=concat, precomputed=True).double()
    assert_equal_full(model, None, graph)


@pytest.mark.parametrize("name", named.STOCK)
@pytest.mark.parametrize("loops", [False, True])
def test_stock_model(name, loops):
    graph = random_graph(loops=loops)
    torch.manual_seed(0)
    model = named.build(name, graph, in_dim=5, hidden=8, num_layers=2, dropout=0.0, heads=2, layer_norm=True).double()
    feed, _ = stock.Feed.of(model, graph)
    assert_equal_full(model, feed, graph)


def test_one_cluster_a_batch_is_not_the_full_batch():
    # The law above could hold for a model that ignores edges; this one shows that dropping them matters.
    graph = random_graph()
    model = ClusterGCN(5, 8, 3, 3, dropout=0.0).double()
    loss, _ = gradients(model, None, next(FullBatch(graph).epoch(0)))
    parts = ClusterBatches(partition(graph, 5).apply(graph), 1)
    total, count = 0.0, 0
    for batch in parts.epoch(0):
        part_loss, _ = gradients(model, None, batch)
        total, count = total + float(part_loss) * batch.count, count + batch.count
    assert abs(total / count - float(loss)) > 1e-4
