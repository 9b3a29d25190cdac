from __future__ import annotations

import numpy as np
import pytest
import torch

from graphscale.data.synthetic import planted
from graphscale.graph import Graph


def endpoints(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    return graph.adj.indices.numpy().astype(np.int64), graph.adj.row_of.numpy()


@pytest.mark.parametrize("num_nodes", [100, 777])
def test_sizes_and_splits(num_nodes):
    graph = planted(num_nodes, num_classes=5, num_features=7)
    assert (graph.num_nodes, graph.num_features, graph.num_classes) == (num_nodes, 7, 5)
    masks = torch.stack(list(graph.masks.values()))
    assert bool((masks.sum(0) == 1).all())  # every node is in one split
    train, val, test = masks.sum(1).tolist()
    assert train == num_nodes * 3 // 5
    assert abs(val - test) <= 1


def test_is_undirected_without_loops():
    graph = planted(400)
    source, target = endpoints(graph)
    there = set(zip(source.tolist(), target.tolist(), strict=True))
    assert len(there) == graph.num_entries  # no duplicates
    assert all((t, s) in there for s, t in there)
    assert not (source == target).any()
    assert graph.adj.symmetric


def test_degree_is_the_one_asked_for():
    graph = planted(3000, degree=6.0)
    # degree counts undirected edges at a node; loops and duplicates that fell out are a few per cent.
    assert 5.2 < graph.num_entries / graph.num_nodes < 6.0


def test_edges_tell_of_classes_and_features_of_means():
    graph = planted(4000, inside=0.85)
    source, target = endpoints(graph)
    y = graph.y.numpy()
    # 0.85 inside, of the rest an eighth by chance.
    assert np.mean(y[source] == y[target]) == pytest.approx(0.85 + 0.15 / 8, abs=0.03)
    x = graph.x.numpy()
    means = np.stack([x[y == c].mean(0) for c in range(8)])
    nearest = ((x[:, None] - means[None]) ** 2).sum(2).argmin(1)
    alone = np.mean(nearest == y)
    assert 0.15 < alone < 0.9  # one node's features say something, and little
    neighbours = graph.adj.dense().numpy() @ x
    counts = np.maximum(graph.adj.dense().numpy().sum(1, keepdims=True), 1)
    together = np.mean((((neighbours / counts)[:, None] - means[None]) ** 2).sum(2).argmin(1) == y)
    assert together > alone + 0.1  # its neighbourhood says more


def test_only_inside_means_only_inside():
    graph = planted(500, inside=1.0)
    source, target = endpoints(graph)
    assert bool((graph.y[source] == graph.y[target]).all())


def test_a_seed_is_a_graph_and_leaves_torch_alone():
    state = torch.random.get_rng_state()
    one, again, other = planted(200, seed=3), planted(200, seed=3), planted(200, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    assert torch.equal(one.x, again.x)
    assert torch.equal(one.masks["test"], again.masks["test"])
    assert not torch.equal(one.x, other.x)


def test_numbers_of_nodes_say_nothing_of_their_class():
    # Neighbouring ids in one cluster would make any order look clustered.
    graph = planted(2000)
    source, target = endpoints(graph)
    assert np.mean(np.abs(source - target)) == pytest.approx(2000 / 3, rel=0.1)
