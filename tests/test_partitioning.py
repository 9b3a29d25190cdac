from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import random_graph

from graphscale.data.synthetic import planted
from graphscale.errors import InputError
from graphscale.graph import from_edges
from graphscale.partitioning import from_assignment, partition


def dense_quality(graph, part):
    """Cut share and halo ratio by definition, node by node."""
    dense = graph.adj.dense().numpy() > 0
    np.fill_diagonal(dense, False)
    part = part.numpy()
    cut = sum(part[i] != part[j] for i, j in zip(*np.nonzero(dense), strict=True)) / dense.sum()
    halo = 0
    for k in set(part):
        inside = part == k
        halo += int((dense[inside].any(0) & ~inside).sum())
    return cut, halo / len(part)


@pytest.mark.parametrize("method", ["metis", "stream", "random"])
@pytest.mark.parametrize("directed", [False, True])
def test_clusters_cover_and_quality_is_what_it_says(method, directed):
    graph = random_graph(directed=directed, loops=True)
    found = partition(graph, 5, method=method, seed=3)
    assert torch.equal(found.order.sort().values, torch.arange(60))
    assert torch.equal(found.part[found.order].long(), torch.repeat_interleave(torch.arange(5), found.part_ptr.diff()))
    cut, halo = dense_quality(graph, found.part)
    assert found.cut == pytest.approx(cut)
    assert found.halo_ratio == pytest.approx(halo)


def test_same_seed_same_clusters():
    graph = planted(1000)
    for method in ("metis", "stream", "random"):
        a, b, c = (partition(graph, 20, method=method, seed=seed).part for seed in (1, 1, 2))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_metis_cuts_less_than_chance():
    graph = planted(2000)
    assert partition(graph, 20).cut < 0.5 * partition(graph, 20, method="random").cut


def test_streaming_clusters_are_as_good_as_metis_here_and_balanced():
    graph = planted(5000)
    stream, metis = partition(graph, 50, method="stream"), partition(graph, 50)
    assert stream.cut < 1.15 * metis.cut
    sizes = stream.part_ptr.diff()
    assert stream.num_parts == 50
    assert int(sizes.max()) <= 1.3 * 100
    assert int(sizes.min()) >= 0.4 * 100


def test_weighted_metis_keeps_heavy_edges():
    # A ring of 40 nodes whose every tenth edge is light: four parts must cut just the light ones.
    source = torch.arange(40)
    target = (source + 1) % 40
    light = source % 10 == 9
    weight = torch.where(light, 0.001, 1.0).repeat(2)
    base = random_graph(40)
    graph = from_edges(
        torch.stack([torch.cat([source, target]), torch.cat([target, source])]),
        40,
        x=base.x,
        y=base.y,
        masks=base.masks,
        weight=weight,
    )
    part = partition(graph, 4, weighted=True).part
    assert torch.equal(part[source] != part[target], light)
    with pytest.raises(InputError, match="weighted clusters need"):
        partition(base, 4, weighted=True)


def test_random_parts_are_even():
    sizes = partition(random_graph(), 7, method="random").part_ptr.diff()
    assert int(sizes.max()) - int(sizes.min()) <= 1


@pytest.mark.parametrize("parts", [0, 61])
def test_impossible_numbers_of_parts_are_refused(parts):
    with pytest.raises(InputError, match="--num-parts between 1 and 60"):
        partition(random_graph(), parts)


def test_as_many_parts_as_nodes_and_one_part():
    graph = random_graph()
    assert partition(graph, 1).num_parts == 1
    many = partition(graph, 60)
    assert many.asked == 60
    assert int(many.part_ptr.diff().min()) >= 1  # METIS may leave parts empty; they are dropped


def test_empty_parts_are_dropped():
    graph = random_graph()
    found = from_assignment(graph, torch.arange(60) % 3 * 4, method="given", seed=0, asked=12)
    assert found.num_parts == 3


def test_a_graph_without_edges():
    lonely = random_graph(12)
    lonely = lonely.induced(torch.tensor([0]))
    assert partition(lonely, 1).num_parts == 1


def test_order_gives_the_same_graph_back():
    graph = random_graph(weighted=True)
    moved = partition(graph, 6).apply(graph)
    back = moved.node_id.argsort()
    torch.testing.assert_close(moved.adj.dense(torch.float64)[back][:, back], graph.adj.dense(torch.float64))
    torch.testing.assert_close(moved.x[back], graph.x)
    assert torch.equal(moved.y[back], graph.y)
    assert all(torch.equal(moved.masks[name][back], graph.masks[name]) for name in graph.masks)


def test_a_partition_belongs_to_its_graph():
    with pytest.raises(InputError, match="another graph"):
        partition(random_graph(seed=0), 4).apply(random_graph(seed=1))
