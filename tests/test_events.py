"""Streams: appended, split by time, and bound to what they hold."""

from __future__ import annotations

import pytest
import torch
from streams import small

from graphscale.errors import InputError
from graphscale.events import stream


@pytest.mark.parametrize("features", [0, 2])
def test_appended_events_are_those_of_the_whole_stream(features):
    whole = small(num_events=50, features=features)
    part = whole.select(torch.arange(20))
    assert part.csr.num_nodes == 9
    for first, end in ((20, 21), (21, 50)):
        part = part.appended(whole.select(torch.arange(first, end)))
    assert part.identity() == whole.identity()
    for name in ("indptr", "neighbour", "event"):
        assert torch.equal(getattr(part.csr, name), getattr(whole.csr, name))


def test_new_nodes_may_come_with_later_events():
    first = stream(torch.tensor([0]), torch.tensor([1]), torch.tensor([1]))
    assert first.csr.num_nodes == 2
    grown = first.appended(stream(torch.tensor([5]), torch.tensor([1]), torch.tensor([2])))
    assert grown.num_nodes == 6
    assert grown.csr.neighbour[grown.csr.indptr[1] : grown.csr.indptr[2]].tolist() == [0, 5]


def test_what_cannot_be_appended():
    whole = small(num_events=20)
    with pytest.raises(InputError, match="before the stream ends"):
        whole.appended(whole.select(torch.arange(3)))
    with pytest.raises(InputError, match="features"):
        whole.appended(small(features=1))


def test_events_of_one_moment_are_not_parted():
    t = torch.tensor([1, 2, 3, 4, 5, 6, 6, 6, 7, 8])
    events = stream(torch.zeros(10).long(), torch.ones(10).long(), t)
    assert events.split(0.2, 0.2) == (5, 8)
    with pytest.raises(InputError, match="empty"):
        stream(torch.zeros(10).long(), torch.ones(10).long(), torch.ones(10).long()).split()
