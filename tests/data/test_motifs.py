from __future__ import annotations

from collections import Counter

import networkx
import numpy as np
import pytest
import torch

from graphscale.data import motifs
from graphscale.data.collections import load
from graphscale.data.motifs import DIAMOND, HOUSE, fan, star
from graphscale.errors import InputError


def degrees(shape):
    return sorted(Counter(end for edge in shape.edges for end in edge).values())


def test_the_shapes_are_those_of_the_authors():
    assert (HOUSE.size, len(HOUSE.edges), degrees(HOUSE)) == (5, 8, [2, 3, 3, 4, 4])
    assert (DIAMOND.size, len(DIAMOND.edges), degrees(DIAMOND)) == (6, 12, [4] * 6)
    assert networkx.is_isomorphic(networkx.Graph(DIAMOND.edges), networkx.octahedral_graph())
    assert (star(6).size, len(star(6).edges)) == (7, 6)
    assert (fan(6).size, len(fan(6).edges)) == (7, 10)  # the last leaf is left out of the path
    for shape in (HOUSE, star(5), fan(5)):
        assert len(shape.roles) == shape.size == 1 + max(max(edge) for edge in shape.edges)


def test_class_sizes_of_the_notebook():
    ((name, graph),) = motifs.cycle()
    assert (name, graph.num_nodes, graph.num_classes) == ("cycle-0", 300, 17)
    assert sorted(np.bincount(graph.y).tolist(), reverse=True) == [60, 50, 30, 20, 20] + [10] * 12
    assert graph.adj.check_symmetric() and not graph.adj.has_loops()


def test_labels_of_a_published_graph():
    # Graph 6 of data/multiple_graph/cycle in the authors' repository, as fold3/val.csv lists its 246 nodes.
    counts = (7, 7, 4, 13)
    published = [3] * 7 + [2] * 7 + [1] * 4 + [0] * 13 + [4] * 19
    for count, own in zip(
        counts, ([8, 5, 6, 6, 7], [10] + [9] * 5, [12] + [11] * 6, [16, 14, 15, 15, 15, 14, 13]), strict=True
    ):
        published += own * count
    kinds = (HOUSE, DIAMOND, star(6), fan(6))
    edges, role = motifs._on_cycle([kind for kind, n in zip(kinds, counts, strict=True) for _ in range(n)], 50)
    assert np.unique(role, return_inverse=True)[1].tolist() == published
    assert edges.shape[1] == 50 + sum(counts) + 7 * 8 + 7 * 12 + 4 * 6 + 13 * 10


def test_shapes_hang_on_the_cycle_by_one_edge():
    ((_, graph),) = motifs.cycle(random_edges=0)
    nx = networkx.from_edgelist(zip(graph.adj.row_of.tolist(), graph.adj.indices.tolist(), strict=True))
    assert graph.num_entries == 2 * 450
    bridges = list(networkx.bridges(nx))
    hangs = [edge for edge in bridges if min(edge) < 50]
    assert len(hangs) == 40 and sorted(min(edge) for edge in hangs) == list(range(40))
    nx.remove_edges_from(hangs)
    sizes = Counter(len(part) for part in networkx.connected_components(nx))
    assert sizes == {50: 1, 5: 10, 6: 10, 7: 20}


@pytest.mark.parametrize("random_edges", [0, 100, 1000])
def test_random_edges_come_on_top(random_edges):
    ((_, graph),) = motifs.cycle(random_edges=random_edges)
    more = graph.num_entries // 2 - 450
    assert more <= random_edges and more >= 0.95 * random_edges  # some join what is joined


def test_ten_graphs_share_their_classes():
    graphs = motifs.cycle(10, seed=3)
    assert len(graphs) == 10 and all(set(graph.y.tolist()) == set(range(17)) for _, graph in graphs)
    for g, (_, graph) in enumerate(graphs[:4]):  # 15 of one shape and one of the others
        sizes = (5, 6, 7, 7)
        assert graph.num_nodes == 50 + sum(sizes) + 14 * sizes[g]
    assert all(graph.num_nodes <= 50 + 49 * 7 for _, graph in graphs)


@pytest.mark.parametrize("make", [motifs.cycle, motifs.barabasi_albert])
def test_the_seed_decides(make):
    one, same, other = (make(1, seed=seed) for seed in (1, 1, 2))
    for (_, a), (_, b), (_, c) in zip(one, same, other, strict=True):
        assert a.fingerprint() == b.fingerprint() != c.fingerprint()
        assert torch.equal(a.y, b.y)


def test_shapes_are_laid_over_the_nodes_of_a_ba_graph(monkeypatch):
    monkeypatch.setattr(motifs, "clustered", lambda counts: np.zeros(len(counts), dtype=np.int64))
    graphs = motifs.barabasi_albert(10)
    assert all(graph.num_nodes == 200 for _, graph in graphs)
    edges = sum(graph.num_entries // 2 for _, graph in graphs)
    assert edges == pytest.approx(7647, rel=0.03)  # published
    ((_, one),) = motifs.barabasi_albert()
    assert 591 < one.num_entries // 2 <= 591 + 5 * (8 + 12 + 5 + 8)  # the notebook's has 742
    dense = one.adj.dense(torch.bool)
    houses = [s for s in range(190) if all(dense[s + a, s + b] for a, b in HOUSE.edges)]
    assert houses  # on consecutive nodes


def test_classes_of_ba_follow_the_roles_of_nodes():
    ((_, graph),) = motifs.barabasi_albert()
    assert 5 <= graph.num_classes <= 15
    sizes = torch.bincount(graph.y)
    assert (sizes < 5).sum() <= 1  # what was merged
    degree = graph.adj.indptr.diff().double().log()
    means = torch.stack([degree[graph.y == k].mean() for k in range(graph.num_classes)])[graph.y]
    assert means.var() / degree.var() > 0.6  # 0.07 for classes dealt at random


def test_names_of_collections():
    many = load("syn-cycle:4")
    assert many.names == ("cycle-0", "cycle-1", "cycle-2", "cycle-3")
    assert many.graph.num_classes == 17 and many.graph.x is None and many.graph.adj.symmetric
    assert load("syn-ba").num_graphs == 1
    for name in ("syn-cycle:0", "syn-cycle:x", "syn-cycle:3:3", "syn-ba:-1", "planted-graphs:3", "planted-graphs"):
        with pytest.raises(InputError, match="no generated collection"):
            load(name)
    with pytest.raises(InputError, match="5 nodes hold no communities"):
        load("planted-graphs:3:5")
    with pytest.raises(InputError, match="width 40"):
        motifs.cycle(width=40)
    with pytest.raises(InputError, match="0 graphs"):
        motifs.cycle(0)
