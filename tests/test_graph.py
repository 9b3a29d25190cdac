from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from graphscale.csr import Csr
from graphscale.errors import InputError
from graphscale.graph import Graph, from_edges


def graph_of(pairs, num_nodes: int, **more) -> Graph:
    """A graph of (source, target) pairs; labels 0, 1, 0, 1, ... and splits 0, 1, 2, 0, 1, 2, ..."""
    edge_index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    masks = {name: torch.arange(num_nodes) % 3 == i for i, name in enumerate(("train", "val", "test"))}
    given = {"y": torch.arange(num_nodes) % 2, "masks": masks, "x": torch.rand(num_nodes, 2)}
    return from_edges(edge_index, num_nodes, **{**given, **more})


def oracle(pairs, num_nodes: int, values=None) -> np.ndarray:
    """out[target, source]: values of parallel edges add up, or 1 wherever there is any edge."""
    out = np.zeros((num_nodes, num_nodes))
    for k, (source, target) in enumerate(pairs):
        out[target, source] = out[target, source] + values[k] if values is not None else 1
    return out


def dense(graph: Graph) -> np.ndarray:
    return graph.adj.dense(torch.float64).numpy()


DIRECTED = [(4, 0), (0, 1), (3, 1), (1, 2), (0, 5)]  # unsorted on purpose


def test_directed_edges_come_out_by_target_and_are_not_called_symmetric():
    graph = graph_of(DIRECTED, 6)
    assert np.array_equal(dense(graph), oracle(DIRECTED, 6))
    # By hand: row i lists the sources of i's incoming edges, sorted.
    assert graph.adj.indptr.tolist() == [0, 1, 3, 4, 4, 4, 5]
    assert graph.adj.indices.tolist() == [4, 0, 3, 1, 0]
    assert not graph.adj.symmetric
    assert any("directed" in note for note in graph.notes)


def test_an_undirected_graph_is_recognised():
    graph = graph_of([(0, 1), (1, 0), (2, 1), (1, 2)], 3)
    assert graph.adj.symmetric
    assert not any("directed" in note for note in graph.notes)


def test_symmetry_looks_at_weights_too():
    pairs = [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert graph_of(pairs, 3, weight=torch.tensor([2.0, 2.0, 3.0, 3.0])).adj.symmetric
    assert not graph_of(pairs, 3, weight=torch.tensor([2.0, 2.5, 3.0, 3.0])).adj.symmetric


def test_duplicates_without_weights_are_one_entry():
    pairs = [(0, 1), (2, 1), (0, 1), (0, 1), (1, 0)]
    graph = graph_of(pairs, 3)
    assert np.array_equal(dense(graph), oracle(pairs, 3))
    assert graph.adj.values is None
    assert graph.num_entries == 3
    assert any("2 duplicate entries merged" in note for note in graph.notes)


def test_duplicates_with_weights_add_up():
    pairs, values = [(0, 1), (2, 1), (0, 1), (1, 0)], [1.5, 4.0, 2.0, 8.0]
    graph = graph_of(pairs, 3, weight=torch.tensor(values))
    assert np.array_equal(dense(graph), oracle(pairs, 3, values))
    assert graph.num_entries == 3


def test_self_loops_are_kept_and_can_be_left_out():
    pairs = [(0, 0), (0, 1), (1, 0), (2, 2), (2, 1), (1, 2)]
    graph = graph_of(pairs, 3)
    assert np.array_equal(dense(graph), oracle(pairs, 3))
    bare = graph.without_loops()
    assert np.array_equal(dense(bare), oracle(pairs, 3) - np.diag([1, 0, 1]))
    assert bare.adj.symmetric


def test_without_loops_drops_their_attributes_only():
    pairs = [(0, 1), (1, 1), (2, 1), (0, 0)]
    attr = torch.tensor([[10.0], [11.0], [21.0], [0.5]])
    bare = graph_of(pairs, 3, edge_attr=attr).without_loops()
    assert np.array_equal(dense(bare), oracle([(0, 1), (2, 1)], 3))
    assert bare.edge_attr.flatten().tolist() == [10.0, 21.0]


def test_isolated_nodes_are_kept():
    graph = graph_of([(0, 1), (1, 0)], 5)
    assert graph.num_nodes == 5
    assert graph.adj.indptr.tolist() == [0, 1, 2, 2, 2, 2]
    assert any("3 nodes without incoming edges" in note for note in graph.notes)


def test_a_graph_without_any_edge_is_a_graph():
    graph = graph_of([], 4)
    assert graph.num_entries == 0
    assert np.array_equal(dense(graph), np.zeros((4, 4)))


def test_parallel_edges_with_attributes_stay_apart_each_with_its_own():
    pairs = [(2, 1), (0, 1), (2, 1), (1, 0)]
    attr = torch.tensor([[7.0, 1.0], [5.0, 2.0], [8.0, 3.0], [9.0, 4.0]])
    graph = graph_of(pairs, 3, edge_attr=attr)
    assert graph.num_entries == 4
    row, col = graph.adj.row_of.tolist(), graph.adj.indices.tolist()
    found = {(s, t, *a) for s, t, a in zip(col, row, graph.edge_attr.tolist(), strict=True)}
    assert found == {(2, 1, 7.0, 1.0), (0, 1, 5.0, 2.0), (2, 1, 8.0, 3.0), (1, 0, 9.0, 4.0)}


def test_a_flat_edge_attribute_becomes_one_column():
    graph = graph_of([(1, 0), (0, 1)], 2, edge_attr=torch.tensor([3.0, 4.0]), **_two_nodes())
    assert graph.edge_attr.tolist() == [[3.0], [4.0]]


def _two_nodes():
    return {"masks": {"train": torch.tensor([True, False]), "val": torch.tensor([False, True])}}


def test_undirected_adds_only_the_reverses_that_are_missing():
    pairs, values = [(0, 1), (1, 0), (1, 2), (3, 3)], [1.0, 5.0, 2.0, 4.0]
    graph = graph_of(pairs, 4, weight=torch.tensor(values), undirected=True)
    # (1, 0) is stored with another weight than (0, 1) and keeps it; the loop is its own reverse.
    expected = oracle([*pairs, (2, 1)], 4, [*values, 2.0])
    assert np.array_equal(dense(graph), expected)


def test_undirected_gives_new_reverses_the_attributes_of_their_edges():
    pairs = [(0, 1), (0, 1), (2, 0), (0, 2)]
    attr = torch.tensor([1.0, 2.0, 3.0, 4.0])
    graph = graph_of(pairs, 3, edge_attr=attr, undirected=True)
    row, col = graph.adj.row_of.tolist(), graph.adj.indices.tolist()
    found = sorted(zip(col, row, graph.edge_attr.flatten().tolist(), strict=True))
    assert found == [(0, 1, 1.0), (0, 1, 2.0), (0, 2, 4.0), (1, 0, 1.0), (1, 0, 2.0), (2, 0, 3.0)]


def test_undirected_leaves_an_undirected_graph_as_it_is():
    pairs = [(0, 1), (1, 0), (2, 1), (1, 2)]
    assert graph_of(pairs, 3, undirected=True).num_entries == 4


def test_unlabelled_nodes_leave_the_splits_and_are_told_of():
    y = torch.tensor([0, 1, -1, 2, -1, 0])
    graph = graph_of(DIRECTED, 6, y=y)
    assert graph.masks["train"].tolist() == [True, False, False, True, False, False]
    assert graph.masks["val"].tolist() == [False, True, False, False, False, False]  # 4 has no label
    assert graph.masks["test"].tolist() == [False, False, False, False, False, True]  # 2 has none
    assert graph.num_classes == 3
    assert any("2 nodes of the splits have no label" in note for note in graph.notes)


def test_several_labels_a_node_make_as_many_classes_as_columns():
    y = torch.tensor([[0.0, 1.0, 0.0]] * 6)
    graph = graph_of(DIRECTED, 6, y=y)
    assert graph.multilabel
    assert graph.num_classes == 3


def random_graph(draw: np.random.Generator, *, weighted: bool, attributes: bool, sparse: bool = False):
    """40 nodes, parallel edges and loops, dense copies of everything beside it."""
    n, e = 40, 300
    pairs = draw.integers(n, size=(e, 2))
    if attributes:
        weighted = False
    weight = draw.integers(1, 9, size=e).astype(np.float64) if weighted else None
    x = draw.integers(0, 3, size=(n, 4)).astype(np.float32)
    features = torch.from_numpy(x)
    if sparse:
        row, col = np.nonzero(x)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))])
        features = Csr(torch.from_numpy(indptr), torch.from_numpy(col), torch.from_numpy(x[row, col]), 4)
    attr = torch.from_numpy(draw.random((e, 2))) if attributes else None
    graph = graph_of(pairs, n, x=features, weight=None if weight is None else torch.from_numpy(weight), edge_attr=attr)
    return graph, x


def features_of(graph: Graph) -> np.ndarray:
    return (graph.x.dense() if isinstance(graph.x, Csr) else graph.x).numpy()


def attributes_of(graph: Graph) -> list:
    """Every entry by the caller's ids with its attributes, sorted."""
    source, target = graph.node_id[graph.adj.indices.long()], graph.node_id[graph.adj.row_of]
    return sorted(zip(source.tolist(), target.tolist(), map(tuple, graph.edge_attr.tolist()), strict=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_permuted_equals_permuting_the_dense_matrices(weighted, sparse):
    draw = np.random.default_rng(1)
    graph, x = random_graph(draw, weighted=weighted, attributes=False, sparse=sparse)
    order = draw.permutation(40)
    moved = graph.permuted(torch.from_numpy(order), torch.tensor([0, 15, 40]))
    assert np.array_equal(dense(moved), dense(graph)[np.ix_(order, order)])
    assert np.array_equal(features_of(moved), x[order])
    assert np.array_equal(moved.y.numpy(), graph.y.numpy()[order])
    for name, mask in graph.masks.items():
        assert np.array_equal(moved.masks[name].numpy(), mask.numpy()[order])
    assert np.array_equal(moved.node_id.numpy(), order)
    assert moved.num_parts == 2
    # Rows stay sorted: kernels search in them.
    for i in range(40):
        lo, hi = moved.adj.indptr[i], moved.adj.indptr[i + 1]
        assert bool((moved.adj.indices[lo:hi].diff() > 0).all())


def test_permuted_carries_attributes_of_parallel_edges():
    draw = np.random.default_rng(2)
    graph, _ = random_graph(draw, weighted=False, attributes=True)
    moved = graph.permuted(torch.from_numpy(draw.permutation(40)), torch.tensor([0, 40]))
    assert attributes_of(moved) == attributes_of(graph)


def test_permuted_keeps_symmetry_and_the_caller_s_ids_over_two_permutations():
    pairs = [(0, 1), (1, 0), (2, 1), (1, 2)]
    graph = graph_of(pairs, 3)
    ptr = torch.tensor([0, 3])
    twice = graph.permuted(torch.tensor([2, 0, 1]), ptr).permuted(torch.tensor([1, 2, 0]), ptr)
    assert twice.adj.symmetric
    assert twice.node_id.tolist() == [0, 1, 2]
    assert np.array_equal(dense(twice), dense(graph))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_induced_equals_cutting_the_dense_matrices(weighted, sparse):
    draw = np.random.default_rng(3)
    graph, x = random_graph(draw, weighted=weighted, attributes=False, sparse=sparse)
    nodes = np.sort(draw.permutation(40)[:17])
    cut = graph.induced(torch.from_numpy(nodes))
    assert np.array_equal(dense(cut), dense(graph)[np.ix_(nodes, nodes)])
    assert np.array_equal(features_of(cut), x[nodes])
    assert np.array_equal(cut.y.numpy(), graph.y.numpy()[nodes])
    assert np.array_equal(cut.masks["train"].numpy(), graph.masks["train"].numpy()[nodes])
    assert np.array_equal(cut.node_id.numpy(), nodes)
    assert cut.part_ptr.tolist() == [0, 17]
    # Classes are the model's outputs, also where the cut has lost some.
    assert cut.num_classes == graph.num_classes


def test_induced_carries_attributes_of_parallel_edges():
    draw = np.random.default_rng(4)
    graph, _ = random_graph(draw, weighted=False, attributes=True)
    nodes = np.sort(draw.permutation(40)[:17])
    inside = set(nodes.tolist())
    expected = [entry for entry in attributes_of(graph) if entry[0] in inside and entry[1] in inside]
    assert expected  # otherwise nothing is tested
    assert attributes_of(graph.induced(torch.from_numpy(nodes))) == expected


def test_fingerprint_sees_structure_and_weights_but_not_features():
    graph = graph_of(DIRECTED, 6)
    assert graph.fingerprint() == graph_of(DIRECTED, 6, x=torch.zeros(6, 9)).fingerprint()
    assert graph.fingerprint() != graph_of([*DIRECTED[:-1], (0, 4)], 6).fingerprint()
    assert graph.fingerprint() != graph_of(DIRECTED, 6, weight=torch.ones(5)).fingerprint()
    assert graph.fingerprint() != graph_of(DIRECTED, 7).fingerprint()


def test_for_classes_takes_fewer_classes_but_not_more():
    graph = graph_of(DIRECTED, 6)  # two classes
    assert graph.for_classes(5).num_classes == 5
    with pytest.raises(InputError, match="2 classes; the model was trained on 1"):
        graph.for_classes(1)


def test_for_classes_wants_the_very_columns_of_several_labels():
    graph = graph_of(DIRECTED, 6, y=torch.zeros(6, 3))
    assert graph.for_classes(3).num_classes == 3
    with pytest.raises(InputError, match="3 classes"):
        graph.for_classes(4)


def test_sizes():
    graph = graph_of(DIRECTED, 6)
    assert (graph.num_nodes, graph.num_entries, graph.num_features, graph.num_parts) == (6, 5, 2, 1)
    assert replace(graph, x=None).num_features == 0


# Every refusal of from_edges: what is wrong, and the words a user needs.
def masks(train, val, test):
    return {name: torch.tensor(mask) for name, mask in (("train", train), ("val", val), ("test", test))}


T, F = True, False
BAD = {
    "no nodes": ({"num_nodes": 0}, "no nodes"),
    "transposed edges": ({"edge_index": torch.zeros(5, 2, dtype=torch.int64)}, r"\[2, E\].*Transpose"),
    "flat edges": ({"edge_index": torch.zeros(4, dtype=torch.int64)}, r"\[2, E\]"),
    "float edges": ({"edge_index": torch.zeros(2, 4)}, "integers"),
    "boolean edges": ({"edge_index": torch.zeros(2, 4, dtype=torch.bool)}, "integers"),
    "id too large": ({"edge_index": torch.tensor([[0, 6], [1, 2]])}, r"0\.\.6.*0\.\.5"),
    "id negative": ({"edge_index": torch.tensor([[0, -1], [1, 2]])}, r"-1\.\.2"),
    "too few features": ({"x": torch.rand(5, 2)}, "x of .* 5 rows for 6 nodes"),
    "flat features": ({"x": torch.rand(6)}, r"\[N, F\]"),
    "scalar features": ({"x": torch.tensor(1.0)}, "x of .* 0 rows for 6 nodes"),
    "too many labels": ({"y": torch.zeros(7, dtype=torch.int64)}, "y of .* 7 rows for 6 nodes"),
    "scalar label": ({"y": torch.tensor(1)}, "y of .*"),
    "float classes": ({"y": torch.rand(6)}, "integers from 0"),
    "label below -1": ({"y": torch.tensor([0, 1, -2, 0, 1, 0])}, r"-2\.\.1.*-1 means unlabelled"),
    "no label at all": ({"y": torch.full((6,), -1)}, "unlabelled"),
    "labels of 2": ({"y": torch.full((6, 3), 2.0)}, "0 or 1"),
    "cube of labels": ({"y": torch.zeros(6, 3, 2)}, r"\[N\] classes or \[N, C\] labels"),
    "label NaN": ({"y": torch.full((6, 3), float("nan"))}, "y of .* NaN"),
    "feature NaN": ({"x": torch.tensor([[float("nan")]] * 6)}, "6 values that are NaN or infinite"),
    "feature infinite": ({"x": torch.tensor([[float("inf")], *[[0.0]] * 5])}, "1 values that are NaN or infinite"),
    "weight NaN": ({"weight": torch.tensor([1.0, float("nan"), 1.0, 1.0, 1.0])}, "edge_weight of .* NaN"),
    "attribute NaN": ({"edge_attr": torch.full((5, 2), float("nan"))}, "edge_attr of .* NaN"),
    "too few weights": ({"weight": torch.ones(4)}, "edge_weight of .* 4 rows for 5 edges"),
    "square weights": ({"weight": torch.ones(5, 2)}, r"edge_weight of .*\[E\]"),
    "scalar weight": ({"weight": torch.tensor(1.0)}, r"edge_weight of .*\[E\]"),
    "too few attributes": ({"edge_attr": torch.ones(4, 2)}, "edge_attr of .* 4 rows for 5 edges"),
    "cube of attributes": ({"edge_attr": torch.ones(5, 2, 2)}, r"edge_attr of .*\[E, D\]"),
    "mask of integers": ({"masks": masks([1, 0, 0, 0, 0, 0], [F, T, F, F, F, F], [F, F, T, F, F, F])}, "booleans"),
    "short mask": ({"masks": masks([T, F], [F, T], [F, F])}, "2 rows for 6 nodes"),
    "scalar mask": ({"masks": masks(True, [F] * 6, [F] * 6)}, "train"),
    "empty split": ({"masks": masks([T] * 5 + [F], [F] * 6, [F] * 5 + [T])}, "val split .* no labelled node"),
    "split without labels": (
        {
            "y": torch.tensor([0, -1, 0, 0, 0, 0]),
            "masks": masks([T, F, F, T, T, T], [F, T, F, F, F, F], [F, F, T, F, F, F]),
        },
        "val split .* no labelled node",
    ),
    "overlapping splits": (
        {"masks": masks([T, T, F, F, F, F], [F, T, T, F, F, F], [F, F, F, T, T, T])},
        "1 nodes .* more than one of train, val, test",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_no_graph_is_refused_in_words(change, words):
    sound = {
        "edge_index": torch.tensor(DIRECTED).T,
        "num_nodes": 6,
        "x": torch.rand(6, 2),
        "y": torch.tensor([0, 1, 0, 1, 0, 1]),
        "masks": {name: torch.arange(6) % 3 == i for i, name in enumerate(("train", "val", "test"))},
    }
    arguments = {**sound, **change}
    from_edges(sound["edge_index"], 6, x=sound["x"], y=sound["y"], masks=sound["masks"])  # sound but for the change
    with pytest.raises(InputError, match=words) as caught:
        from_edges(arguments.pop("edge_index"), arguments.pop("num_nodes"), **arguments)
    assert ". " in str(caught.value)  # a fact and a next step
    assert "\n" not in str(caught.value)


def test_reverses_of_another_weight_are_no_missing_reverses():
    edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    masks = {"train": torch.tensor([True, False, False])}
    graph = from_edges(edge_index, 3, y=torch.tensor([0, 1, 0]), masks=masks, weight=torch.tensor([1.0, 2.0, 1.0, 1.0]))
    assert not graph.adj.symmetric
    assert graph.notes == ("every edge has its reverse, some of another weight: each direction keeps its own",)


def test_a_column_of_classes_is_classes():
    edge_index, masks = torch.tensor([[0, 1], [1, 0]]), {"train": torch.tensor([True, False, False])}
    graph = from_edges(edge_index, 3, y=torch.tensor([[0], [2], [1]]), masks=masks)
    assert graph.y.tolist() == [0, 2, 1] and graph.num_classes == 3 and not graph.multilabel
