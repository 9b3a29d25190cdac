from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import random_graph

from graphscale.csr import Csr, from_entries
from graphscale.data import union
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
    monkeypatch.setattr(union, "_IN_MEMORY", in_memory)
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
