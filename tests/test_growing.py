"""A stream that grows: its neighbours at every moment are those of the whole stream."""

from __future__ import annotations

import pytest
import torch
from streams import small

from graphscale import growing as module
from graphscale.errors import InputError
from graphscale.events import Events, stream
from graphscale.growing import Growing
from graphscale.kernels.temporal import recent, temporal_csr


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("merge_at", [0, 20, 10**6])
def test_neighbours_are_those_of_the_whole_stream(directed, merge_at, monkeypatch):
    monkeypatch.setattr(module, "_LEAST", merge_at)
    monkeypatch.setattr(module, "_SHARE", 0.0)
    whole = small(num_events=200, features=2)
    csr = temporal_csr(whole.src, whole.dst, 9, directed=directed)
    first = whole.select(torch.arange(40))
    grows = Growing(first, {"x": (temporal_csr(first.src, first.dst, 9, directed=directed), directed)})
    nodes = torch.arange(9).repeat(5)
    for start, stop in ((40, 41), (41, 90), (90, 90), (90, 200)):
        events = grows.append(whole.select(torch.arange(start, stop)))
        assert events.num_events == stop
        for name in ("src", "dst", "t", "feat"):
            assert torch.equal(getattr(events, name), getattr(whole, name)[:stop])
        cuts = torch.randint(stop + 1, (45,), generator=torch.Generator().manual_seed(stop))
        for k in (1, 6, 300):
            for a, b in zip(recent(grows.csrs["x"], nodes, cuts, k), recent(csr, nodes, cuts, k), strict=True):
                assert torch.equal(a, b)
    assert (grows.csrs["x"].tail is None) == (merge_at < 10**6)


def test_nodes_come_with_events_and_their_number_grows_by_a_quarter():
    grows = Growing(small(), {"x": (small().csr, False)})
    grows.append(stream(torch.tensor([9]), torch.tensor([1]), torch.tensor([50]), num_nodes=10))
    assert grows.events.num_nodes == 11
    neighbour, event = recent(grows.csrs["x"], torch.tensor([9, 10]), torch.tensor([31, 31]), 2)
    assert neighbour.tolist() == [[1, -1], [-1, -1]] and event.tolist() == [[30, -1], [-1, -1]]


def test_an_addition_costs_what_it_is(monkeypatch):
    """Ten thousand additions of one event copy the stream a few times, not ten thousand."""
    copied = [0]
    make = module.scratch.empty

    def counted(*shape, dtype):
        copied[0] += shape[0]
        return make(*shape, dtype=dtype)

    monkeypatch.setattr(module.scratch, "empty", counted)
    events = small(num_events=1000)
    grows = Growing(events, {"x": (events.csr, False)})
    one = Events(torch.tensor([1]), torch.tensor([2]), events.t[-1:], 9)
    for _ in range(3000):
        grows.append(one)
    assert grows.events.num_events == 4000 and copied[0] < 8 * 3 * 4000


def test_what_cannot_follow_is_refused():
    grows = Growing(small(), {})
    with pytest.raises(InputError, match="before the stream ends"):
        grows.append(small())
    with pytest.raises(InputError, match="features"):
        grows.append(small(features=1))
