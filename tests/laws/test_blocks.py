"""Blocks against a dense oracle written out by hand, and the laws of every order of seeing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import random_graph

from graphscale.batches.cluster import ClusterBatches
from graphscale.batches.full import FullBatch
from graphscale.graph import from_edges
from graphscale.partitioning import partition
from graphscale.testing import check_batches

# Two triangles, 0-1-2 and 3-4-5, joined by the edge 2-3; clusters {0, 1}, {2, 3}, {4, 5}.
EDGES = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (2, 3)]
DENSE = np.array(
    [
        [0, 1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [0, 0, 1, 0, 1, 1],
        [0, 0, 0, 1, 0, 1],
        [0, 0, 0, 1, 1, 0],
    ]
)


def six_nodes(**keywords):
    both = torch.tensor(EDGES + [(b, a) for a, b in EDGES]).t()
    mask = torch.tensor([True, False, False, True, False, False])
    graph = from_edges(
        both,
        6,
        x=torch.arange(12.0).view(6, 2),
        y=torch.tensor([0, 1, 0, 1, 0, 1]),
        masks={"train": mask, "val": mask.roll(1), "test": mask.roll(2)},
        **keywords,
    )
    return graph.permuted(torch.arange(6), torch.tensor([0, 2, 4, 6]))


@pytest.mark.parametrize(("parts", "nodes"), [([0], [0, 1]), ([2, 0], [0, 1, 4, 5]), ([1, 2], [2, 3, 4, 5])])
def test_block_is_the_induced_submatrix(parts, nodes):
    batch = ClusterBatches(six_nodes(), 1).block(torch.tensor(parts), 0)
    assert batch.n_id.tolist() == nodes
    np.testing.assert_array_equal(batch.adj.dense().numpy(), DENSE[np.ix_(nodes, nodes)])
    np.testing.assert_array_equal(batch.x.numpy(), np.arange(12.0).reshape(6, 2)[nodes])
    assert batch.count == sum(node in (0, 3) for node in nodes)
    assert batch.halo.numel() == 0


def test_links_between_chosen_clusters_are_added_back():
    graph = six_nodes()
    alone = sum(b.adj.num_entries for b in ClusterBatches(graph, 1).epoch(0))
    pair = ClusterBatches(graph, 2).block(torch.tensor([0, 1]), 0)
    assert alone == 2 + 2 + 2  # 0-1, 2-3 and 4-5 in both directions
    assert pair.adj.num_entries == 2 + 2 + 4  # and 0-2, 1-2 between them


def test_weights_and_attributes_follow_their_entries():
    weight = torch.arange(14.0) + 1
    graph = six_nodes(weight=weight, edge_attr=None)
    dense = graph.adj.dense()
    batch = ClusterBatches(graph, 2).block(torch.tensor([2, 1]), 0)
    torch.testing.assert_close(batch.adj.dense(), dense[2:, 2:])
    attributed = six_nodes(edge_attr=weight[:, None])
    batch = ClusterBatches(attributed, 2).block(torch.tensor([2, 1]), 0)
    by_attr = torch.zeros(4, 4)
    source, target = batch.edge_index
    by_attr[target, source] = batch.edge_attr[:, 0]
    torch.testing.assert_close(by_attr, dense[2:, 2:])


def test_edge_index_lists_sources_above_targets():
    directed = from_edges(
        torch.tensor([[0, 1], [1, 2]]),
        3,
        x=torch.eye(3),
        y=torch.tensor([0, 1, 0]),
        masks={"train": torch.tensor([True, False, False])},
    )
    batch = next(FullBatch(directed).epoch(0))
    assert sorted(map(tuple, batch.edge_index.t().tolist())) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("q", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["plain", "weighted", "directed", "attributes"])
def test_cluster_batches_conform(q, kind):
    graph = random_graph(
        weighted=kind == "weighted", directed=kind == "directed", attributes=2 if kind == "attributes" else 0
    )
    clusters = partition(graph, 7, seed=1).apply(graph)
    check_batches(lambda world: ClusterBatches(clusters, q, seed=3, world=world), clusters, induced=True)


def test_full_batch_conforms():
    graph = random_graph()
    check_batches(lambda world: FullBatch(graph, seed=3, world=world), graph, induced=True)


def test_an_epoch_is_a_function_of_seed_and_index():
    graph = random_graph()
    clusters = partition(graph, 7).apply(graph)

    def order(seed, index):
        return [batch.n_id.tolist() for batch in ClusterBatches(clusters, 2, seed=seed).epoch(index)]

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


def test_every_pair_of_clusters_meets():
    # Without replacement, uniformly: over many epochs each pair shares a batch about equally often.
    graph = random_graph()
    clusters = partition(graph, 6).apply(graph)
    part = torch.repeat_interleave(torch.arange(6), clusters.part_ptr.diff())
    met = torch.zeros(6, 6)
    for index in range(300):
        for batch in ClusterBatches(clusters, 2).epoch(index):
            a, b = part[batch.n_id].unique().tolist()
            met[a, b] += 1
    pairs = met[torch.triu(torch.ones(6, 6), 1) == 1]
    # 300 epochs, chance 1/5 a pair: mean 60, standard deviation 6.9; five of them is out of chance's reach.
    assert pairs.min() > 60 - 35
    assert pairs.max() < 60 + 35


def test_empty_clusters_are_passed_over():
    graph = six_nodes()
    graph = graph.permuted(torch.arange(6), torch.tensor([0, 0, 2, 2, 4, 6, 6]))
    batches = ClusterBatches(graph, 1)
    assert len(batches) == 3
    check_batches(lambda world: ClusterBatches(graph, 1, world=world), graph)
