"""The recursion of GAS's error bound: by hand, and never below what happens."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from graphs import random_graph

from graphscale import configure
from graphscale.loop import fetch
from graphscale.nn.bounds import deltas, gains
from graphscale.nn.stock import Feed, toy
from graphscale.recipes import gas


def test_by_hand():
    assert deltas([0.1], [2.0]) == pytest.approx([0.2])
    assert deltas([0.1, 0.3], [2.0, 0.5]) == pytest.approx([0.2, 0.2 * 0.5 * 2 + 0.15])
    assert deltas([0.1, 0.3], [2.0, 0.5], neighbours=3.0) == pytest.approx([0.6, 0.6 * 0.5 * 4 + 0.45])


def test_gains_are_largest_singular_values_between_propagations():
    graph = random_graph()
    torch.manual_seed(0)
    model = pyg.SGConv(5, 3, K=3).double()
    feed, _ = Feed.of(model, graph)
    found = gains(model, feed, *toy(model, graph, 9, 30))
    assert found == pytest.approx([1.0, 1.0, float(torch.linalg.matrix_norm(model.lin.weight.detach(), 2))])
    deep = pyg.GCN(5, 8, 2, 3).double()
    feed, _ = Feed.of(deep, graph)
    # Product first in neither layer: 5 features are fewer than 8, and 3 classes fewer than 8 hidden go first.
    norms = [float(torch.linalg.matrix_norm(c.lin.weight.detach(), 2)) for c in deep.convs]
    assert gains(deep, feed, *toy(deep, graph, 9, 30)) == pytest.approx([(1 + norms[0]) * (1 + norms[1]), 1.0])


def test_attention_has_none():
    graph = random_graph()
    model = pyg.GAT(5, 8, 2, 3, heads=2).double()
    feed, _ = Feed.of(model, graph)
    assert gains(model, feed, *toy(model, graph, 9, 30)) is None


def test_errors_of_a_mean_stay_below_it():
    torch.manual_seed(0)
    adj = random_graph().adj.dense(torch.float64)
    mean = adj / adj.sum(1, keepdim=True).clamp(min=1)
    weights = [torch.randn(4, 4, dtype=torch.float64) for _ in range(4)]
    roots = torch.arange(60) < 30
    x = torch.randn(60, 4, dtype=torch.float64)
    exact, stale, errors, furthest = x, x, [], []
    for weight in weights:
        exact = (mean @ exact @ weight).relu()
        fresh = (mean @ stale @ weight).relu()
        shift = torch.randn(60, 4, dtype=torch.float64) * 0.05
        stale = torch.where(roots[:, None], fresh, exact + shift)  # the halo's rows are off by the shift
        errors.append(float(shift[~roots].norm(dim=1).max()))
        furthest.append(float((fresh - exact)[roots].norm(dim=1).max()))
    norms = [float(torch.linalg.matrix_norm(w, 2)) for w in weights]
    for found, bound in zip(furthest[1:], deltas(errors[:-1], norms[1:]), strict=True):
        assert 0 < found <= bound


def test_norms_skips_sums_and_compensation_have_none():
    graph = random_graph()
    for model in (
        pyg.GCN(5, 8, 2, 3, norm="layer_norm"),
        pyg.GCN(5, 8, 2, 3, jk="cat"),
        pyg.GIN(5, 8, 2, 3),
        pyg.PNA(5, 8, 2, 3, aggregators=["mean"], scalers=["identity"], deg=torch.tensor([0, 1, 2])),
    ):
        feed, _ = Feed.of(model.double(), graph)
        assert gains(model, feed, *toy(model, graph, 9, 30)) is None


def test_outputs_of_a_run_stay_below_what_it_reports():
    config = configure("gas", data="planted:300", num_parts=6, parts_per_batch=2, hidden=8, layers=4, model="sage",
                       layer_norm=False, staleness=300)  # fmt: skip
    run = gas.build(config, gas.read(config), 0)
    table, graph = run.tables["history"], run.batches.graph
    run.ends.refresh = True
    run.ends(True)
    run.ends.refresh = False
    exact = run.ends.logits()
    table.rows += 0.01 * torch.randn(table.rows.shape, generator=torch.Generator().manual_seed(0))
    bound = run.ends(True)["history_bound"]
    run.model.eval()
    slot, furthest = run.sync.slots()[0], 0.0
    for batch in run.batches.epoch(0):
        outcome = slot.objective({**slot.params(), **fetch(run.tables, batch.needs)}, batch)
        nodes = batch.n_id[: batch.num_roots][batch.mask]
        furthest = max(furthest, float((outcome.scores["logits"] - exact[nodes]).norm(dim=1).max()))
    assert graph.num_nodes == 300 and 0 < furthest <= bound
