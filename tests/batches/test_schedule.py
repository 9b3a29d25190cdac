"""Where streams are cut: rules written out event by event."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from streams import small

from graphscale.batches.schedule import by_count, by_dependence, by_node, by_window, latest_earlier, scheduled
from graphscale.errors import InputError


def test_by_count():
    assert by_count(10, 4).tolist() == [0, 4, 8, 10]
    assert by_count(8, 4).tolist() == [0, 4, 8]


@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
def test_by_window(kind):
    t = torch.tensor([5, 6, 14, 15, 40, 41]).to(kind)
    assert by_window(t, 10).tolist() == [0, 3, 4, 6]  # 5..14, 15..24, nothing, 35..44


def test_a_window_of_whole_times_is_whole():
    with pytest.raises(InputError, match="whole"):
        by_window(torch.tensor([1, 2]), 1.5)


def pending(src, dst):
    seen, count = set(), 0
    for u, v in zip(src.tolist(), dst.tolist(), strict=True):
        count += (u in seen) + (v in seen)
        seen |= {u, v}
    return count


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_few_ends_are_pending_in_a_capped_batch(share):
    events = small(num_events=2000, nodes=300)
    starts = by_dependence(events.src, events.dst, 300, 100, share).tolist()
    assert starts[0] == 0 and starts[-1] == 2000
    for a, b in pairwise(starts):
        assert 0 < b - a <= 100
        if b - a > 16:
            assert pending(events.src[a:b], events.dst[a:b]) <= share * 2 * (b - a)


def test_a_node_occurs_once_in_a_t_batch_and_its_events_in_order():
    events = small(num_events=300, nodes=40)
    order, starts = by_node(events.src, events.dst, 40)
    assert sorted(order.tolist()) == list(range(300))
    place = {}
    for number, (a, b) in enumerate(pairwise(starts.tolist())):
        seen = set()
        for e in order[a:b].tolist():
            ends = {int(events.src[e]), int(events.dst[e])}
            assert not ends & seen
            # As early as it can be: one of its ends had its last event in the batch before.
            assert number == max((place[v] for v in ends if v in place), default=-1) + 1
            seen |= ends
            for v in ends:
                place[v] = number


def test_schedules_of_some_events_name_those():
    events = small(num_events=60)
    numbers = torch.arange(0, 60, 2)
    for cut in ("count", "window", "capped", "tbatch"):
        order, starts = scheduled(events, numbers, cut=cut, size=7, window=5.0)
        assert sorted(order.tolist()) == numbers.tolist()
        assert starts[0] == 0 and starts[-1] == 30


def test_the_latest_earlier_event_that_shares_an_end():
    events = small(num_events=200, nodes=30)
    met, expected = {}, []
    for e, (u, v) in enumerate(zip(events.src.tolist(), events.dst.tolist(), strict=True)):
        expected.append(max(met.get(u, -1), met.get(v, -1)))
        met[u] = met[v] = e
    assert latest_earlier(events.src, events.dst, events.num_nodes).tolist() == expected


@pytest.mark.parametrize("t", [torch.arange(10), torch.arange(10.0).double()], ids=["whole", "fractions"])
def test_a_window_longer_than_the_stream_is_one_batch(t):
    assert by_window(t, 1e30).tolist() == [0, 10]
