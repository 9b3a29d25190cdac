from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from graphscale.csr import Csr
from graphscale.data.transform import Scaler, degree_features
from graphscale.errors import InputError
from graphscale.graph import Graph, from_edges

N = 30


def csr(x: np.ndarray, *, pattern: bool = False) -> Csr:
    row, col = np.nonzero(x)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(x)))])
    values = None if pattern else torch.from_numpy(x[row, col])
    return Csr(torch.from_numpy(indptr), torch.from_numpy(col), values, x.shape[1])


def graph_of(x) -> Graph:
    masks = {name: torch.arange(N) % 3 == i for i, name in enumerate(("train", "val", "test"))}
    edges = torch.tensor([[0, 1, 2, 3, 0, 5], [1, 2, 1, 1, 4, 5]])
    return from_edges(edges, N, x=x, y=torch.arange(N) % 2, masks=masks)


@pytest.fixture
def x() -> np.ndarray:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((N, 5)) * [1, 10, 0.1, 3, 1] + [0, 5, -2, 0, 0]
    x[1::3] += 100  # validation nodes lie elsewhere: statistics of all nodes would differ
    return x.astype(np.float32)


@pytest.fixture
def counts() -> np.ndarray:
    draw = np.random.default_rng(1)
    x = draw.integers(0, 4, size=(N, 6)) * (draw.random((N, 6)) < 0.5)
    x[1::3] *= 50
    return x.astype(np.float32)


TRAIN = np.arange(N) % 3 == 0


def test_standard_is_fitted_on_training_nodes_only(x):
    graph = graph_of(torch.from_numpy(x))
    scaled = Scaler.fit(graph, "standard").apply(graph).x.numpy()
    expected = StandardScaler().fit(x[TRAIN].astype(np.float64)).transform(x.astype(np.float64))
    assert np.allclose(scaled, expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(scaled[TRAIN].mean(0), 0, atol=1e-5)
    assert np.allclose(scaled[TRAIN].std(0), 1, atol=1e-4)
    assert np.abs(scaled[~TRAIN]).max() > 5  # nothing was fitted on the others
    assert np.array_equal(graph.x.numpy(), x)  # a graph is a value: it has not changed


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, -3.0, 1e6, 1e-20])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_column_that_is_constant_in_training_is_not_blown_up(counts, value, sparse):
    counts[TRAIN, 2] = value
    counts[~TRAIN, 2] = 3.0
    graph = graph_of(csr(counts) if sparse else torch.from_numpy(counts))
    scaler = Scaler.fit(graph, "standard")
    assert float(scaler.scale[2]) == 1.0
    scaled = scaler.apply(graph).x
    scaled = scaled.dense() if sparse else scaled
    shift = 0 if sparse else np.float32(value)
    assert np.allclose(scaled[:, 2], counts[:, 2] - shift)


def test_sparse_features_are_scaled_but_not_centred(counts):
    graph = graph_of(csr(counts))
    scaled = Scaler.fit(graph, "standard").apply(graph).x
    assert isinstance(scaled, Csr)
    expected = (
        StandardScaler(with_mean=False).fit(counts[TRAIN].astype(np.float64)).transform(counts.astype(np.float64))
    )
    assert np.allclose(scaled.dense().numpy(), expected, rtol=1e-5)
    assert torch.equal(scaled.indices, graph.x.indices)  # zeros stay zeros


def test_sparse_features_of_ones_need_no_values(counts):
    ones = (counts > 0).astype(np.float32)
    graph = graph_of(csr(ones, pattern=True))
    scaled = Scaler.fit(graph, "standard").apply(graph).x
    expected = StandardScaler(with_mean=False).fit(ones[TRAIN].astype(np.float64)).transform(ones.astype(np.float64))
    assert np.allclose(scaled.dense().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "sparse", "pattern"])
def test_rows_sum_to_one_and_empty_rows_stay_empty(counts, kind):
    counts[4] = 0
    if kind == "pattern":
        counts = (counts > 0).astype(np.float32)
    graph = graph_of(torch.from_numpy(counts) if kind == "dense" else csr(counts, pattern=kind == "pattern"))
    scaled = Scaler.fit(graph, "row").apply(graph).x
    scaled = (scaled if kind == "dense" else scaled.dense()).numpy()
    total = counts.sum(1, keepdims=True)
    expected = np.divide(counts, total, out=np.zeros_like(counts), where=total != 0)
    assert np.allclose(scaled, expected, atol=1e-6)
    assert np.array_equal(scaled[4], np.zeros(6))


def test_none_leaves_features_as_they_are(x):
    graph = graph_of(torch.from_numpy(x))
    assert Scaler.fit(graph, "none").apply(graph).x is graph.x


@pytest.mark.parametrize("sparse", [False, True])
def test_a_scaler_comes_back_from_its_state(x, counts, sparse):
    graph = graph_of(csr(counts) if sparse else torch.from_numpy(x))
    scaler = Scaler.fit(graph, "standard")
    again = Scaler.from_state("standard", scaler.state_dict())
    one, two = scaler.apply(graph).x, again.apply(graph).x
    assert torch.equal(one.dense(), two.dense()) if sparse else torch.equal(one, two)
    assert Scaler.from_state("none", Scaler("none").state_dict()).apply(graph).x is graph.x


def test_other_columns_are_refused(x):
    graph = graph_of(torch.from_numpy(x))
    scaler = Scaler.fit(graph, "standard")
    with pytest.raises(InputError, match="4 columns; the model was trained on 5"):
        scaler.apply(replace(graph, x=graph.x[:, :4]))


@pytest.mark.parametrize("fitted_sparse", [False, True])
def test_new_data_of_the_other_kind_is_scaled_by_the_same_numbers(counts, fitted_sparse):
    # Trained on one way of storing the columns, scored on a file that stores them the other way.
    fitted = csr(counts) if fitted_sparse else torch.from_numpy(counts)
    scaler = Scaler.fit(graph_of(fitted), "standard")
    sparse = scaler.apply(graph_of(csr(counts))).x
    dense = scaler.apply(graph_of(torch.from_numpy(counts))).x
    assert torch.allclose(sparse.dense() if fitted_sparse else sparse, dense)


def test_a_constant_column_of_many_sparse_rows_is_not_divided_by_rounding():
    # The mean of squares minus the square of the mean is 1e-18 here, not 0.
    rows = 3000
    x = csr(np.full((rows, 1), 0.1, dtype=np.float32))
    masks = {name: torch.arange(rows) % 3 == i for i, name in enumerate(("train", "val", "test"))}
    edges = torch.zeros(2, 1, dtype=torch.int64)
    graph = from_edges(edges, rows, x=x, y=torch.arange(rows) % 2, masks=masks)
    assert float(Scaler.fit(graph, "standard").scale) == 1.0


def test_degree_features_by_hand():
    graph = degree_features(replace(graph_of(None), x=None), bins=4)
    # In-degrees: node 1 has 3 sources, nodes 2, 4 and 5 (its own loop) one, the others none.
    assert graph.x.shape == (N, 5)
    assert graph.x[1].tolist() == pytest.approx([0, 0, 1, 0, math.log(4)])
    for node in (2, 4, 5):
        assert graph.x[node].tolist() == pytest.approx([0, 1, 0, 0, math.log(2)])
    for node in (0, 3, 6, 29):
        assert graph.x[node].tolist() == [1, 0, 0, 0, 0]
    assert any("no features in the data: 5 degree features made" in note for note in graph.notes)


def test_degree_features_put_the_largest_degrees_into_the_last_bin():
    # Degree 29 is octave 4; with three bins it belongs to bin 2.
    edges = torch.stack([torch.arange(1, N), torch.zeros(N - 1, dtype=torch.int64)])
    masks = {name: torch.arange(N) % 3 == i for i, name in enumerate(("train", "val", "test"))}
    graph = from_edges(edges, N, y=torch.arange(N) % 2, masks=masks)
    assert degree_features(graph, bins=3).x[0].tolist() == pytest.approx([0, 0, 1, math.log(30)])


def test_degree_features_have_the_same_columns_on_every_graph():
    assert degree_features(graph_of(None)).num_features == 33
