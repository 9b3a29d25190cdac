"""Conformance: what every ``Batches``, ``Table``, ``Objective`` and ``Sync`` must obey, as checks for tests.

A new implementation is tested by one line: ``check_batches(lambda world: Mine(graph, world=world), graph)``.
A check raises ``AssertionError`` with the law that was broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from graphscale.batch import Batch, Batches
from graphscale.csr import Csr
from graphscale.graph import Graph
from graphscale.step import Objective, Outcome, Params, Sync
from graphscale.table import Table
from graphscale.world import World


def check_batches(
    make: Callable[[World], Batches], graph: Graph, roots: Tensor | None = None, *, induced: bool = False
) -> None:
    """Coverage, determinism, restarts, equal ranks, and the shape laws of a batch.

    Args:
        make: builds the batches of one rank.
        graph: what they run over, in the same node order.
        roots: sorted nodes that an epoch must have once each as a root; by default all.
        induced: a block has all edges among its nodes.
    """
    alone = make(World())
    first = list(alone.epoch(0))
    assert len(first) == len(alone), "len() is the number of batches of an epoch"
    for batch in first:
        check_batch(batch, graph, induced=induced)
    met = torch.cat([batch.n_id[: batch.num_roots] for batch in first]).sort().values
    expected = torch.arange(graph.num_nodes) if roots is None else roots
    assert torch.equal(met, expected), "an epoch has each of its nodes once as a root"
    again = list(make(World()).epoch(0))
    assert _same(first, again), "epoch(i) is a function of (seed, i)"
    assert _same(first[1:], list(alone.epoch(0, start=1))), "start=k resumes at batch k"
    seeds = {batch.seed for i in range(3) for batch in alone.epoch(i)}
    assert len(seeds) == 3 * len(alone), "every step of every epoch draws from its own seed"
    for size in (2, 3):
        ranks = [make(World(rank, size)) for rank in range(size)]
        assert len({len(rank) for rank in ranks}) == 1, "every rank has the same number of steps"
        dealt = [batch for rank in ranks for batch in rank.epoch(0)]
        assert len(dealt) == size * len(ranks[0]), "every rank yields len() batches"
        real = [batch for batch in dealt if not batch.padding]
        seeds_dealt = sorted(batch.seed for batch in real)
        assert seeds_dealt == sorted(batch.seed for batch in first), "ranks share the global order, nothing twice"
        assert [batch.seed for step in zip(*(r.epoch(0) for r in ranks), strict=True) for batch in step][
            : len(first)
        ] == [batch.seed for batch in first], "step by step, ranks take the global order in turn"


def check_batch(batch: Batch, graph: Graph, *, induced: bool = False) -> None:
    """One batch: a square block of the graph, roots first, rows belonging to their nodes.

    Args:
        induced: the block has all edges among its nodes, not some of them.
    """
    n, r = batch.n_id.numel(), batch.num_roots
    assert batch.n_id.unique().numel() == n, "a node is in a batch once"
    assert batch.adj.shape == (n, n), "blocks are square"
    assert 0 < r <= n, "a batch has roots"
    assert batch.y.shape[0] == batch.mask.shape[0] == r, "roots alone carry labels"
    assert batch.count == int(batch.mask.sum()), "count is the number of roots in the loss"
    assert torch.equal(batch.y, graph.y[batch.n_id[:r]]), "labels belong to their nodes"
    assert graph.x is not None
    assert torch.equal(_dense(batch.x), _dense(graph.x)[batch.n_id]), "features belong to their nodes"
    there = graph.adj.dense(torch.float64)[batch.n_id][:, batch.n_id]
    here = batch.adj.dense(torch.float64)
    assert bool(((here == there) | (here == 0)).all()), "a block has no edge that the graph has not"
    assert not induced or torch.equal(here, there), "an induced block has every edge among its nodes"
    if batch.edge_attr is not None:
        assert batch.edge_attr.shape[0] == batch.adj.num_entries, "one attribute row an entry"


def check_table(make: Callable[[], Table]) -> None:
    """Reading copies and never writes; snapshots and state come back; where it overwrites, the last wins."""
    table = make()
    ids = torch.tensor([3, 0, 5])
    before = table.read(torch.arange(table.num_rows))
    assert before.shape == (table.num_rows, table.dim), "read gives [ids, dim]"
    table.read(ids).add_(1)
    table.prefetch(ids)
    assert torch.equal(table.read(torch.arange(table.num_rows)), before), "reading changes nothing"
    mark = table.snapshot()
    values = torch.arange(3.0 * table.dim).view(3, table.dim) + 1
    time = torch.tensor([1.0, 2.0, 3.0])
    table.write(ids, values, time)
    table.flush()
    others = torch.tensor([i for i in range(table.num_rows) if i not in ids.tolist()])
    assert torch.equal(table.read(others), before[others]), "rows that are not named stay as they are"
    assert not torch.equal(table.read(ids), before[ids]), "rows that are named change"
    if not table.learns:
        assert torch.allclose(table.read(ids).float(), values, rtol=1e-2), "what was written is read"
        table.write(torch.tensor([1, 1]), values[:2], time[:2])
        assert torch.allclose(table.read(torch.tensor([1])).float(), values[1:2], rtol=1e-2), (
            "the last of two writes wins"
        )
    after = table.read(torch.arange(table.num_rows))
    other = make()
    other.load_state_dict({name: value.clone() for name, value in table.state_dict().items()})
    assert torch.equal(other.read(torch.arange(table.num_rows)), after), "state_dict holds everything"
    table.write(torch.empty(0, dtype=torch.int64), torch.empty(0, table.dim), torch.empty(0))
    assert torch.equal(table.read(torch.arange(table.num_rows)), after), "writing nothing changes nothing"
    table.restore(mark)
    assert torch.equal(table.read(torch.arange(table.num_rows)), before), "restore goes back to the snapshot"


def check_objective(objective: Objective[Batch], module: nn.Module, batch: Batch, rows: Params | None = None) -> None:
    """Pure: twice the same outcome, nothing written, no randomness taken from or given to the world."""
    params = {**dict(module.named_parameters()), **(rows or {})}
    state = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.random.get_rng_state()
    first = objective(params, batch)
    torch.rand(7)  # whatever else draws in between must not matter
    second = objective(params, batch)
    assert _same_outcome(first, second), "the same arguments give the same outcome"
    torch.random.set_rng_state(random)
    objective(params, batch)
    assert torch.equal(torch.random.get_rng_state(), random), "the global random state is left as it was"
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), f"{name} was written while the loss was computed"
    assert first.loss_sum.shape == (), "the loss is one number, a sum"
    assert first.count == batch.count, "count is the batch's"
    assert bool(torch.isfinite(first.loss_sum)), "the loss is finite, without labels too"


def check_sync(make: Callable[[], Sync]) -> None:
    """Slots hold leaves; ``reduce`` turns the gradient of a sum into that of a mean, and counts."""
    sync = make()
    assert len(sync.slots()) > 0, "a rank trains something"
    for slot in sync.slots():
        params = slot.params()
        assert params and all(p.is_leaf and p.requires_grad for p in params.values()), "slots hold leaves"
        for p in params.values():
            p.grad = torch.full_like(p, 6.0)
        assert sync.reduce(slot, 3) == 3, "reduce gives the reduced count"
        assert all(bool((p.grad == 2).all()) for p in params.values() if p.grad is not None), "sum over count"
        slot.optimiser.zero_grad(set_to_none=True)
        assert sync.reduce(slot, 0) == 0, "nobody had a label: no step"
    sync.finish(0)


def _dense(x: Tensor | Csr) -> Tensor:
    return x.dense() if isinstance(x, Csr) else x


def _same(left: Sequence[Batch], right: Sequence[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.n_id, b.n_id)
        and torch.equal(a.adj.indices, b.adj.indices)
        and torch.equal(a.adj.indptr, b.adj.indptr)
        and a.seed == b.seed
        and a.count == b.count
        for a, b in zip(left, right, strict=True)
    )


def _same_outcome(left: Outcome, right: Outcome) -> bool:
    def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    writes = all(torch.equal(left.writes[name].values, right.writes[name].values) for name in left.writes)
    return bool(left.loss_sum == right.loss_sum) and same(left.buffers, right.buffers) and writes
