from __future__ import annotations

from collections import Counter
from itertools import combinations

import networkx
import numpy as np
import pytest
from graphs import random_graph

from graphscale.csr import Csr
from graphscale.data import orbits
from graphscale.data.orbits import counts_of, roles

ATLAS = [g for g in networkx.graph_atlas_g() if 2 <= len(g) <= 5 and networkx.is_connected(g)]


def graphlet(nx) -> int:
    """The place in the atlas of all small graphs."""
    return next(
        i
        for i, known in enumerate(ATLAS)
        if len(known) == len(nx) and known.size() == nx.size() and networkx.is_isomorphic(known, nx)
    )


def brute_force(nx) -> list[Counter]:
    """(graphlet, degree) of every node in every connected induced subgraph: over all subsets of nodes."""
    out = [Counter() for _ in nx]
    for size in (2, 3, 4, 5):
        for nodes in combinations(nx, size):
            part = nx.subgraph(nodes)
            if networkx.is_connected(part):
                kind = graphlet(part)
                for node in nodes:
                    out[node][kind, part.degree(node)] += 1
    return out


def as_networkx(graph):
    nx = networkx.empty_graph(graph.num_nodes)
    nx.add_edges_from(zip(graph.adj.row_of.tolist(), graph.adj.indices.tolist(), strict=True))
    return nx


def test_all_graphlets_are_there():
    known = roles()
    assert len(set(known.edges)) == len(ATLAS) == 30
    expected = {(i, d) for i, nx in enumerate(ATLAS) for _, d in nx.degree}
    assert {(graphlet(networkx.Graph(e)), d) for e, d in zip(known.edges, known.degree, strict=True)} == expected
    assert len(known.degree) == len(expected) == 66


@pytest.mark.parametrize(("seed", "density"), [(0, 0.15), (1, 0.3), (2, 0.5), (3, 0.8)])
def test_counts_equal_those_over_all_subsets(seed, density):
    graph = random_graph(10, seed=seed, density=density)
    kind = [graphlet(networkx.Graph(edges)) for edges in roles().edges]
    found = counts_of(graph.adj)
    for node, expected in enumerate(brute_force(as_networkx(graph))):
        mine = {(kind[r], roles().degree[r]): int(n) for r, n in enumerate(found[node]) if n}
        assert mine == dict(expected)


def test_a_complete_graph_has_one_graphlet_a_size():
    nx = networkx.complete_graph(9)
    adj = networkx.to_scipy_sparse_array(nx, format="csr")
    import torch

    found = counts_of(Csr(torch.from_numpy(adj.indptr), torch.from_numpy(adj.indices), None, 9, symmetric=True))
    assert (found == found[0]).all()
    assert sorted(found[0][found[0] > 0].tolist()) == [8, 28, 56, 70]  # subsets of the other 8 nodes


def test_small_clusters_are_one_class():
    counts = np.zeros((60, 4), dtype=np.int64)
    counts[:, 0] = 1
    counts[20:40, 1] = 9
    counts[40:56, 2] = 9
    counts[56:58, 3], counts[58:, 1:3] = 9, 9
    label = orbits.clustered(counts, clusters=5, least=5)
    assert [len(set(label[a:b].tolist())) for a, b in ((0, 20), (20, 40), (40, 56), (56, 60))] == [1] * 4
    assert np.bincount(label).tolist().count(4) == 1 and label.max() == 3
    assert orbits.clustered(counts, clusters=5, least=1).max() == 4
