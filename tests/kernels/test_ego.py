"""Frontiers and whole subgraphs against a plain search and a dense network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fewshot import dense_rows

from graphscale.batches.subgraphs import point_seeds
from graphscale.kernels.ego import Finder
from graphscale.kernels.ego_walk import Rules, Scratch
from graphscale.kernels.ego_whole import induced


def random_graph(seed, *, nodes=30, symmetric=True, density=0.07):
    draw = np.random.default_rng(seed)
    adj = (draw.random((nodes, nodes)) < density).astype(float)
    adj = np.maximum(adj, adj.T) if symmetric else adj
    rows = [np.nonzero(row)[0] for row in adj]
    indptr = np.r_[0, np.cumsum([len(r) for r in rows])].astype(np.int32)
    return adj, indptr, np.concatenate(rows).astype(np.int32), draw


def within(adj, centres, hops, hidden):
    """Nodes that hops of in-edges reach, one set after the other."""
    found = set(centres)
    front = set(centres)
    for _ in range(hops):
        new = set()
        for v in front:
            for u in np.nonzero(adj[v])[0].tolist():
                if not (hidden and {u, v} == set(centres)):
                    new.add(u)
        front = new - found
        found |= new
    return found


def propagated(levels, x):
    """Rows of the centres after all levels, entry by entry."""
    h = x[levels.node]
    for indptr, indices, values in zip(levels.indptr, levels.indices, levels.values, strict=True):
        out = np.zeros((len(indptr) - 1, x.shape[1]))
        for r in range(len(out)):
            for e in range(indptr[r], indptr[r + 1]):
                out[r] += values[e] * h[indices[e]]
        h = out
    return h


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize(
    ("centres", "loops", "hide", "symmetric"),
    [
        (1, False, False, True),
        (1, True, False, False),
        (2, False, True, True),
        (2, False, False, False),
        (2, True, True, True),
    ],
)
def test_frontiers_give_what_the_induced_subgraph_gives(layers, hops, centres, loops, hide, symmetric):
    adj, indptr, indices, draw = random_graph(layers + 7 * hops, symmetric=symmetric)
    points = np.stack([draw.choice(30, centres, replace=False) for _ in range(12)])
    # An edge between the ends of some pairs, or hiding would have nothing to hide.
    if centres == 2:
        ends = np.argwhere(adj > 0)
        ends = ends[ends[:, 0] != ends[:, 1]]
        points[:4] = ends[draw.choice(len(ends), 4, replace=False)]
    levels = Finder(indptr, indices, Rules(hops, -1, layers, loops, hide))(points, np.arange(12, dtype=np.uint64))
    x = draw.random((30, 4))
    got = propagated(levels, x)
    for p, point in enumerate(points.tolist()):
        kept = within(adj, point, hops, hide and centres == 2)
        # Without weights and activation: propagation alone, of positive numbers.
        alone = [(np.eye(4), np.zeros(4))] * layers
        want = dense_rows(adj, sorted(kept), point, loops=loops, hidden=hide, weights=alone, x=x)
        np.testing.assert_allclose(got[levels.rows[layers, p] : levels.rows[layers, p + 1]], want, atol=1e-6)
        assert levels.size[p] == len(kept)


def test_the_whole_graph_is_a_subgraph_without_a_search():
    adj, indptr, indices, draw = random_graph(3)
    points = np.arange(30)[:, None]
    levels = Finder(indptr, indices, Rules(-1, -1, 2, False, False))(points, np.zeros(30, dtype=np.uint64))
    x = draw.random((30, 4))
    want = dense_rows(adj, range(30), list(range(30)), loops=False, hidden=False,
                      weights=[(np.eye(4), np.zeros(4))] * 2, x=x)  # fmt: skip
    np.testing.assert_allclose(propagated(levels, x), want, atol=1e-6)


@pytest.mark.parametrize("hide", [True, False])
def test_whole_subgraphs_hold_all_edges_among_their_nodes(hide):
    adj, indptr, indices, _ = random_graph(5)
    ends = np.argwhere(np.triu(adj, 1) > 0)[:6]
    rules = Rules(1, -1, 2, False, hide)
    node, count, edge, edges = induced(indptr, indices, ends, np.zeros(6, dtype=np.uint64), rules, Scratch(30))
    start, first = np.r_[0, count.cumsum()], np.r_[0, edges.cumsum()]
    for p, pair in enumerate(ends.tolist()):
        mine = node[start[p] : start[p + 1]]
        assert mine[:2].tolist() == pair
        assert set(mine.tolist()) == within(adj, pair, 1, hide)
        got = {(int(node[s]), int(node[t])) for s, t in edge[:, first[p] : first[p + 1]].T}
        want = {(u, v) for v in mine.tolist() for u in mine.tolist() if adj[v, u]}
        want -= {tuple(pair), tuple(pair[::-1])} if hide else set()
        assert got == want
        assert edges[p] == len(want)


def test_a_capped_subgraph_is_a_uniform_draw_that_keeps_its_centre():
    hub = np.zeros((41, 41))
    hub[0, 1:] = hub[1:, 0] = 1
    indptr = np.r_[0, np.cumsum(hub.sum(1))].astype(np.int32)
    indices = np.concatenate([np.nonzero(r)[0] for r in hub]).astype(np.int32)
    draws = 4000
    node, count, _, _ = induced(
        indptr, indices, np.zeros((draws, 1), dtype=np.int64), np.arange(draws, dtype=np.uint64),
        Rules(1, 10, 1, False, False), Scratch(41),
    )  # fmt: skip
    assert set(count.tolist()) == {10, 11}  # the centre is drawn, or comes on top
    often = np.bincount(node, minlength=41) / draws
    assert often[0] == 1
    # Each of 40 others stays with probability 10 / 41: within 5 deviations of a binomial share.
    chance = 10 / 41
    assert np.abs(often[1:] - chance).max() < 5 * (chance * (1 - chance) / draws) ** 0.5


def test_a_subgraph_depends_on_its_seed_alone():
    _, indptr, indices, _ = random_graph(9, density=0.3)
    points, seeds = np.arange(30)[:, None], np.arange(30, dtype=np.uint64) + np.uint64(5)
    rules = Rules(2, 8, 2, False, False)
    one = Finder(indptr, indices, rules)(np.repeat(points, 10, 0), np.repeat(seeds, 10))
    several = Finder(indptr, indices, rules, threads=3)(np.repeat(points, 10, 0), np.repeat(seeds, 10))
    for a, b in zip(one, several, strict=True):
        np.testing.assert_equal(a, b)
    alone = Finder(indptr, indices, rules)(points[7:8], seeds[7:8])
    a, b = one.rows[0, 70:72]
    np.testing.assert_equal(alone.node, one.node[a:b])
    other = Finder(indptr, indices, rules)(points, seeds + np.uint64(1))
    assert other.node.tolist() != Finder(indptr, indices, rules)(points, seeds).node.tolist()


def test_a_pair_is_the_same_point_in_either_order_under_a_cap():
    _, indptr, indices, draw = random_graph(11, nodes=60, density=0.15)
    pairs = np.stack([draw.choice(60, 2, replace=False) for _ in range(30)])
    rules, scratch = Rules(2, 9, 2, False, True), Scratch(60)
    seeds = [point_seeds(torch.from_numpy(p), 0, 0) for p in (pairs, pairs[:, ::-1].copy())]
    np.testing.assert_equal(*seeds)
    assert len(set(seeds[0].tolist())) == len({frozenset(p) for p in pairs.tolist()})
    found = [
        induced(indptr, indices, p, s, rules, scratch)
        for p, s in zip((pairs, pairs[:, ::-1].copy()), seeds, strict=True)
    ]
    starts = [np.r_[0, count.cumsum()] for _, count, *_ in found]
    for p in range(30):
        one, other = (set(node[s[p] : s[p + 1]].tolist()) for (node, *_), s in zip(found, starts, strict=True))
        assert one == other
        assert len(one) <= 11
