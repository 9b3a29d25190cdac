from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import random_graph

from graphscale.data.collections import joined, load
from graphscale.data.link_split import split_links
from graphscale.errors import InputError


def three(**kind):
    return joined((f"g{n}", random_graph(n, seed=n, **kind)) for n in (40, 25, 60))


def edges_of(graph):
    """Undirected edges as a set of (low, high), loops apart."""
    ends = zip(graph.adj.row_of.tolist(), graph.adj.indices.tolist(), strict=True)
    return {(min(a, b), max(a, b)) for a, b in ends if a != b}


def chosen(pairs, *, label, support):
    rows = pairs.pair[(pairs.label == label) & (pairs.support == support)].tolist()
    assert len(rows) == len({tuple(row) for row in rows})  # no pair twice
    return {tuple(row) for row in rows}


@pytest.mark.parametrize("kind", [{}, {"directed": True, "loops": True}, {"weighted": True, "loops": True}])
@pytest.mark.parametrize("share", [0.3, 0.05, 0.9])
def test_the_laws_of_a_split(kind, share):
    whole = three(**kind)
    split = split_links(whole, share, seed=5)
    edges, messages = edges_of(whole.graph), edges_of(split.graph)
    support, query = (chosen(split.pairs, label=1, support=s) for s in (True, False))
    assert support == messages  # they alone are left
    assert split.graph.num_entries == 2 * len(messages) and split.graph.adj.symmetric
    assert split.graph.adj.check_symmetric() and not split.graph.adj.has_loops()
    assert not query & messages and query | messages == edges
    not_support, not_query = (chosen(split.pairs, label=0, support=s) for s in (True, False))
    assert not (not_support | not_query) & edges and not not_support & not_query
    part = torch.searchsorted(whole.graph.part_ptr, split.pairs.pair, right=True)
    assert (part[:, 0] == part[:, 1]).all() and (part[1:, 0] >= part[:-1, 0]).all()  # of one graph; by graph
    assert (split.pairs.pair[:, 0] < split.pairs.pair[:, 1]).all()
    for g in (1, 2, 3):
        mine = part[:, 0] == g
        positive = mine & (split.pairs.label == 1)
        first, after = whole.graph.part_ptr[g - 1 : g + 1].tolist()
        total = sum(first <= a < after for a, _ in edges)
        assert int((positive & split.pairs.support).sum()) == round(share * total)
        for s in (True, False):
            assert int((positive & (split.pairs.support == s)).sum()) == int(
                (mine & (split.pairs.label == 0) & (split.pairs.support == s)).sum()
            )


def test_what_is_not_the_structure_stays():
    whole = three()
    split = split_links(whole)
    assert split.names == whole.names and split.graph.x is whole.graph.x and split.graph.y is whole.graph.y
    assert torch.equal(split.graph.part_ptr, whole.graph.part_ptr)
    assert "carry messages" in split.graph.notes[-1]


def test_the_seed_decides():
    whole = three()
    one, same, other = (split_links(whole, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.pairs.pair, same.pairs.pair) and one.graph.fingerprint() == same.graph.fingerprint()
    assert one.graph.fingerprint() != other.graph.fingerprint()
    negatives = [chosen(split.pairs, label=0, support=False) for split in (one, other)]
    assert len(negatives[0] & negatives[1]) < len(negatives[0]) / 2
    first = joined([("g40", random_graph(40, seed=40))])  # a graph's split does not hang on those after it
    alone = split_links(first, seed=1)
    assert torch.equal(alone.pairs.pair, one.pairs.pair[: len(alone.pairs)])


def test_pairs_that_are_no_edge_are_drawn_evenly():
    whole = joined([("g", random_graph(12, density=0.2))])
    edges = edges_of(whole.graph)
    seen = np.zeros((12, 12))
    for seed in range(400):
        split = split_links(whole, seed=seed)
        low, high = split.pairs.pair[split.pairs.label == 0].t()
        seen[low, high] += 1
    none = [(a, b) for b in range(12) for a in range(b) if (a, b) not in edges]
    chance = len(edges) / len(none)
    spread = np.sqrt(chance * (1 - chance) / 400)
    found = np.array([seen[pair] for pair in none]) / 400
    assert seen.sum() == 400 * len(edges) and np.abs(found - chance).max() < 4.5 * spread
    assert np.abs(found - chance).std() > 0


def test_pairs_of_large_graphs_are_numbered_without_error():
    # The square root of numbers near 2^53 and beyond is rounded: the last pairs of a graph of 200 million nodes.
    from graphscale.data import link_split

    class Last:
        def choice(self, count, size, replace):
            return count - 1 - np.arange(size)

    nodes = 200_000_000
    edges = np.array([[0, 5, nodes - 3], [1, 9, nodes - 1]])
    low, high = link_split._no_edges(edges, nodes, Last(), "g")
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == [(nodes - k, nodes - 1) for k in (2, 4, 5)]


def test_dense_graphs():
    half = random_graph(30, density=0.29)  # nearly half of all pairs are edges
    split_links(joined([("half", half)]))
    full = random_graph(12, density=0.9)
    with pytest.raises(InputError, match=r"full has .* edges among 12 nodes and only .* Leave it out"):
        split_links(joined([("full", full)]))
    for share in (0, 1, -0.5, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            split_links(three(), share)


def test_an_empty_graph_has_no_pairs():
    bare = random_graph(5, density=0.0)
    split = split_links(joined([("none", bare), ("some", replace(random_graph(20), x=bare.x.new_zeros(20, 5)))]))
    assert (split.pairs.pair >= 5).all() and len(split.pairs) > 0


def test_real_tissues(data_dir):
    tissues = split_links(load("ohmnet"))
    edges = (37_992, 23_745, 21_702, 30_664, 21_900, 6_293, 7_156, 30_654, 37_175)  # of the nine, loops apart
    positive = tissues.pairs.label == 1
    assert len(tissues.pairs) == 2 * sum(edges) == 2 * int(positive.sum())
    assert int((positive & tissues.pairs.support).sum()) == sum(round(0.3 * n) for n in edges)
