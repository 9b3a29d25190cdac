"""The regulariser against its formula, layer by layer, by hand."""

from __future__ import annotations

import torch
import torch_geometric.nn as pyg
from graphs import random_graph

from graphscale.batches.cluster import ClusterBatches
from graphscale.nn.history import TABLE, attach, with_history
from graphscale.nn.lipschitz import Noise
from graphscale.nn.stock import Feed
from graphscale.objectives.node import node_loss


def run(model, noise):
    graph = random_graph()
    feed, _ = Feed.of(model.eval(), graph, faster=False)
    widths, filled = attach(model, feed, graph)
    (batch,) = ClusterBatches(graph, 1, halo=[TABLE], filled=filled).epoch(0)  # one cluster: no halo
    apply = with_history(model.train(), feed, widths, noise=noise)
    return graph, batch, apply, {"rows." + TABLE: torch.zeros(0, sum(widths[:-1]), dtype=torch.float64)}


def test_it_is_the_distance_between_layers_with_and_without_noise():
    torch.manual_seed(0)
    model = pyg.GIN(5, 8, 2, 3).double()
    graph, batch, apply, rows = run(model, Noise(0.7, 0.3))
    out = apply({**dict(model.named_parameters()), **rows}, batch)
    adj = graph.adj.dense(torch.float64)
    first, second = model.convs
    draw = torch.Generator().manual_seed(batch.seed)
    sums = adj @ graph.x
    noise = [torch.randn(s, generator=draw, dtype=torch.float32).double() for s in (sums.shape, (60, 8))]

    def next_sums(sums):
        h = first.nn(sums + graph.x).relu()
        return h, adj @ h

    h, plain = next_sums(sums)
    _, shifted = next_sums(sums + 0.3 * noise[0])
    logits = second.nn(plain + h)
    # The second pass goes on from the first one's sums plus noise; what a layer adds of its own rows is its own.
    h_shifted, _ = next_sums(sums + 0.3 * noise[0])
    logits_shifted = second.nn(plain + 0.3 * noise[1] + h_shifted)
    expected = (
        0.7 * torch.stack([(shifted - plain).norm(dim=1).mean(), (logits_shifted - logits).norm(dim=1).mean()]).mean()
    )
    torch.testing.assert_close(out.penalty.double(), expected, rtol=1e-5, atol=1e-6)


def test_dropout_is_the_same_in_both_passes():
    torch.manual_seed(0)
    model = pyg.GCN(5, 8, 2, 3, dropout=0.5).double()
    _, batch, apply, rows = run(model, Noise(1.0, 0.0))
    out = apply({**dict(model.named_parameters()), **rows}, batch)
    assert float(out.penalty.detach()) < 1e-5  # without noise nothing differs


def test_it_counts_once_in_the_mean_loss_and_not_in_evaluation():
    torch.manual_seed(0)
    model = pyg.GCN(5, 8, 2, 3).double()
    _, batch, apply, rows = run(model, Noise(2.0))
    params = {**dict(model.named_parameters()), **rows}
    with_it = node_loss(apply)(params, batch)
    model.eval()
    assert apply(params, batch).penalty is None
    without = node_loss(apply)(params, batch)
    model.train()
    penalty = apply(params, batch).penalty
    torch.testing.assert_close(with_it.loss_sum / batch.count, without.loss_sum / batch.count + penalty)
