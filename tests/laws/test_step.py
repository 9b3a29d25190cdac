"""The loop's order: fetch, loss, backward, reduce, step, commit; on tables small enough to follow by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from graphs import random_graph
from torch import nn

from graphscale.batches.cluster import ClusterBatches
from graphscale.batches.full import FullBatch
from graphscale.errors import InputError
from graphscale.loop import fit, train_step
from graphscale.nn import named, stock
from graphscale.nn.plain import plain
from graphscale.nn.static import ClusterGCN
from graphscale.objectives.node import node_loss
from graphscale.partitioning import partition
from graphscale.run import Run, check
from graphscale.step import Outcome, Slot, Write
from graphscale.sync.replicas import Replicas
from graphscale.tables.history import History
from graphscale.testing import check_objective, check_sync, check_table


class Descent(History):
    """Rows that learn: a write descends along the gradient."""

    learns = True

    def write(self, ids, values, time=None):
        self.rows.index_add_(0, ids, values.detach(), alpha=-0.5)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))


def scores():
    return {"val": {"accuracy": 0.0}, "test": {"accuracy": 0.0}}


def run_of(model, batches, objective, tables=None, lr=0.1):
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    return Run(
        model=model,
        batches=batches,
        sync=Replicas(model, optimiser, objective),
        evaluate=scores,
        metrics=("accuracy",),
        monitor="accuracy",
        tables=tables or {},
    )


def one_row(graph, ids):
    batch = next(FullBatch(graph).epoch(0))
    return replace(batch, needs={"h": torch.tensor(ids)}, count=1)


def test_a_step_sees_the_rows_of_the_commit_before_it():
    # Loss w * row, write row + w: with SGD at 0.1, by hand: row 1, w 2 -> w 1.9, row 3 (the old w was seen).
    model, table, seen = Line(), History(4, 1, dtype=torch.float64), []
    table.write(torch.tensor([1]), torch.tensor([[1.0]]))
    before = []

    def objective(params, batch):
        row, w = params["rows.h"], params["w"]
        seen.append((row.item(), w.item()))
        before.append(float(table.read(batch.needs["h"])))
        writes = {"h": Write(batch.needs["h"], (row + w).detach())}
        return Outcome((row * w).sum(), 1, writes)

    graph = random_graph(12)
    run = run_of(model, FullBatch(graph), objective, {"h": table})
    batch = one_row(graph, [1])
    for step in range(3):
        train_step(run, batch, step)
    # fetch(1) -> w = 2 - 0.1 * 1; commit 1 + 2 = 3; fetch(3) -> w = 1.9 - 0.3; commit 3 + 1.9 = 4.9; ...
    assert seen == [pytest.approx(pair) for pair in ((1.0, 2.0), (3.0, 1.9), (4.9, 1.6))]
    assert before == pytest.approx([1.0, 3.0, 4.9])  # the loss itself never wrote
    assert float(table.read(torch.tensor([1]))) == pytest.approx(4.9 + 1.6)
    assert model.w.item() == pytest.approx(1.6 - 0.49)


def test_rows_that_learn_descend_by_their_own_gradient():
    model, table = Line(), Descent(4, 1, dtype=torch.float64)
    table.rows[2] = 3.0

    def objective(params, batch):
        return Outcome((params["rows.h"] * params["w"]).sum(), 2)

    graph = random_graph(12)
    run = run_of(model, FullBatch(graph), objective, {"h": table})
    train_step(run, replace(one_row(graph, [2]), count=2), 0)
    # d(mean)/d row = w / count = 1; descends by 0.5 of it; d(mean)/d w = 3 / 2.
    assert float(table.rows[2]) == pytest.approx(2.5)
    assert model.w.item() == pytest.approx(2.0 - 0.1 * 1.5)


def test_without_labels_nothing_moves_but_writes_are_committed():
    graph = random_graph(12)
    model, table = Line(), History(4, 1, dtype=torch.float64)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)

    def objective(params, batch):
        loss = params["w"].sum() * batch.count
        return Outcome(loss, batch.count, {"h": Write(torch.tensor([0]), torch.ones(1, 1))})

    run = replace(run_of(model, FullBatch(graph), objective, {"h": table}), sync=Replicas(model, optimiser, objective))
    train_step(run, one_row(graph, [0]), 0)  # momentum is there now
    moved = model.w.item()
    table.rows.zero_()
    train_step(run, replace(one_row(graph, [0]), count=0), 1)
    assert model.w.item() == moved  # neither momentum nor decay
    assert float(table.rows[0]) == 1.0


def test_padding_is_never_computed():
    graph = random_graph(12)
    model = Line()

    def objective(params, batch):
        raise AssertionError("a padding batch reached the loss")

    run = run_of(model, FullBatch(graph), objective)
    assert train_step(run, replace(one_row(graph, [0]), padding=True, needs={}), 0) == (0.0, 0)
    assert model.w.item() == 2.0


def test_batch_norm_statistics_are_committed_after_the_step():
    graph = random_graph()
    model = named.build("gcn", graph, in_dim=5, hidden=8, num_layers=2, dropout=0.0)
    from torch_geometric.nn import GCN

    model = GCN(5, 8, 2, 3, norm="batch_norm").double()
    feed, _ = stock.Feed.of(model, graph)
    apply = plain(model, feed)
    batch = next(FullBatch(graph).epoch(0))
    before = model.norms[0].module.running_mean.clone()
    outcome = node_loss(apply)(dict(model.named_parameters()), batch)
    assert torch.equal(model.norms[0].module.running_mean, before)
    run = run_of(model, FullBatch(graph), node_loss(apply))
    train_step(run, batch, 0)
    torch.testing.assert_close(model.norms[0].module.running_mean, outcome.buffers["norms.0.module.running_mean"])
    assert int(model.norms[0].module.num_batches_tracked) == 1


@pytest.mark.parametrize("kind", ["cluster_gcn", "gcn", "gat", "batch_norm"])
def test_a_step_twice_gives_the_same_outcome(kind):
    graph = random_graph()
    clusters = partition(graph, 4).apply(graph)
    batch = next(ClusterBatches(clusters, 2).epoch(0))
    if kind == "cluster_gcn":
        model, feed = ClusterGCN(5, 8, 3, 3, dropout=0.5).double(), None
    elif kind == "batch_norm":
        from torch_geometric.nn import GCN

        model = GCN(5, 8, 2, 3, norm="batch_norm", dropout=0.5).double()
        feed, _ = stock.Feed.of(model, graph)
    else:
        model = named.build(kind, graph, in_dim=5, hidden=8, num_layers=2, dropout=0.5, heads=2).double()
        feed, _ = stock.Feed.of(model, graph)
    objective = node_loss(plain(model, feed))
    check_objective(objective, model, batch)
    check_objective(objective, model, replace(batch, mask=batch.mask & False, count=0))
    # The law could hold without dropout: another seed must give another loss.
    params = dict(model.named_parameters())
    assert objective(params, batch).loss_sum != objective(params, replace(batch, seed=batch.seed + 1)).loss_sum


def test_the_loss_is_a_function_of_its_parameters_argument():
    graph = random_graph()
    model = ClusterGCN(5, 8, 3, 2, dropout=0.0).double()
    objective = node_loss(plain(model))
    batch = next(FullBatch(graph).epoch(0))
    params = dict(model.named_parameters())
    fast = {name: p * 0.5 for name, p in params.items()}
    halved = ClusterGCN(5, 8, 3, 2, dropout=0.0).double()
    halved.load_state_dict({name: p.detach() for name, p in fast.items()})
    expected = node_loss(plain(halved))(dict(halved.named_parameters()), batch).loss_sum
    torch.testing.assert_close(objective(fast, batch).loss_sum, expected)
    assert objective(params, batch).loss_sum != expected


def test_an_epoch_of_steps_is_gradient_descent_on_the_mean():
    # One full batch and SGD: the oracle is plain autograd on the module.
    graph = random_graph()
    model = ClusterGCN(5, 8, 3, 2, dropout=0.0).double()
    other = ClusterGCN(5, 8, 3, 2, dropout=0.0).double()
    other.load_state_dict(model.state_dict())
    fit(run_of(model, FullBatch(graph), node_loss(plain(model)), lr=0.3), epochs=4)
    train = graph.masks["train"]
    for _ in range(4):
        loss = nn.functional.cross_entropy(other(graph.x, graph.adj)[train], graph.y[train])
        grads = torch.autograd.grad(loss, list(other.parameters()))
        with torch.no_grad():
            for p, g in zip(other.parameters(), grads, strict=True):
                p -= 0.3 * g
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_history_conforms():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        check_table(lambda dtype=dtype: History(8, 3, dtype=dtype))
    check_table(lambda: Descent(8, 3))


def test_replicas_conform():
    def make():
        model = nn.Linear(3, 2)
        return Replicas(model, torch.optim.SGD(model.parameters()), lambda params, batch: None)

    check_sync(make)


def test_clipping_bounds_the_mean_gradient():
    model = nn.Linear(3, 2)
    sync = Replicas(model, torch.optim.SGD(model.parameters()), lambda params, batch: None, clip=1.0)
    for p in model.parameters():
        p.grad = torch.full_like(p, 100.0)
    sync.reduce(sync.slots()[0], 5)
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    torch.testing.assert_close(norm, torch.tensor(1.0), rtol=1e-4, atol=0)


def refuse(run, *words):
    with pytest.raises(InputError) as caught:
        check(run)
    assert all(word in str(caught.value) for word in words)


def test_check_refuses_what_cannot_mean_anything():
    graph = random_graph(12)
    model = Line()
    good = run_of(model, FullBatch(graph), lambda p, b: None)
    check(good)
    refuse(replace(good, monitor="auc"), "auc", "accuracy")
    frozen = Line().requires_grad_(False)
    slot = Slot(frozen, torch.optim.SGD(model.parameters()), lambda p, b: None)

    class Slots:
        def __init__(self, *slots):
            self._slots = slots

        def slots(self):
            return self._slots

    refuse(replace(good, sync=Slots(slot)), "no trainable parameter")

    class Parts(Slots):
        every = 1

        def save(self, folder): ...

        def load(self, folder): ...

    refuse(replace(good, sync=Parts(good.sync.slots()[0]), tables={"h": History(4, 1)}), "h", "replicas")
