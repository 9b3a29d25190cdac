"""Samples of temporal neighbours beside brute force: ties, hubs, first edges, self events, batches of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphscale.kernels import temporal_torch
from graphscale.kernels.temporal import recent, temporal_csr, uniform


def stream(num_nodes, num_events, seed=0):
    """Endpoints of events: a hub in a fifth of them, some with themselves."""
    draw = np.random.default_rng(seed)
    src, dst = draw.integers(num_nodes, size=num_events), draw.integers(num_nodes, size=num_events)
    src[draw.random(num_events) < 0.2] = 1
    return torch.from_numpy(src), torch.from_numpy(dst)


def by_hand(src, dst, node, cut, *, directed):
    """[(neighbour, event)] of a node before a cut, the latest first; of lists, which are read faster than tensors."""
    found = []
    for e in range(min(cut, len(src)) - 1, -1, -1):
        if dst[e] == node:
            found.append((src[e], e))
        elif src[e] == node and not directed:
            found.append((dst[e], e))
    return found


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("batch", [1, 7, 200, 4000])
@pytest.mark.parametrize("k", [1, 10])
def test_the_latest_neighbours(directed, batch, k):
    src, dst = stream(40, 5000)
    csr = temporal_csr(src, dst, 40, directed=directed)
    draw = np.random.default_rng(1)
    nodes, cuts = torch.from_numpy(draw.integers(40, size=batch)), torch.from_numpy(draw.integers(5001, size=batch))
    cuts[: batch // 4] = 3
    neighbour, event = recent(csr, nodes, cuts, k)
    ends = src.tolist(), dst.tolist()
    for i in range(0, batch, max(1, batch // 150)):
        expected = by_hand(*ends, int(nodes[i]), int(cuts[i]), directed=directed)[:k]
        expected += [(-1, -1)] * (k - len(expected))
        assert list(zip(neighbour[i].tolist(), event[i].tolist(), strict=True)) == expected
    torch_neighbour, torch_event = temporal_torch.recent(csr, nodes, cuts, k)
    assert torch.equal(torch_neighbour, neighbour) and torch.equal(torch_event, event)


@pytest.mark.parametrize("directed", [False, True])
def test_a_uniform_sample_is_of_the_past_and_without_repetition(directed):
    src, dst = stream(30, 3000)
    csr = temporal_csr(src, dst, 30, directed=directed)
    nodes, cuts = torch.arange(30).repeat(20), torch.arange(600) * 5
    neighbour, event = uniform(csr, nodes, cuts, 6, seed=4)
    ends = src.tolist(), dst.tolist()
    for i in range(600):
        past = by_hand(*ends, int(nodes[i]), int(cuts[i]), directed=directed)
        drawn = [(n, e) for n, e in zip(neighbour[i].tolist(), event[i].tolist(), strict=True) if e >= 0]
        assert len(drawn) == min(6, len(past)) == len(set(drawn)) and set(drawn) <= set(past)
        assert [e for _, e in drawn] == sorted((e for _, e in drawn), reverse=True)
    by_torch = temporal_torch.uniform(csr, nodes, cuts, 6, 4)
    assert torch.equal(by_torch[0], neighbour) and torch.equal(by_torch[1], event)
    again = uniform(csr, nodes.flip(0), cuts.flip(0), 6, seed=4)
    assert torch.equal(again[1].flip(0), event), "a sample does not depend on the other queries"
    assert not torch.equal(uniform(csr, nodes, cuts, 6, seed=5)[1], event)


def test_a_uniform_sample_is_uniform():
    src, dst = torch.zeros(12, dtype=torch.int64), torch.arange(1, 13)
    csr = temporal_csr(src, dst, 13)
    counts = torch.zeros(12)
    for seed in range(3000):
        _, event = uniform(csr, torch.tensor([0]), torch.tensor([12]), 4, seed=seed)
        counts[event[0]] += 1
    expected = 3000 * 4 / 12
    assert float((counts - expected).abs().max()) < 5 * (expected * (1 - 4 / 12)) ** 0.5


def test_streams_without_events():
    csr = temporal_csr(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 3)
    nodes, cuts = torch.tensor([0, 2]), torch.tensor([0, 5])
    for found in (
        recent(csr, nodes, cuts, 2),
        uniform(csr, nodes, cuts, 2, 0),
        temporal_torch.recent(csr, nodes, cuts, 2),
    ):
        assert all((part == -1).all() for part in found)
