"""The fast pass beside the slow one: memories, logits, losses and gradients, over batches of any size."""

from __future__ import annotations

import pytest
import torch
from slow_stream import Slow, SlowMail
from streams import DIM, EVENTS, NODES, negatives, network, small

from graphscale.batches.stream import MEMORY, Sampler
from graphscale.events import stream
from graphscale.kernels.temporal import temporal_csr
from graphscale.loop import commit, fetch
from graphscale.objectives.link import stream_loss
from graphscale.tables.mailbox import Mailbox
from graphscale.tables.memory import Memory


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"features": 3},
        {"when": "snapshot"},
        {"of": "mean"},
        {"layers": 2, "k": 3},
        {"update": "rnn", "embed": "time"},
        {"embed": "identity"},
        {"update": "none", "layers": 2, "k": 3, "features": 2},
        {"layers": 2, "k": 3, "directed": True},
    ],
    ids=str,
)
def test_the_fast_pass_is_the_slow_one(size, fresh, kind):
    kind = dict(kind)
    events = small(features=kind.pop("features", 0))
    table_kind = {name: kind.pop(name) for name in ("when", "of") if name in kind}
    k, directed = kind.pop("k", 10), kind.pop("directed", False)
    net = network(events, **kind)
    table = None if net.update is None else Memory(events, events.csr, DIM, **table_kind)  # of either end's events
    seen = temporal_csr(events.src, events.dst, NODES, directed=directed)
    sampler = Sampler(events, seen, (k,) * len(net.layers), see="fresh" if fresh else "lag")
    _alike(net, table, sampler, Slow(net, events, k=k, directed=directed, **table_kind), size)


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize(
    "kind", [{}, {"features": 3, "slots": 2}, {"neighbours": 2, "slots": 3}, {"combine": "last"}], ids=str
)
def test_mailboxes_are_the_slow_ones(size, kind):
    kind = dict(kind)
    events = small(num_events=2 * EVENTS, features=kind.pop("features", 0))
    net = network(events, update="mail", embed="identity", layers=0)
    table = Mailbox(events, events.csr, DIM, **kind)
    _alike(net, table, Sampler(events, events.csr, ()), SlowMail(net, events, **kind), size)


def _alike(net, table, sampler, slow, size):
    """Losses, gradients and memories after every batch of a stream."""
    tables, objective = {} if table is None else {MEMORY: table}, stream_loss(net)
    params, count = dict(net.named_parameters()), sampler.events.num_events
    for start in range(0, count, size):
        numbers = torch.arange(start, min(count, start + size))
        others = negatives(numbers.numel(), seed=start)
        batch = sampler.batch(numbers, start, others)
        outcome = objective({**params, **fetch(tables, batch.needs if tables else {})}, batch)
        found = torch.autograd.grad(outcome.loss_sum, list(params.values()), allow_unused=True)
        loss, _, _ = slow.batch(numbers.tolist(), others, fresh=sampler.see == "fresh")
        torch.testing.assert_close(outcome.loss_sum, loss, rtol=1e-4, atol=1e-5)
        expected = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        for p, a, b in zip(params.values(), found, expected, strict=True):
            a, b = (torch.zeros_like(p) if g is None else g for g in (a, b))
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4)
        commit(tables, outcome.writes)
        if table is not None:
            for node in range(NODES):
                torch.testing.assert_close(
                    table.columns["state"][node], slow.state.get(node, slow.zero()), rtol=1e-4, atol=1e-5
                )


def test_batches_of_one_event_are_sequential():
    """With one event a batch nothing lags: what a batch sees is all that has happened."""
    events = small()
    net = network(events)
    lag, fresh = (Sampler(events, events.csr, (10,), see=see) for see in ("lag", "fresh"))
    tables = {MEMORY: Memory(events, events.csr, DIM)}
    for e in range(EVENTS):
        numbers, others = torch.tensor([e]), negatives(1, seed=e)
        losses = []
        for sampler in (lag, fresh):
            batch = sampler.batch(numbers, e, others)
            outcome = stream_loss(net)({**dict(net.named_parameters()), **fetch(tables, batch.needs)}, batch)
            losses.append(outcome.loss_sum)
        commit(tables, outcome.writes)
        torch.testing.assert_close(losses[0], losses[1])


def test_the_future_does_not_reach_the_past():
    events = small(features=2)
    cut = 20
    changed = stream(
        torch.cat([events.src[:cut], events.src[cut:].flip(0)]),
        torch.cat([events.dst[:cut], (events.dst[cut:] + 1) % NODES]),
        torch.cat([events.t[:cut], events.t[cut:] + 1000]),
        num_nodes=NODES,
        feat=torch.cat([events.feat[:cut], -events.feat[cut:]]),
    )
    scores = []
    for one in (events, changed):
        net, tables = network(one), {MEMORY: Memory(one, one.csr, DIM)}
        sampler = Sampler(one, one.csr, (10,), see="fresh")
        for start in range(0, cut, 10):
            numbers = torch.arange(start, start + 10)
            batch = sampler.batch(numbers, start, negatives(10, seed=start))
            outcome = stream_loss(net)({**dict(net.named_parameters()), **fetch(tables, batch.needs)}, batch)
            commit(tables, outcome.writes)
            scores.append(outcome.loss_sum.detach())
    half = len(scores) // 2
    assert torch.equal(torch.stack(scores[:half]), torch.stack(scores[half:]))
