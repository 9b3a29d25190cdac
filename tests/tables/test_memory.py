"""Memories, what is pending of them, marks, statistics, mails: against rules written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from streams import DIM, NODES, Made, small

from graphscale.events import stream
from graphscale.tables.mailbox import Mailbox, PredictiveMailbox
from graphscale.tables.memory import Memory
from graphscale.tables.predictive import Prediction, Predictive


def written(table, events, batches, seed=0):
    """Writes random memories of the ends of each batch of event numbers; returns what was written, in order."""
    draw, log = torch.Generator().manual_seed(seed), []
    for numbers in batches:
        ends = torch.cat([events.src[numbers], events.dst[numbers]]).long()
        ids = ends.unique()
        newest = torch.stack([torch.tensor(numbers).repeat(2)[ends == node].max() for node in ids])
        values = torch.randn(ids.numel(), DIM, generator=draw)
        log.append((ids, values, newest))
        table.write(ids, values, newest)
    return log


BATCHES = [list(range(a, a + 6)) for a in range(0, 30, 6)]


def test_what_is_pending_is_a_nodes_events_of_its_last_batch():
    events = small()
    last, mean = Memory(events, events.csr, DIM), Memory(events, events.csr, DIM, of="mean")
    for table in (last, mean):
        written(table, events, BATCHES[:3])
    for node in range(NODES):
        mine = [e for e in range(18) if node in (int(events.src[e]), int(events.dst[e]))]
        if not mine:
            continue
        batch = max(mine) // 6
        of_batch = [e for e in mine if e // 6 == batch]
        before = [e for e in mine if e // 6 < batch]
        parts = mean.parts(torch.tensor([node]))
        assert parts["of"].tolist() == [0] * len(of_batch)
        since = int(events.t[before[-1]]) if before else None
        expected = [float(events.t[e]) - since if before else 0.0 for e in of_batch]
        assert parts["elapsed"].tolist() == expected
        assert last.parts(torch.tensor([node]))["elapsed"].tolist() == expected[-1:]


def test_a_node_that_is_not_written_stays_as_it_is():
    events = small()
    table = Memory(events, events.csr, DIM)
    written(table, events, BATCHES[:2])
    before = {name: column.clone() for name, column in table.columns.items()}
    ids = torch.tensor([1, 2])
    table.write(ids, torch.ones(2, DIM), torch.tensor([20, 20]))
    others = torch.tensor([n for n in range(NODES) if n not in (1, 2)])
    for name, column in table.columns.items():
        assert torch.equal(column[others], before[name][others])


def test_a_message_sent_keeps_the_other_end_as_it_was():
    src, dst = torch.tensor([0, 1]), torch.tensor([1, 2])
    events = stream(src, dst, torch.tensor([1, 2]))
    late, snapshot = (Memory(events, events.csr, DIM, when=when) for when in ("late", "snapshot"))
    for table in (late, snapshot):
        table.write(torch.tensor([0, 1]), torch.tensor([[1.0], [2.0]]).expand(2, DIM), torch.tensor([0, 0]))
        table.write(torch.tensor([1, 2]), torch.tensor([[3.0], [4.0]]).expand(2, DIM), torch.tensor([1, 1]))
    assert late.parts(torch.tensor([0]))["other"][0, 0] == 3.0
    assert snapshot.parts(torch.tensor([0]))["other"][0, 0] == 2.0


@pytest.mark.parametrize("make", [
    lambda e: Memory(e, e.csr, DIM, when="snapshot"),
    lambda e: Predictive(e, e.csr, DIM, prediction=Prediction(components=2, spread=True, anchors=4)),
    lambda e: Mailbox(e, e.csr, DIM, slots=2),
], ids=["memory", "predictive", "mailbox"])  # fmt: skip
def test_marks_bring_back_what_was(make):
    events = small(features=2)
    table = make(events)
    written(table, events, BATCHES[:2])
    at_first = {name: value.clone() for name, value in table.state_dict().items()}
    with table.alone():
        written(table, events, BATCHES[2:3])
        inner = table.snapshot()
        within = {name: value.clone() for name, value in table.state_dict().items()}
        written(table, events, BATCHES[3:], seed=1)
        table.restore(inner)
        assert all(torch.equal(value, within[name]) for name, value in table.state_dict().items())
    assert all(torch.equal(value, at_first[name]) for name, value in table.state_dict().items())
    other = make(events)
    other.load_state_dict(at_first)
    for one in (table, other):
        written(one, events, BATCHES[2:], seed=2)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in table.state_dict().items())
    table.reset()
    fresh = make(events)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in table.state_dict().items())


@pytest.mark.parametrize("form", ["increment", "rate"])
def test_statistics_are_those_of_all_changes(form):
    events = small()
    table = Predictive(events, events.csr, DIM, prediction=Prediction(form, spread=True, gap=4.0))
    log = written(table, events, BATCHES)
    for node in range(NODES):
        state, last, pending, changes = torch.zeros(DIM), None, None, []
        for ids, values, newest in log:
            if node not in ids.tolist():
                continue
            at = ids.tolist().index(node)
            if pending is not None:
                passed = float(events.t[pending] - events.t[last]) if last is not None else 0.0
                span = min(10.0, max(0.1, passed / 4.0)) if form == "rate" else 1.0
                changes.append((values[at] - state) / span)
            state, last, pending = values[at], pending, int(newest[at])
        if not changes:
            assert not table.parts(torch.tensor([node]))["known"]
            continue
        stacked = torch.stack(changes)
        torch.testing.assert_close(table.columns["xi"][node, 0] / len(changes), stacked.mean(0))
        torch.testing.assert_close(table.columns["psi"][node, 0] / len(changes), stacked.square().mean(0))
        assert table.columns["count"][node, 0] == len(changes)


def test_two_components_part_the_changes_and_add_up_to_all():
    events = small()
    one, two = (Predictive(events, events.csr, DIM, prediction=Prediction(components=c)) for c in (1, 2))
    for table in (one, two):
        written(table, events, BATCHES)
    torch.testing.assert_close(two.columns["xi"].sum(1), one.columns["xi"].sum(1))
    assert torch.equal(two.columns["count"].sum(1), one.columns["count"].sum(1))
    assert (two.columns["count"] > 0).all(1).any()


def test_anchors_bound_the_statistics():
    events = small()
    table = Predictive(events, events.csr, DIM, prediction=Prediction(anchors=3))
    assert table.columns["xi"].shape == (3, 1, DIM)
    assert table.anchor(torch.arange(NODES)).unique().numel() > 1
    written(table, events, BATCHES)
    full = Predictive(events, events.csr, DIM, prediction=Prediction())
    written(full, events, BATCHES)
    torch.testing.assert_close(table.columns["xi"].sum(0), full.columns["xi"].sum(0))


def test_mails_go_to_the_ends_and_their_recent_neighbours():
    src, dst = torch.tensor([0, 1, 0]), torch.tensor([1, 2, 3])
    events = stream(src, dst, torch.tensor([1, 2, 3]))
    table = Mailbox(events, events.csr, 1, slots=2, neighbours=5)
    table.write(torch.tensor([0, 1]), torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0]))
    assert table.parts(torch.tensor([0]))["mail"][0, 0].tolist() == [1.0, 2.0]  # own memory, then the other end's
    assert table.parts(torch.tensor([1]))["mail"][0, 0].tolist() == [2.0, 1.0]
    assert not table.parts(torch.tensor([2]))["there"].any()
    table.write(torch.tensor([1, 2]), torch.tensor([[3.0], [4.0]]), torch.tensor([1, 1]))
    # Node 1 had met node 0, which gets its mail; node 1 gets its own alone, for node 2 had met nobody.
    found = table.parts(torch.tensor([0, 1]))
    assert found["mail"][0].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found["mail"][1].tolist() == [[2.0, 1.0], [3.0, 4.0]]
    assert found["moment"][0].tolist() == [1, 2]
    table.write(torch.tensor([0, 3]), torch.tensor([[5.0], [6.0]]), torch.tensor([2, 2]))
    assert table.parts(torch.tensor([0]))["mail"][0].tolist() == [[5.0, 6.0], [3.0, 4.0]]  # the oldest went
    assert table.parts(torch.tensor([1]))["mail"][0].tolist() == [[5.0, 6.0], [3.0, 4.0]]


def test_a_longer_stream_takes_the_place_of_a_shorter_one():
    events = small(num_events=30)
    first = events.select(torch.arange(18))
    table, whole = Memory(first, first.csr, DIM), Memory(events, events.csr, DIM)
    for one in (table, whole):
        written(one, events, BATCHES[:3])
    grown = first.appended(events.select(torch.arange(18, 30)))
    table.follow(grown, grown.csr)
    for one in (table, whole):
        written(one, events, BATCHES[3:], seed=1)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in table.state_dict().items())


def test_a_memory_of_another_shape_is_refused():
    events = small()
    with pytest.raises(ValueError, match="cannot fill"):
        Memory(events, events.csr, DIM).load_state_dict(Memory(events, events.csr, DIM + 1).state_dict())


@pytest.mark.parametrize("kind", [Memory, Predictive, PredictiveMailbox])
def test_a_row_is_kept_once_however_often_it_is_written(kind):
    events = small(num_events=200)
    more = {} if kind is Memory else {"prediction": Prediction()}
    table, ids = kind(events, events.csr, 4, **more), torch.arange(events.num_nodes)

    def write(newest):
        table.write(ids, torch.full((ids.numel(), 4), float(newest)), torch.full((ids.numel(),), newest))

    for newest in (3, 9):
        write(newest)
    before = {name: column.clone() for name, column in table.columns.items()}
    with table.alone():
        sizes = []
        for newest in (20, 40, 80):
            write(newest)
            sizes.append(sum(row.numel() for _, _, rows in table._journal for row in rows.values()))
        assert sizes[0] == sizes[1] == sizes[2] > 0
        inside = {name: column.clone() for name, column in table.columns.items()}
        with table.alone():  # a mark within: back to it, and then to the first one
            write(120)
        assert all(torch.equal(column, inside[name]) for name, column in table.columns.items())
        write(150)
    assert all(torch.equal(column, before[name]) for name, column in table.columns.items())


def test_reading_and_writing_cost_what_they_touch():
    """The same events among a hundred times the nodes: the same work, number by number."""
    work = []
    for nodes in (1_000, 100_000):
        small_ids = small(num_events=600, nodes=500)
        events = replace(small_ids, num_nodes=nodes)
        table = Predictive(events, events.csr, 2, prediction=Prediction())
        ids = torch.cat([events.src, events.dst]).long().unique()
        with Made() as made:
            for newest in (5, 7):
                table.parts(ids)
                with table.alone():
                    table.write(ids, torch.ones(ids.numel(), 2), torch.full((ids.numel(),), newest))
        work.append(made.numbers)
    assert work[0] == work[1] > 0
