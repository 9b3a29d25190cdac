from __future__ import annotations

import pytest
import torch
from graphs import random_graph

from graphscale.batches.neighbor import NeighborBatches
from graphscale.errors import InputError
from graphscale.nn import named
from graphscale.nn.plain import plain
from graphscale.nn.static import ClusterGCN
from graphscale.nn.stock import Feed
from graphscale.testing import check_batches


@pytest.mark.parametrize("fanouts", [(3,), (2, 2), (-1, 4)])
@pytest.mark.parametrize("kind", ["plain", "weighted", "directed", "attributes"])
def test_conforms(fanouts, kind):
    graph = random_graph(
        weighted=kind == "weighted", directed=kind == "directed", attributes=2 if kind == "attributes" else 0
    )
    roots = graph.masks["train"].nonzero().flatten()
    check_batches(lambda world: NeighborBatches(graph, fanouts, 6, seed=1, world=world), graph, roots)


@pytest.mark.parametrize("model_name", ["cluster_gcn", "sage", "gat", "gin"])
@pytest.mark.parametrize("weighted", [False, True])
def test_unlimited_fanout_equals_the_full_batch(model_name, weighted):
    graph = random_graph(weighted=weighted, loops=True)
    if model_name == "cluster_gcn":
        graph = graph.without_loops()
        model, feed = ClusterGCN(5, 8, 3, 3, dropout=0.0).double(), None
    else:
        model = named.build(
            model_name, graph, in_dim=5, hidden=8, num_layers=3, dropout=0.0, heads=2, layer_norm=True
        ).double()
        feed, _ = Feed.of(model, graph)
    whole = model(graph.x, graph.adj) if feed is None else feed(model, graph.x, graph.adj, None)
    apply = plain(model, feed)
    for batch in NeighborBatches(graph, (-1, -1, -1), 7).epoch(0):
        out = apply(dict(model.named_parameters()), batch).logits
        roots = batch.n_id[: batch.num_roots]
        torch.testing.assert_close(out[: batch.num_roots], whole[roots], rtol=0, atol=1e-12)


@pytest.mark.parametrize("fanouts", [(), (0, 3), (-2,)])
def test_impossible_fanouts_are_refused(fanouts):
    with pytest.raises(InputError, match="fan-outs"):
        NeighborBatches(random_graph(), fanouts, 4)
