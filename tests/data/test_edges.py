from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest
import torch
from graphs import random_graph

from graphscale import store
from graphscale.data import edges
from graphscale.errors import InputError
from graphscale.graph import from_edges
from graphscale.kernels.external import looks_symmetric
from graphscale.partitioning import partition


def raw(seed=0, nodes=50, count=400, weighted=False):
    draw = np.random.default_rng(seed)
    pair = draw.integers(nodes, size=(2, count))
    return pair, draw.random(count).astype(np.float32) if weighted else None


def written(tmp_path, pair, weight, kind):
    columns = {"src": pair[0], "dst": pair[1]} | ({} if weight is None else {"weight": weight})
    path = tmp_path / f"edges.{kind}"
    if kind == "parquet":
        pa_parquet.write_table(pa.table(columns), path, row_group_size=37)
    elif kind == "csv":
        pa_csv.write_csv(pa.table(columns), path)
    else:
        np.save(path, pair)
    return path


def labels_of(tmp_path, nodes, ids=None):
    split = np.array(["train", "val", "test", ""], dtype=object)[np.arange(nodes) % 4]
    columns = {"label": np.arange(nodes) % 3, "split": split} | ({} if ids is None else {"node": ids})
    pa_parquet.write_table(pa.table(columns), tmp_path / "labels.parquet")
    return tmp_path / "labels.parquet"


def in_memory(pair, weight, nodes, undirected=False, x=None):
    masks = {s: torch.from_numpy(np.arange(nodes) % 4 == i) for i, s in enumerate(("train", "val", "test"))}
    return from_edges(
        torch.from_numpy(pair),
        nodes,
        x=x,
        y=torch.arange(nodes) % 3,
        masks=masks,
        weight=None if weight is None else torch.from_numpy(weight),
        undirected=undirected,
    )


@pytest.mark.parametrize("kind", ["parquet", "csv", "npy"])
@pytest.mark.parametrize(("weighted", "undirected"), [(False, False), (False, True), (True, False)])
def test_streaming_and_in_memory_give_the_same_store(tmp_path, kind, weighted, undirected, monkeypatch):
    if weighted and kind == "npy":
        pytest.skip("an .npy edge list has no weights")
    monkeypatch.setattr(edges, "_ROWS", 64)  # several chunks
    pair, weight = raw(weighted=weighted)
    x = np.random.default_rng(1).random((50, 3), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    path = written(tmp_path, pair, weight, kind)
    (tmp_path / "work").mkdir()
    streamed = edges.read(
        path, tmp_path / "work", features=tmp_path / "x.npy", labels=labels_of(tmp_path, 50), undirected=undirected
    )
    whole = in_memory(pair, weight, 50, undirected, torch.from_numpy(x))
    for name, graph in (("a", streamed), ("b", whole)):
        store.write(graph, partition(graph, 4, method="stream", seed=3), tmp_path / name)
    a, b = store.manifest_of(tmp_path / "a"), store.manifest_of(tmp_path / "b")
    if weighted:  # duplicates add up in another order: equal to rounding
        pair_of = [store.read(tmp_path / name).adj.values for name in "ab"]
        torch.testing.assert_close(*pair_of)
        a["arrays"].pop("weight"), b["arrays"].pop("weight")
    assert a["arrays"] == b["arrays"]
    assert a["symmetric"] == b["symmetric"] == undirected
    assert a["notes"] == b["notes"] or undirected  # reverses that were there count as duplicates when streamed


def test_the_callers_ids_come_back(tmp_path):
    pair, _ = raw(nodes=20, count=80)
    ids = np.sort(np.random.default_rng(3).choice(10**12, 20, replace=False))
    path = written(tmp_path, ids[pair], None, "parquet")
    (tmp_path / "work").mkdir()
    graph = edges.read(path, tmp_path / "work", labels=labels_of(tmp_path, 20, ids))
    np.testing.assert_array_equal(graph.node_id.numpy(), ids)
    torch.testing.assert_close(graph.adj.dense(), in_memory(pair, None, 20).adj.dense())
    moved = partition(graph, 3).apply(graph)
    assert set(moved.node_id.tolist()) == set(ids.tolist())


def test_rows_of_labels_in_any_order(tmp_path):
    pair, _ = raw(nodes=20, count=80)
    path = written(tmp_path, pair, None, "csv")
    shuffled = np.random.default_rng(0).permutation(20)
    (tmp_path / "labels.csv").write_text(
        "node,label,split\n" + "".join(f"{i},{i % 3},{'train' if i % 2 else ''}\n" for i in shuffled)
    )
    (tmp_path / "work").mkdir()
    graph = edges.read(path, tmp_path / "work", labels=tmp_path / "labels.csv")
    assert graph.y.tolist() == [i % 3 for i in range(20)]
    assert graph.masks["train"].tolist() == [bool(i % 2) for i in range(20)]


def test_without_labels_there_is_a_graph_all_the_same(tmp_path):
    pair, _ = raw(nodes=20, count=80)
    (tmp_path / "work").mkdir()
    graph = edges.read(written(tmp_path, pair, None, "npy"), tmp_path / "work")
    assert graph.num_nodes == int(pair.max()) + 1
    assert not any(mask.any() for mask in graph.masks.values())


def refuse(tmp_path, words, path, **keywords):
    (tmp_path / "work").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=words):
        edges.read(path, tmp_path / "work", **keywords)


def test_what_is_no_edge_list_is_refused(tmp_path):
    pair, weight = raw(weighted=True)
    good = written(tmp_path, pair, None, "parquet")
    refuse(tmp_path, "cannot be read", tmp_path / "absent.parquet")
    (tmp_path / "broken.parquet").write_bytes(good.read_bytes()[:100])
    refuse(tmp_path, "cannot be read", tmp_path / "broken.parquet")
    (tmp_path / "text.csv").write_text("src,dst\na,b\n")
    refuse(tmp_path, "whole numbers", tmp_path / "text.csv")
    (tmp_path / "one.csv").write_text("src\n1\n")
    refuse(tmp_path, "needs src and dst", tmp_path / "one.csv")
    (tmp_path / "minus.csv").write_text("src,dst\n1,-2\n")
    refuse(tmp_path, "below 0", tmp_path / "minus.csv")
    np.save(tmp_path / "shape.npy", np.zeros((3, 4), dtype=np.int64))
    refuse(tmp_path, r"\[2, E\]", tmp_path / "shape.npy")
    np.save(tmp_path / "none.npy", np.zeros((2, 0), dtype=np.int64))
    refuse(tmp_path, "no edge", tmp_path / "none.npy")
    (tmp_path / "w").mkdir()
    refuse(tmp_path, "would add up", written(tmp_path / "w", pair, weight, "parquet"), undirected=True)
    np.save(tmp_path / "x.npy", np.full((50, 2), np.nan, dtype=np.float32))
    refuse(tmp_path, "NaN", good, features=tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.zeros((7, 2), dtype=np.float32))
    refuse(tmp_path, "there are 7 nodes", good, features=tmp_path / "x.npy")
    refuse(tmp_path, "does not list", good, labels=labels_of(tmp_path, 20, np.arange(20) + 5))
    (tmp_path / "labels.csv").write_text("label,split\n1,training\n")
    refuse(tmp_path, "training", good, labels=tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("node,label,split\n1,0,train\n1,0,val\n")
    refuse(tmp_path, "twice", good, labels=tmp_path / "labels.csv")


@pytest.mark.parametrize("weighted", [False, True])
def test_symmetry_by_hashes_agrees_with_the_transpose(weighted):
    none = np.empty(0, dtype=np.float32)
    for seed in range(20):
        for directed in (False, True):
            adj = random_graph(15, seed=seed, directed=directed, weighted=weighted).adj
            values = none if adj.values is None else adj.values.float().numpy()
            assert looks_symmetric(adj.indptr.numpy(), adj.indices.numpy(), values) == adj.check_symmetric()


@pytest.mark.parametrize(("label", "words"), [(-7, "has values -7"), (10**9, "names class 1000000000")])
def test_a_label_outside_the_classes(tmp_path, label, words):
    np.save(tmp_path / "edges.npy", np.array([[0, 1, 2], [1, 2, 0]]))
    (tmp_path / "labels.csv").write_text(f"label,split\n0,train\n1,val\n{label},test\n")
    (tmp_path / "work").mkdir()
    with pytest.raises(InputError, match=words):
        edges.read(tmp_path / "edges.npy", tmp_path / "work", labels=tmp_path / "labels.csv")
