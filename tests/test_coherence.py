"""The measured coherence beside equation 4 event by event, and the monitor, which must change nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from stopping import After
from streams import DIM, composed, network, small

from graphscale import configure, session
from graphscale.batches.negatives import Negatives
from graphscale.batches.stream import MEMORY, Sampler
from graphscale.errors import InputError
from graphscale.interrupt import Interrupted
from graphscale.loop import commit, fetch, train_step
from graphscale.nn.memories import Correction
from graphscale.objectives.link import loss_of, scored, stream_loss
from graphscale.recipes.pres import PRESConfig
from graphscale.stream_coherence import Probe, _owners
from graphscale.stream_monitors import Monitors, pending_share
from graphscale.tables.mailbox import Mailbox
from graphscale.tables.memory import Memory
from graphscale.tables.predictive import Prediction, Predictive
from graphscale.world import World

TINY = PRESConfig(data="planted-stream:400", dim=8, time_dim=4, epochs=3, batch_size=40, threads=1, ranked=5)
TRAINED = 30  # events that the memory knows of


def case(kind, *, k=3):
    """(Probe, events): a network whose memory has seen the first events, in batches of five."""
    kind = dict(kind)
    events = small(num_events=60, features=kind.pop("features", 0))
    table_kind, when = kind.pop("table", "plain"), {"when": kind.pop("when", "late")}
    fanouts = (k,) * kind.get("layers", 1)
    if kind.get("embed") in ("time", "identity"):
        fanouts = ()
    net = network(events, correction=Correction(0.7) if table_kind == "predictive" else None, **kind)
    if table_kind == "predictive":
        table = Predictive(events, events.csr, DIM, prediction=Prediction(), **when)
    else:
        table = (Mailbox if table_kind == "mail" else Memory)(events, events.csr, DIM, **when)
    drawn = Negatives.of(events, "random", 1, seed=3, train_end=TRAINED)
    with torch.no_grad():  # a memory far from zero, so that its gradients are not all alike
        for p in net.parameters():
            p.mul_(3)
    objective, lag = stream_loss(net), Sampler(events, events.csr, fanouts)
    for start in range(0, TRAINED, 5):
        numbers = torch.arange(start, start + 5)
        batch = lag.batch(numbers, start, drawn.draw(numbers, events.src[numbers], events.dst[numbers]))
        params = {**dict(net.named_parameters()), **fetch({MEMORY: table}, batch.needs)}
        commit({MEMORY: table}, objective(params, batch).writes)
    return Probe(net, table, Sampler(events, events.csr, fanouts, see="apart"), drawn, torch.device("cpu")), events


def slow(probe, events, first, size):
    """Equation 4 of one batch, an event at a time: [(|g(fresh)|^2, <g(stale), g(fresh)>)] of its pending events."""
    net, table, found = probe.net.eval(), probe.table, []
    lag = Sampler(events, events.csr, probe.sampler.fanouts)

    def memory(ids, e):
        with torch.no_grad():
            return net.remembered(table.parts(ids), events.t[e]).seen

    every = torch.arange(events.num_nodes)
    before, met = memory(every, first), set()
    for e in range(first, first + size):
        number = torch.tensor([e])
        ends = torch.stack([events.src[e], events.dst[e]]).long()
        fresh = memory(every, e)
        if met & set(ends.tolist()):
            batch = lag.batch(number, e, probe.negatives.draw(number, events.src[number], events.dst[number]))
            gradients = []
            for theirs in (before, fresh):
                h = before.clone()
                h[ends] = theirs[ends]
                h.requires_grad_()
                logits = scored(net, net.embedded(h[batch.n_id], batch), batch, states=False)
                (of,) = torch.autograd.grad(loss_of(logits, batch, states=False), h)
                gradients.append(of[ends].double().reshape(-1))
            found.append((float(gradients[1] @ gradients[1]), float(gradients[0] @ gradients[1])))
        met |= set(ends.tolist())
        ids = ends.unique()
        table.write(ids, memory(ids, e), torch.full_like(ids, e))
    return found


KINDS = [
    {},
    {"when": "snapshot", "features": 2, "layers": 2},
    {"update": "rnn", "embed": "time"},
    {"embed": "identity", "table": "predictive"},
    {"embed": "identity", "table": "mail", "update": "mail"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("size", [6, 15])
def test_coherence_is_equation_4_event_by_event(kind, size):
    probe, events = case(kind)
    numbers = torch.arange(TRAINED, TRAINED + 30)
    with probe.table.alone():
        pairs = [pair for first in range(TRAINED, 60, size) for pair in slow(probe, events, first, size)]
    with probe.table.alone():
        found = probe(numbers, [size])[size]
    assert found.count == len(pairs) > 5
    square, along = (sum(column) for column in zip(*pairs, strict=True))
    assert found.mu == pytest.approx(along / square, rel=1e-3)
    ratios = torch.tensor([a / s for s, a in pairs], dtype=torch.float64)
    assert found.least == pytest.approx(float(ratios.min()), rel=1e-3)
    assert found.low == pytest.approx(float(ratios.quantile(0.05)), rel=1e-3)
    assert abs(found.mu - 1) > 1e-3  # stale memories do make a difference here


@pytest.mark.parametrize("kind", [{}, {"table": "mail", "update": "mail", "embed": "identity"}], ids=str)
def test_sizes_are_measured_together_as_each_alone(kind):
    probe, _ = case(kind)
    numbers = torch.arange(TRAINED, 60)
    found = []
    for sizes in ([1, 5, 10, 30], [1], [5], [10], [30]):
        with probe.table.alone():
            found.append(probe(numbers, sizes))
    assert found[0].keys() == {1, 5, 10, 30}
    for alone in found[1:]:
        for size, coherence in alone.items():
            assert coherence.count == found[0][size].count
            assert coherence.mu == pytest.approx(found[0][size].mu, rel=1e-4)
    assert (found[0][1].mu, found[0][1].count) == (1.0, 0)  # no event of a batch of one is pending


def test_a_query_apart_belongs_to_one_event():
    probe, events = case({"layers": 2})
    numbers = torch.arange(TRAINED, 50)
    drawn = probe.negatives.draw(numbers, events.src[numbers], events.dst[numbers])
    batch = probe.sampler.batch(numbers, TRAINED, drawn)
    owner, nodes = _owners(batch), batch.n_id[batch.place]
    lag = Sampler(events, events.csr, probe.sampler.fanouts)
    for i, e in enumerate(numbers.tolist()):
        one = lag.batch(numbers[i : i + 1], e, drawn[i : i + 1])
        assert sorted(nodes[owner == i].tolist()) == sorted(one.n_id.tolist())


# The monitor


def metrics(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], line["loss"], line["scores"], line["measures"]) for line in lines]


@pytest.mark.parametrize(
    "kind",
    [{}, {"model": "apan", "gamma": "0.8", "spread": True}, {"neighbors": "uniform"}, {"task": "states"}],
    ids=str,
)
def test_the_monitor_changes_nothing(tmp_path, kind):
    runs = []
    for name, every in (("without", 0), ("with", 1)):
        torch.manual_seed(5)
        session.train("pres", replace(TINY, out=tmp_path / name, mu_every=every, **kind))
        best = torch.load(tmp_path / name / "checkpoints" / "best.pt", weights_only=True)
        runs.append((metrics(tmp_path / name), best["model"], best["tables"][MEMORY], torch.rand(3)))
    (lines, weights, memory, drawn), (other, weights2, memory2, drawn2) = runs
    assert torch.equal(drawn, drawn2)
    for a, b in ((weights, weights2), (memory, memory2)):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for (*before, without), (*after, found) in zip(lines, other, strict=True):
        assert json.dumps(before) == json.dumps(after)
        assert "coherence_mu" not in without
        assert found["coherence_least"] <= found["coherence_low"]
        assert {name: found[name] for name in without} == without


def test_the_table_and_the_mode_are_as_they_were():
    run = composed(small(num_events=50), World())
    run.begins()
    run.model.train()
    for step, batch in enumerate(run.batches.epoch(0)):
        train_step(run, batch, step)
    table, events = run.tables[MEMORY], run.batches.sampler.events
    kept = {name: column.clone() for name, column in table.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in run.model.parameters()]
    apart = Sampler(events, events.csr, (5,), see="apart")
    probe = Probe(run.model.float(), table, apart, run.batches.negatives, torch.device("cpu"))
    table.dtype = torch.float32
    table.columns = {n: c.float() if c.is_floating_point() else c for n, c in table.columns.items()}
    with table.alone():
        probe(torch.arange(40, 50), [10])
    assert run.model.training
    for name, column in table.state_dict().items():
        assert torch.equal(column, kept[name].to(column.dtype))
    for p, before in zip(run.model.parameters(), grads, strict=True):
        assert (p.grad is None) == (before is None) and (before is None or torch.equal(p.grad, before.to(p.dtype)))


def test_epochs_that_are_measured(tmp_path):
    session.train("pres", replace(TINY, out=tmp_path / "run", epochs=5, mu_every=2))
    assert ["coherence_mu" in line[3] for line in metrics(tmp_path / "run")] == [False, True, False, True, True]
    assert "coherence_mu" in json.loads((tmp_path / "run" / "result.json").read_text())["measures"]


@pytest.mark.parametrize("step", [3, 9])
def test_a_resumed_run_measures_the_same(tmp_path, monkeypatch, step):
    kind = {"mu_every": 2, "gamma": "learn"}
    session.train("pres", replace(TINY, out=tmp_path / "whole", **kind))
    with monkeypatch.context() as patched:
        After(step, patched)
        with pytest.raises(Interrupted):
            session.train("pres", replace(TINY, out=tmp_path / "parts", **kind))
    session.train("pres", replace(TINY, out=tmp_path / "parts", resume=True, **kind))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_ranks_that_do_not_lead_measure_nothing():
    run = composed(small(), World())
    monitors = Monitors(run.model, run.batches, pytest.fail, every=1, epochs=1, leads=False)
    assert "coherence_mu" not in monitors(True)


@pytest.mark.parametrize(
    ("settings", "says"), [({"mu_every": -1}, "--mu-every"), ({"mu_every": 1, "model": "tgat"}, "no memory")], ids=str
)
def test_measurements_that_cannot_be_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        configure("pres", preset="none", **settings)


def test_pending_share():
    events = small()
    met, count = set(), 0
    starts = torch.tensor([0, 4, 20, 30])
    for e, ends in enumerate(zip(events.src.tolist(), events.dst.tolist(), strict=True)):
        met = set() if e in starts else met
        count += sum(end in met for end in ends)  # of earlier events: one with itself has none by itself
        met |= set(ends)
    assert pending_share(events, torch.arange(30), starts) == pytest.approx(count / 60)
