from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import random_graph

from graphscale.csr import Csr, from_entries
from graphscale.data import columns
from graphscale.data.collections import joined, load
from graphscale.errors import InputError


def pieces(collection):
    """Every graph of a union again, as dense arrays: by hand, from the rows alone."""
    graph = collection.graph
    dense = graph.adj.dense(torch.float64)
    for name, a, b in zip(collection.names, graph.part_ptr[:-1].tolist(), graph.part_ptr[1:].tolist(), strict=True):
        outside = dense[a:b].clone()
        outside[:, a:b] = 0
        assert not outside.any()
        x = graph.x.dense() if isinstance(graph.x, Csr) else graph.x
        yield name, dense[a:b, a:b], None if x is None else x[a:b], graph.y[a:b], graph.node_id[a:b]


def sparse(graph):
    row, col = graph.x.nonzero().t()
    return replace(graph, x=from_entries(row, col, tuple(graph.x.shape), graph.x[row, col].float())[0])


@pytest.mark.parametrize("features", ["dense", "sparse", "none"])
@pytest.mark.parametrize("in_memory", [1 << 26, 1])
def test_a_union_is_its_graphs_side_by_side(features, in_memory, monkeypatch):
    monkeypatch.setattr(columns, "_IN_MEMORY", in_memory)
    graphs = [random_graph(n, seed=n, weighted=True) for n in (20, 31, 7)]
    if features == "sparse":
        graphs = [sparse(graph) for graph in graphs]
    elif features == "none":
        graphs = [replace(graph, x=None) for graph in graphs]
    both = joined([(f"g{i}", graph) for i, graph in enumerate(graphs)])
    assert both.names == ("g0", "g1", "g2")
    assert both.graph.adj.symmetric and both.graph.adj.indices.dtype == torch.int32
    for (_, adj, x, y, node), graph in zip(pieces(both), graphs, strict=True):
        torch.testing.assert_close(adj, graph.adj.dense(torch.float64), rtol=0, atol=1e-6)
        if features != "none":
            dense = graph.x.dense() if isinstance(graph.x, Csr) else graph.x
            torch.testing.assert_close(x, dense, rtol=0, atol=0)
        assert torch.equal(y, graph.y) and torch.equal(node, torch.arange(graph.num_nodes))


def test_one_directed_graph_makes_the_union_directed_and_one_without_weights_drops_them():
    graphs = [("a", random_graph(9, weighted=True)), ("b", random_graph(12, directed=True))]
    both = joined(graphs).graph
    assert both.adj.values is None
    assert both.adj.symmetric is both.adj.check_symmetric() is False


def test_features_that_are_not_alike_are_refused():
    with pytest.raises(InputError, match=r"b has 4 dense feature columns, a 5 dense.*same columns"):
        joined([("a", random_graph(9)), ("b", random_graph(9, features=4))])
    with pytest.raises(InputError, match=r"b has no features, a 5 dense"):
        joined([("a", random_graph(9)), ("b", replace(random_graph(9), x=None))])
    with pytest.raises(InputError, match="no graph to join"):
        joined([])


def write(path, graph, **keep):
    edge_index = np.stack([graph.adj.indices.numpy(), graph.adj.row_of.numpy()])
    np.savez(path, edge_index=edge_index, num_nodes=graph.num_nodes, **keep)


def test_a_folder_of_bare_graphs(tmp_path):
    first, second = random_graph(9, seed=1), random_graph(14, seed=2)
    write(tmp_path / "b.npz", second)
    write(tmp_path / "a.npz", first, y=first.y.numpy())
    both = load(tmp_path)
    assert both.names == ("a", "b")
    assert both.graph.x is None and both.pairs is None
    (_, adj, _, y, _), (_, other, _, none, _) = pieces(both)
    assert torch.equal(adj, first.adj.dense(torch.float64)) and torch.equal(other, second.adj.dense(torch.float64))
    assert torch.equal(y, first.y) and (none == -1).all()
    assert both.graph.num_classes == int(first.y.max()) + 1


def test_one_graph_is_a_collection_too(tmp_path):
    whole = load("digits")
    assert whole.names == ("digits",) and whole.graph.part_ptr.tolist() == [0, 1797]
    write(tmp_path / "only.npz", random_graph(9))
    assert load(tmp_path / "only.npz").names == ("only",)
    np.savez(tmp_path / "odd.npz", edge_index=np.zeros((2, 0), dtype=np.int64))
    with pytest.raises(InputError, match=r"lacks num_nodes"):
        load(tmp_path / "odd.npz")
    with pytest.raises(InputError, match="no data set 'nowhere'"):
        load("nowhere")


def test_real_graphs_share_their_columns(data_dir):
    twitch = load("twitch")
    assert twitch.names == ("DE", "ENGB", "ES", "FR", "PTBR", "RU")
    assert twitch.graph.x.num_cols == 3170 and twitch.graph.num_classes == 2
    assert twitch.graph.num_nodes == 34_118 and twitch.graph.adj.symmetric
    tissues = load("ohmnet")
    assert tissues.num_graphs == 9 and tissues.graph.x is None and (tissues.graph.y == -1).all()


def test_planted_graphs_share_their_classes():
    many = load("planted-graphs:6:400", seed=2)
    graph = many.graph
    assert many.num_graphs == 6 and graph.part_ptr.tolist() == [400 * g for g in range(7)]
    assert graph.num_classes == 10 and graph.num_features == 32 and graph.adj.check_symmetric()
    parts = graph.y.view(6, 400)
    assert all(set(part.tolist()) == set(range(10)) for part in parts)
    assert not torch.equal(parts[0], parts[1])
    means = torch.stack([torch.stack([x[y == k].mean(0) for k in range(10)]) for x, y in zip(
        graph.x.view(6, 400, 32), parts, strict=True)])  # fmt: skip
    far = torch.cdist(means[0], means[1:].mean(0))  # a class's features are alike in all graphs
    assert (far.argmin(1) == torch.arange(10)).double().mean() > 0.6
    assert torch.equal(load("planted-graphs:6:400", seed=2).graph.x, graph.x)
    assert torch.equal(load("planted-graphs:2:400", seed=2).graph.x, graph.x[:800])  # graph g follows from (seed, g)
    assert not torch.equal(load("planted-graphs:6:400", seed=3).graph.y, graph.y)


def tu_folder(root):
    """Two triangles with tails as a TUDataset: 1 attribute, 3 classes of nodes."""
    raw = root / "pyg" / "TUDataset" / "TINY" / "raw"
    raw.mkdir(parents=True)
    edges = [(1, 2), (2, 3), (3, 1), (3, 4), (5, 6), (6, 7), (7, 5)]
    lines = {
        "A": [f"{a}, {b}" for pair in edges for a, b in (pair, pair[::-1])],
        "graph_indicator": [1, 1, 1, 1, 2, 2, 2],
        "graph_labels": [1, 2],
        "node_labels": [0, 0, 2, 1, 1, 1, 2],
        "node_attributes": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5],
    }
    for name, rows in lines.items():
        (raw / f"TINY_{name}.txt").write_text("\n".join(map(str, rows)) + "\n")


def test_a_tudataset(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHSCALE_DATA", str(tmp_path))
    tu_folder(tmp_path)
    both = load("TUDataset:TINY")
    assert both.names == ("TINY-0", "TINY-1") and both.graph.part_ptr.tolist() == [0, 4, 7]
    assert both.graph.y.tolist() == [0, 0, 2, 1, 1, 1, 2]
    assert both.graph.x[:, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5] and both.graph.num_features == 1
    assert both.graph.num_entries == 14 and both.graph.adj.symmetric
    links = load("TUDataset:TINY:features").graph
    assert (links.y == -1).all() and links.num_classes == 0 and links.num_features == 4
    assert torch.equal(links.x[:, 1:].argmax(1), both.graph.y)
    for name in ("TUDataset", "TUDataset:TINY:labels"):
        with pytest.raises(InputError, match="names no TUDataset"):
            load(name)
