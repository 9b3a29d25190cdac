from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import scipy.sparse
import torch
from torch_geometric.data import Data, HeteroData

from graphscale.csr import Csr
from graphscale.data import static
from graphscale.data.pyg import DATA_VARIABLE, from_pyg
from graphscale.data.static import load, read_npz
from graphscale.errors import InputError

N = 12


def arrays(**change) -> dict[str, np.ndarray]:
    """A sound file of 12 nodes on a directed ring; None takes a key away."""
    draw = np.random.default_rng(0)
    sound = {
        "edge_index": np.stack([np.arange(N), (np.arange(N) + 1) % N]),
        "num_nodes": np.array(N),
        "x": draw.standard_normal((N, 3)).astype(np.float32),
        "y": np.arange(N) % 4,
        **{f"{name}_mask": np.arange(N) % 3 == i for i, name in enumerate(("train", "val", "test"))},
    }
    return {key: value for key, value in {**sound, **change}.items() if value is not None}


def sparse_arrays(**change) -> dict[str, np.ndarray]:
    x = scipy.sparse.random(N, 20, density=0.2, format="csr", random_state=0, dtype=np.float32)
    sparse = {"x": None, "x_indptr": x.indptr, "x_indices": x.indices, "x_data": x.data, "x_shape": np.array(x.shape)}
    return arrays(**{**sparse, **change})


@pytest.fixture
def write(tmp_path):
    def write(content: dict[str, np.ndarray], name: str = "file.npz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **content)
        return path

    return write


# What is read


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_dense_file(tmp_path, save):
    content = arrays()
    save(tmp_path / "file.npz", **content)
    graph = read_npz(tmp_path / "file.npz")
    expected = np.zeros((N, N))
    expected[content["edge_index"][1], content["edge_index"][0]] = 1
    assert np.array_equal(graph.adj.dense().numpy(), expected)
    assert np.array_equal(graph.x.numpy(), content["x"])
    assert np.array_equal(graph.y.numpy(), content["y"])
    assert graph.y.dtype == torch.int64
    for name in ("train", "val", "test"):
        assert np.array_equal(graph.masks[name].numpy(), content[f"{name}_mask"])
    assert graph.num_classes == 4
    assert not graph.multilabel


def test_sparse_features_stay_sparse(write):
    content = sparse_arrays()
    graph = read_npz(write(content))
    expected = scipy.sparse.csr_matrix(
        (content["x_data"], content["x_indices"], content["x_indptr"]), tuple(content["x_shape"])
    ).toarray()
    assert isinstance(graph.x, Csr)
    assert np.array_equal(graph.x.dense().numpy(), expected)
    assert graph.num_features == 20


def test_a_column_of_the_masks_is_a_split(write):
    split = np.stack([np.arange(N) % 3, (np.arange(N) + 1) % 3, np.arange(N) // 4], 1)  # [N, 3]
    several = {f"{name}_mask": split == i for i, name in enumerate(("train", "val", "test"))}
    path = write(arrays(**several))
    for s in range(3):
        graph = read_npz(path, split=s)
        for i, name in enumerate(("train", "val", "test")):
            assert np.array_equal(graph.masks[name].numpy(), split[:, s] == i)
    for wrong in (3, -1):
        with pytest.raises(InputError, match=rf"split {wrong} asked.* holds 3.*--split 0\.\.2"):
            read_npz(path, split=wrong)


def test_a_single_split_has_no_second(write):
    with pytest.raises(InputError, match=r"split 1 asked.* holds 1"):
        read_npz(write(arrays()), split=1)


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_])
def test_several_labels_a_node(write, kind):
    y = (np.random.default_rng(0).random((N, 5)) < 0.4).astype(kind)
    graph = read_npz(write(arrays(y=y)))
    assert graph.multilabel
    assert graph.num_classes == 5
    assert np.array_equal(graph.y.numpy(), y.astype(np.float32))


def test_unlabelled_nodes_are_left_out_of_the_splits(write):
    y = np.arange(N) % 4
    y[[0, 4, 7]] = -1  # one of train, two of val
    graph = read_npz(write(arrays(y=y)))
    assert [int(mask.sum()) for mask in graph.masks.values()] == [3, 2, 4]
    assert not graph.masks["train"][0]
    assert any("3 nodes of the splits have no label" in note for note in graph.notes)


def test_no_features_is_no_error_of_the_reader(write):
    graph = read_npz(write(arrays(x=None)))
    assert graph.x is None
    assert graph.num_features == 0


def test_edge_weight_and_edge_attr(write):
    weight, attr = np.arange(1.0, N + 1), np.random.default_rng(0).random((N, 2)).astype(np.float32)
    graph = read_npz(write(arrays(edge_weight=weight, edge_attr=attr)))
    # Edge k runs from k to k + 1, and row t of the matrix holds the edge into t.
    assert np.array_equal(graph.adj.values.numpy(), np.roll(weight, 1).astype(np.float32))
    assert np.array_equal(graph.edge_attr.numpy(), np.roll(attr, 1, axis=0))


def test_undirected(write):
    graph = read_npz(write(arrays()), undirected=True)
    assert graph.adj.symmetric
    assert graph.num_entries == 2 * N


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.uint16, np.uint32, np.uint64, ">i8"])
def test_integers_of_any_width_and_byte_order(write, kind):
    plain = read_npz(write(arrays()))
    graph = read_npz(
        write(arrays(edge_index=arrays()["edge_index"].astype(kind), y=arrays()["y"].astype(kind)), "other.npz")
    )
    assert torch.equal(graph.adj.indices, plain.adj.indices)
    assert torch.equal(graph.y, plain.y)


@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f4", np.int64, np.bool_])
def test_features_of_any_kind_become_float32(write, kind):
    x = np.random.default_rng(0).integers(0, 2, size=(N, 3))
    graph = read_npz(write(arrays(x=x.astype(kind))))
    assert graph.x.dtype == torch.float32
    assert np.array_equal(graph.x.numpy(), x)


def test_other_keys_do_not_matter(write):
    # Files carry names and source ids beside the graph, also as pickled objects: those are never opened.
    graph = read_npz(write(arrays(names=np.array(["a"] * N), source=np.array([{}] * N, dtype=object))))
    assert graph.num_nodes == N


def test_num_nodes_may_be_a_list_of_one(write):
    assert read_npz(write(arrays(num_nodes=np.array([N])))).num_nodes == N


# What is refused, each with the words that help

T = np.ones(N, dtype=bool)
BAD = {
    "no edges": (arrays(edge_index=None), r"lacks edge_index; it has num_nodes, test_mask.*add them"),
    "no number": (arrays(num_nodes=None), "lacks num_nodes"),
    "no labels": (arrays(y=None), "lacks y; it has"),
    "no masks": (arrays(train_mask=None, test_mask=None), "lacks train_mask, test_mask; it has"),
    "two numbers": (arrays(num_nodes=np.array([N, N])), "num_nodes of file .* one whole number"),
    "broken number": (arrays(num_nodes=np.array(12.5)), "one whole number"),
    "number NaN": (arrays(num_nodes=np.array(np.nan)), "one whole number"),
    "number text": (arrays(num_nodes=np.array("a")), "num_nodes of file holds <U1"),
    "number too small": (arrays(num_nodes=np.array(N - 1)), rf"names nodes 0\.\.{N - 1}, but its {N - 1} nodes"),
    "number too large": (arrays(num_nodes=np.array(N + 1)), f"has {N} rows for {N + 1} nodes"),
    "transposed edges": (arrays(edge_index=np.zeros((N, 2), dtype=int)), r"\[2, E\].*Transpose"),
    "float edges": (arrays(edge_index=np.zeros((2, N))), "integers"),
    "text edges": (arrays(edge_index=np.array([["a"], ["b"]])), "edge_index of file holds <U1"),
    "id out of range": (arrays(edge_index=np.array([[0, 99], [1, 2]])), r"0\.\.99"),
    "id negative": (arrays(edge_index=np.array([[0, -3], [1, 2]])), r"-3\.\.2"),
    "feature NaN": (arrays(x=np.full((N, 2), np.nan)), f"x of file has {2 * N} values that are NaN"),
    "feature beyond float32": (arrays(x=np.full((N, 2), 1e300)), "x of file has .* infinite"),
    "feature text": (arrays(x=np.array([["a"]] * N)), "x of file holds <U1"),
    "feature complex": (arrays(x=np.ones((N, 2), dtype=complex)), "x of file holds complex128"),
    "feature row short": (arrays(x=np.ones((N - 1, 2))), f"x of file has {N - 1} rows"),
    "feature flat": (arrays(x=np.ones(N)), r"\[N, F\]"),
    "label text": (arrays(y=np.array(["a"] * N)), "y of file holds <U1"),
    "label float": (arrays(y=np.ones(N)), "integers from 0"),
    "label -2": (arrays(y=np.full(N, -2)), "-1 means unlabelled"),
    "label nowhere": (arrays(y=np.full(N, -1)), "unlabelled"),
    "label 3 of several": (arrays(y=np.full((N, 2), 3)), "0 or 1"),
    "label NaN": (arrays(y=np.full((N, 2), np.nan)), "y of file .* NaN"),
    "labels short": (arrays(y=np.zeros(N - 2, dtype=int)), f"y of file has {N - 2} rows"),
    "mask of integers": (arrays(val_mask=T.astype(int)), "val mask of file is torch.int64"),
    "mask short": (arrays(val_mask=T[:5]), f"val of file has 5 rows for {N}"),
    "mask of no split": (arrays(train_mask=np.ones((N, 0), dtype=bool)), r"train mask of file .* no split"),
    "empty split": (arrays(val_mask=~T), "val split of file has no labelled node"),
    "overlapping splits": (arrays(val_mask=np.arange(N) % 3 == 0), "4 nodes of file lie in more than one"),
    "weight short": (arrays(edge_weight=np.ones(3)), f"edge_weight of file has 3 rows for {N} edges"),
    "weight NaN": (arrays(edge_weight=np.full(N, np.nan)), "edge_weight of file .* NaN"),
    "attribute short": (arrays(edge_attr=np.ones((3, 2))), f"edge_attr of file has 3 rows for {N} edges"),
    "sparse without indices": (sparse_arrays(x_indices=None), "lack x_indices"),
    "sparse without data": (sparse_arrays(x_data=None), "lack x_data"),
    "sparse without shape": (sparse_arrays(x_shape=None), "lack x_shape"),
    "sparse without indptr": (sparse_arrays(x_indptr=None), "lack x_indptr"),
    "sparse of one size": (sparse_arrays(x_shape=np.array([N])), "inconsistent"),
    "sparse rows": (sparse_arrays(x_shape=np.array([N + 1, 20])), "inconsistent"),
    "sparse columns": (sparse_arrays(x_shape=np.array([N, 3])), "inconsistent"),
    "sparse halves": (sparse_arrays(x_indices=sparse_arrays()["x_indices"] + 0.5), "inconsistent"),
    "sparse NaN": (sparse_arrays(x_data=np.full_like(sparse_arrays()["x_data"], np.nan)), "x of file .* NaN"),
    "sparse descent": (sparse_arrays(x_indptr=sparse_arrays()["x_indptr"][[0, 2, 1, *range(3, 13)]]), "inconsistent"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD.keys())
def test_a_file_that_is_no_graph_is_refused_in_words(write, content, words):
    with pytest.raises(InputError, match=words) as caught:
        read_npz(write(content))
    message = str(caught.value)
    assert "\n" not in message
    assert ". " in message  # a fact and a next step


def not_npz() -> dict[str, bytes]:
    array = io.BytesIO()
    np.save(array, np.ones(3))
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        for key in arrays():
            archive.writestr(f"{key}.npy", b"no array")
    return {
        "empty": b"",
        "text": b"source,target\n0,1\n" * 20,
        "pickle": pickle.dumps(arrays()),
        "one array": array.getvalue(),
        "zip of other things": other.getvalue(),
    }


@pytest.mark.parametrize("content", not_npz().values(), ids=not_npz().keys())
def test_other_formats_are_refused(tmp_path, content):
    (tmp_path / "file.npz").write_bytes(content)
    with pytest.raises(InputError, match="file"):
        read_npz(tmp_path / "file.npz")


def test_pickled_arrays_are_not_opened(write, tmp_path):
    class Bomb:  # unpickling it makes a folder
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    with pytest.raises(InputError, match=r"without pickle .*Object arrays"):
        read_npz(write(arrays(y=np.array([Bomb()] + [0] * (N - 1), dtype=object))))
    assert not (tmp_path / "ran").exists()


def test_a_file_cut_short_is_refused(write):
    path = write(arrays())
    content = path.read_bytes()
    for length in (1, 50, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="damaged"):
            read_npz(path)


def test_a_damaged_byte_is_refused_or_harmless(write):
    path = write(arrays(x=np.random.default_rng(1).random((N, 9)).astype(np.float32)))
    content, sound = path.read_bytes(), read_npz(path)
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draw.integers(len(content))] ^= int(draw.integers(1, 256))
        path.write_bytes(damaged)
        try:
            graph = read_npz(path)
        except InputError:
            refused += 1
        else:  # a date, or a name of a member that is not needed
            assert torch.equal(graph.x, sound.x)
            assert torch.equal(graph.adj.indices, sound.adj.indices)
            assert torch.equal(graph.y, sound.y)
    assert refused > 200


# Names


def test_names_are_looked_up_in_the_data_folder(write, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    write(arrays(), "mine/graph.npz")
    write(arrays(y=np.arange(N) % 2), "family/member.npz")
    assert load("mine").num_classes == 4
    assert load("family/member").num_classes == 2
    with pytest.raises(InputError, match=rf"no data set 'other'.*the folder {tmp_path}"):
        load("other")


def test_errors_name_the_data_set_and_not_graph(write, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    write(arrays(val_mask=~T), "mine/graph.npz")
    with pytest.raises(InputError, match="val split of mine"):
        load("mine")


def test_a_path_needs_no_data_folder(write, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    assert load(str(write(arrays()))).num_nodes == N
    with pytest.raises(InputError, match=r"no file .*gone\.npz"):
        load("gone.npz")
    with pytest.raises(InputError, match=rf"no data set 'mine'.*{DATA_VARIABLE} \(unset\)"):
        load("mine")


@pytest.mark.parametrize("name", ["planted:99", "planted:many", "planted:-200", "planted:²", "planted:1e4"])
def test_planted_wants_a_number(name):
    with pytest.raises(InputError, match=r"asks for no number of nodes.*Write planted:10000"):
        load(name)


def test_built_in_names():
    assert load("planted:300").num_nodes == 300
    assert load("planted:1_000").num_nodes == 1000
    assert load("digits").num_nodes == 1797
    with pytest.raises(InputError, match="one split; 2 was asked"):
        load("planted:300", split=2)


# PyG


def data(**change) -> Data:
    content = {key: torch.from_numpy(value) for key, value in arrays(num_nodes=None).items()}
    return Data(**{key: value for key, value in {**content, **change}.items() if value is not None})


def test_pyg_data_is_the_file_s_graph(write):
    weight, attr = torch.arange(1, N + 1), torch.rand(N, 2, dtype=torch.float64)
    graph = from_pyg(data(edge_weight=weight, edge_attr=attr))
    same = read_npz(write(arrays(edge_weight=weight.numpy(), edge_attr=attr.numpy())))
    assert torch.equal(graph.adj.dense(), same.adj.dense())
    assert torch.equal(graph.x, same.x)
    assert torch.equal(graph.y, same.y)
    assert torch.equal(graph.edge_attr, same.edge_attr)
    assert graph.edge_attr.dtype == torch.float32
    assert all(torch.equal(graph.masks[name], same.masks[name]) for name in same.masks)


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta state")  # the tensors made here
@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_pyg_sparse_features_stay_sparse(layout):
    dense = torch.from_numpy(np.random.default_rng(0).integers(0, 2, size=(N, 7))).double()
    sparse = {"coo": dense.to_sparse, "csr": dense.to_sparse_csr, "csc": dense.to_sparse_csc}[layout]()
    graph = from_pyg(data(x=sparse))
    assert isinstance(graph.x, Csr)
    assert graph.x.values.dtype == torch.float32
    assert torch.equal(graph.x.dense(), dense.float())


def test_pyg_labels_in_a_column_are_classes():
    graph = from_pyg(data(y=torch.arange(N)[:, None] % 3))
    assert not graph.multilabel
    assert graph.y.tolist() == [i % 3 for i in range(N)]


def test_pyg_several_labels_and_splits():
    y = torch.rand(N, 3) < 0.5
    split = torch.stack([torch.arange(N) % 3, torch.arange(N) // 4], 1)
    several = {f"{name}_mask": split == i for i, name in enumerate(("train", "val", "test"))}
    graph = from_pyg(data(y=y, **several), split=1)
    assert graph.multilabel
    assert torch.equal(graph.y, y.float())
    assert graph.masks["val"].nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_pyg_without_features_keeps_isolated_nodes():
    # PyG would guess 2 nodes from the edges.
    graph = from_pyg(data(x=None, edge_index=torch.tensor([[0, 1], [1, 0]])))
    assert graph.x is None
    assert graph.num_nodes == N


def test_pyg_targets_of_a_regression_are_refused():
    # Rounding them to classes would train on nonsense without a word.
    with pytest.raises(InputError, match="integers from 0"):
        from_pyg(data(y=torch.rand(N)))


def test_pyg_without_labels_or_masks_is_refused():
    with pytest.raises(InputError, match=r"lacks y, val_mask.*RandomNodeSplit"):
        from_pyg(data(y=None, val_mask=None))


def test_heterogeneous_data_is_refused_with_the_reason():
    hetero = HeteroData()
    hetero["author"].x = torch.rand(3, 2)
    hetero["author", "writes", "paper"].edge_index = torch.tensor([[0], [0]])
    with pytest.raises(InputError, match=r"heterogeneous; .*one node type.*to_homogeneous"):
        from_pyg(hetero)


def test_pyg_classes_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="no data set class 'Bogus'"):
        load("Bogus:Cora")
    with pytest.raises(InputError, match=r"could not give KarateClub:x"):  # takes no name
        load("KarateClub:x")


def test_pyg_data_set_by_name(monkeypatch, tmp_path):
    from torch_geometric import datasets

    asked = []

    class Small:
        def __init__(self, root, name):
            asked.append((root, name))

        def __getitem__(self, index):
            return data()

    monkeypatch.setattr(datasets, "Small", Small, raising=False)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert load("Small:Thing").num_nodes == N
    assert asked == [(str(tmp_path / "pyg" / "Small"), "Thing")]


# The data sets of GRAPHSCALE_DATA: counts as published


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "nodes", "entries", "features", "classes", "sizes"),
    [
        ("cora", 2708, 10556, 1433, 7, (140, 500, 1000)),
        ("citeseer", 3327, 9228, 3703, 6, (120, 500, 1000)),
        ("minesweeper", 10000, 78804, 7, 2, (5000, 2500, 2500)),
        ("blogcatalog_multilabel", 10312, 667966, 0, 39, (6187, 2062, 2063)),
        ("twitch/PTBR", 1912, 62598, 3170, 2, (1147, 382, 383)),
    ],
)
def test_real_data(data_dir, monkeypatch, name, nodes, entries, features, classes, sizes):
    monkeypatch.setenv(DATA_VARIABLE, str(data_dir))
    graph = load(name)
    assert (graph.num_nodes, graph.num_entries) == (nodes, entries)
    assert (graph.num_features, graph.num_classes) == (features, classes)
    assert tuple(int(mask.sum()) for mask in graph.masks.values()) == sizes
    assert graph.adj.symmetric
    assert graph.multilabel == (name == "blogcatalog_multilabel")


@pytest.mark.data
def test_real_splits_differ(data_dir, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(data_dir))
    first, last = load("minesweeper", split=0), load("minesweeper", split=9)
    assert not torch.equal(first.masks["train"], last.masks["train"])
    with pytest.raises(InputError, match="holds 10"):
        load("minesweeper", split=10)


@pytest.mark.data
def test_real_data_without_labels_is_refused(data_dir, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(data_dir))
    with pytest.raises(InputError, match="lacks y, train_mask, val_mask, test_mask"):
        load("ohmnet/pons")


def test_the_layout_in_the_docstring_is_the_one_that_is_read():
    for key in static._KEYS:
        assert key in static.__doc__


def test_a_mask_of_one_split_serves_all(tmp_path):
    # As in PyG's WikiCS: 20 splits of training and validation nodes, one of test nodes.
    n, draw = 40, np.random.default_rng(0)
    kind = draw.random((n, 3)).argsort(0) < 15
    test = np.arange(n) >= 30
    content = {
        "edge_index": draw.integers(n, size=(2, 100)), "num_nodes": n, "y": np.arange(n) % 2,
        "x": draw.random((n, 2)).astype(np.float32), "train_mask": kind & ~test[:, None],
        "val_mask": ~kind & ~test[:, None], "test_mask": test,
    }  # fmt: skip
    np.savez(tmp_path / "wiki.npz", **content)
    for split in range(3):
        graph = static.load(tmp_path / "wiki.npz", split=split)
        assert torch.equal(graph.masks["train"], torch.from_numpy(content["train_mask"][:, split]))
        assert torch.equal(graph.masks["test"], torch.from_numpy(test))
    with pytest.raises(InputError, match=r"split 3 asked, but wiki holds 3. Choose --split 0\.\.2"):
        static.load(tmp_path / "wiki.npz", split=3)
    whole = static.all_splits(str(tmp_path / "wiki.npz"))
    assert {name: mask.shape for name, mask in whole.items()} == dict.fromkeys(("train", "val", "test"), (n, 3))
