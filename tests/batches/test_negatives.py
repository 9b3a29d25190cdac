"""Destinations that did not happen: from where they are drawn, and that a draw is the event's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from streams import small

from graphscale.batches.negatives import Negatives
from graphscale.data.planted_stream import planted_stream
from graphscale.events import stream


def met(events, node, first, end):
    ends = [(int(events.src[e]), int(events.dst[e])) for e in range(first, end)]
    return {v for u, v in ends if u == node} | {u for u, v in ends if v == node}


def draws(events, kind, **settings):
    negatives = Negatives.of(events, kind, 6, seed=3, train_end=events.num_events // 2, **settings)
    numbers = torch.arange(events.num_events)
    return negatives, negatives.draw(numbers, events.src, events.dst)


def test_a_source_met_them_before():
    events = planted_stream(600, num_src=30, num_dst=20)
    _, drawn = draws(events, "historical")
    for e in range(0, 600, 7):
        before = met(events, int(events.src[e]), 0, min(e, 300))
        if before:
            assert set(drawn[e].tolist()) <= before
        else:
            assert bool((drawn[e] >= 30).all())


def test_random_ones_are_destinations_and_even():
    events = planted_stream(4000, num_src=30, num_dst=20)
    _, drawn = draws(events, "random")
    counts = torch.bincount(drawn.reshape(-1) - 30, minlength=20)
    assert counts.numel() == 20
    assert float((counts - 1200.0).abs().max()) < 5 * 1200**0.5


def test_in_a_stream_of_one_kind_they_are_nodes_that_occur_as_destinations():
    events = small(num_events=40, nodes=200)
    _, drawn = draws(events, "random")
    assert set(drawn.unique().tolist()) <= set(events.dst.tolist())


@pytest.mark.parametrize("kind", ["random", "historical"])
def test_the_true_destination_can_be_left_out(kind):
    events = planted_stream(600, num_src=30, num_dst=20)
    _, drawn = draws(events, kind, exclude=True)
    assert not (drawn == events.dst[:, None]).any()
    _, plain = draws(events, kind)
    assert (plain == events.dst[:, None]).any()


def test_a_draw_is_the_events_own():
    events = planted_stream(600)
    negatives, drawn = draws(events, "historical")
    some = torch.tensor([500, 3, 77])
    assert torch.equal(negatives.draw(some, events.src[some], events.dst[some]), drawn[some])


@pytest.mark.parametrize("exclude", [False, True])
def test_two_destinations_leave_one_that_did_not_happen(exclude):
    events = stream(torch.zeros(50, dtype=torch.int64), 7 + torch.arange(50) % 2, torch.arange(50), num_src=1)
    _, drawn = draws(events, "historical", exclude=exclude)
    assert set(drawn.unique().tolist()) == {7, 8}
    assert bool((drawn != events.dst[:, None]).all()) == exclude


def test_nodes_without_an_event_are_none():
    """Numbers of nodes may leave room for later ones, which nobody met: to rank an event beside them is no test."""
    events = planted_stream(600, num_src=30, num_dst=20)
    roomy = replace(events, num_nodes=1000, kept={})
    drawn, same = (draws(e, "random")[1] for e in (events, roomy))
    assert torch.equal(drawn, same)


def test_some_events_destinations_alone():
    events = planted_stream(600, num_src=30, num_dst=20)
    some = torch.arange(0, 600, 40)
    _, drawn = draws(events, "random", among=some)
    assert set(drawn.unique().tolist()) <= set(events.dst[some].tolist())
    _, drawn = draws(events, "random", among=5)
    assert set(drawn.unique().tolist()) == set(events.dst[:5].tolist())


def test_a_source_met_them_since_training_and_not_in_it():
    """Where half of what it met since is new to it: fewer may be missed by all of a draw's tries."""
    events, looked_at = planted_stream(600, num_src=30, num_dst=60), 0
    _, drawn = draws(events, "inductive")
    for e in range(300, 600):
        source = int(events.src[e])
        since = [int(events.dst[i]) for i in range(300, e) if int(events.src[i]) == source]
        trained = met(events, source, 0, 300)
        new = [v for v in since if v not in trained]
        if since and 2 * len(new) >= len(since):
            assert set(drawn[e].tolist()) <= set(new)
            looked_at += len(new) < len(since)
    assert looked_at > 20


def test_in_a_directed_stream_a_source_met_where_it_went():
    events = replace(small(num_events=200, nodes=12), directed=True)
    _, drawn = draws(events, "historical")
    ends = list(zip(events.src.tolist(), events.dst.tolist(), strict=True))
    for e in range(0, 200, 3):
        went = {v for u, v in ends[: min(e, 100)] if u == ends[e][0]}
        assert set(drawn[e].tolist()) <= (went or set(events.dst.tolist()))
