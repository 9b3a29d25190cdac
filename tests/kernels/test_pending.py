"""What is pending, by one pass: node by node it is the latest event that was not taken in."""

from __future__ import annotations

import pytest
import torch

from graphscale.kernels.pending import pending


@pytest.mark.parametrize("nodes", [1, 40, 3_000])  # one thread, and several
@pytest.mark.parametrize("times", [torch.int64, torch.float64])
@pytest.mark.parametrize("ends", [torch.int32, torch.int64])
def test_it_is_each_nodes_latest_event(nodes, times, ends):
    draw = torch.Generator().manual_seed(0)
    src, dst = (torch.randint(nodes, (5 * nodes,), generator=draw).to(ends) for _ in range(2))
    t = torch.randint(10**12, (5 * nodes,), generator=draw).sort().values.to(times)
    newest, taken = torch.full((nodes,), -1), torch.full((nodes,), -1)
    for e, (a, b) in enumerate(zip(src.tolist(), dst.tolist(), strict=True)):
        if e % 7 == 0:  # these ends take in what they have
            taken[[a, b]] = newest[[a, b]]
        newest[[a, b]] = e
    ids = torch.randperm(nodes, generator=draw)
    want = []
    for place, v in enumerate(ids.tolist()):
        e, before = int(newest[v]), int(taken[v])
        if e > before:
            other = int(src[e] if int(dst[e]) == v else dst[e])
            want.append((place, e, other, float(t[e] - t[before]) if before >= 0 else 0.0))
    of, event, other, elapsed = pending(ids, newest, taken, src, dst, t)
    assert list(zip(of.tolist(), event.tolist(), other.tolist(), strict=True)) == [row[:3] for row in want]
    torch.testing.assert_close(elapsed, torch.tensor([row[3] for row in want]), rtol=1e-6, atol=0)


def test_of_no_node_nothing_is_pending():
    none, column = torch.empty(0, dtype=torch.int64), torch.full((3,), -1)
    assert [part.numel() for part in pending(none, column, column, none, none, none)] == [0, 0, 0, 0]
    assert pending(torch.arange(3), column, column, none, none, none)[0].numel() == 0
