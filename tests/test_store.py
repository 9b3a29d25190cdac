from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import random_graph

from graphscale import store
from graphscale.csr import from_entries
from graphscale.data.synthetic import planted
from graphscale.errors import InputError
from graphscale.partitioning import partition


def stored(tmp_path, graph, parts=5, **keywords):
    cut = partition(graph, parts)
    store.write(graph, cut, tmp_path / "s", **keywords)
    return cut, tmp_path / "s"


def assert_same_graph(a, b):
    torch.testing.assert_close(a.adj.dense(torch.float64), b.adj.dense(torch.float64), rtol=0, atol=0)
    assert a.adj.symmetric == b.adj.symmetric
    assert torch.equal(a.adj.indptr, b.adj.indptr)
    assert torch.equal(a.adj.indices, b.adj.indices)
    for name in ("y", "part_ptr", "node_id"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert all(torch.equal(a.masks[name], b.masks[name]) for name in ("train", "val", "test"))
    assert a.num_classes == b.num_classes
    if a.edge_attr is not None:
        assert torch.equal(a.edge_attr, b.edge_attr)


@pytest.mark.parametrize("kind", [{}, {"weighted": True}, {"directed": True, "loops": True}, {"attributes": 2}])
def test_a_store_opened_is_the_graph_it_was_made_from(tmp_path, kind):
    graph = random_graph(**kind)
    cut, path = stored(tmp_path, graph)
    opened = store.read(path)
    expected = cut.apply(graph)
    assert_same_graph(opened, expected)
    assert torch.equal(opened.x, expected.x)
    # and through the caller's ids it is the caller's graph
    back = opened.node_id.argsort()
    torch.testing.assert_close(
        opened.adj.dense(torch.float64)[back][:, back], graph.adj.dense(torch.float64), rtol=0, atol=0
    )
    assert store.verify(path) == []


def test_blocks_smaller_than_the_graph(tmp_path, monkeypatch):
    graph = random_graph(weighted=True)
    cut, whole = stored(tmp_path, graph)
    for module in (store.reading, store.writing):
        monkeypatch.setattr(module, "BLOCK", 7)
    store.write(graph, cut, tmp_path / "pieces")
    assert store.manifest_of(whole)["arrays"] == store.manifest_of(tmp_path / "pieces")["arrays"]
    assert store.verify(tmp_path / "pieces") == []


def test_sparse_features_and_several_splits(tmp_path):
    from dataclasses import replace

    graph = random_graph()
    row, col = (graph.x > 0).nonzero().t()
    sparse, _ = from_entries(row, col, graph.x.shape, graph.x[graph.x > 0].float())
    graph = replace(graph, x=sparse)
    splits = {name: torch.stack([mask, mask.roll(1)], 1) for name, mask in graph.masks.items()}
    cut, path = stored(tmp_path, graph, splits=splits)
    for split in (0, 1):
        opened = store.read(path, split=split)
        torch.testing.assert_close(opened.x.dense(), sparse.dense()[cut.order], rtol=0, atol=0)
        assert torch.equal(opened.masks["val"], splits["val"][cut.order, split])
    with pytest.raises(InputError, match=r"split 2 asked.*holds 2"):
        store.read(path, split=2)


def test_several_labels(tmp_path):
    from dataclasses import replace

    graph = replace(random_graph(), y=(torch.rand(60, 4) > 0.5).float(), num_classes=4)
    cut, path = stored(tmp_path, graph)
    assert torch.equal(store.read(path).y, graph.y[cut.order])


def test_another_graphs_partition_is_refused(tmp_path):
    with pytest.raises(InputError, match="another graph"):
        store.write(random_graph(seed=1), partition(random_graph(), 4), tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing_and_a_store_in_use_is_kept(tmp_path, monkeypatch):
    graph = random_graph()
    cut, path = stored(tmp_path, graph)
    before = (path / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="in use"):
        store.write(graph, cut, path)
    monkeypatch.setattr(store.writing, "_write_features", lambda *a: (_ for _ in ()).throw(RuntimeError("disk full")))
    with pytest.raises(RuntimeError, match="disk full"):
        store.write(graph, cut, path, overwrite=True)
    assert (path / "manifest.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_what_is_no_store_is_never_overwritten(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="in use"):
        store.write(random_graph(), partition(random_graph(), 4), tmp_path / "s", overwrite=True)
    assert (tmp_path / "s" / "thesis.txt").read_text() == "mine"


def edit(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


def cut_short(path):
    file = path / "indices.npy"
    file.write_bytes(file.read_bytes()[:-10])


def other_length(path):
    np.save(path / "y.npy", np.zeros(3, dtype=np.int64))


def bad_pointer(path):
    indptr = np.load(path / "indptr.npy")
    indptr[5] = 10**6
    np.save(path / "indptr.npy", indptr)


def put(name, place, value):
    def damage(path):
        array = np.load(path / f"{name}.npy")
        array[place] = value
        np.save(path / f"{name}.npy", array)

    return damage


DAMAGE = {
    "a source past the last node": (put("indices", 5, 2**30), "inconsistent in indices"),
    "a source below 0": (put("indices", 0, -1), "inconsistent in indices"),
    "a label outside the classes": (put("y", 3, 77), "inconsistent in y"),
    "clusters out of order": (put("part_ptr", 1, 59), "inconsistent in part_ptr"),
    "a manifest without counts": (lambda p: edit(p, nodes=None), "manifest of .* is damaged"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "no readable store"),
    "half a manifest": (lambda p: (p / "manifest.json").write_text('{"format": "gra'), "no readable store"),
    "another format": (lambda p: edit(p, format="something"), "something"),
    "a later version": (lambda p: edit(p, version=99), "version 99"),
    "a missing array": (lambda p: (p / "x.npy").unlink(), "missing or damaged"),
    "a short array": (cut_short, "missing or damaged"),
    "an array of another run": (other_length, "manifest says"),
    "pointers out of range": (bad_pointer, "inconsistent"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_when_opened(tmp_path, case):
    _, path = stored(tmp_path, random_graph())
    damage, words = DAMAGE[case]
    damage(path)
    with pytest.raises(InputError, match=words):
        store.read(path)


def test_verify_finds_a_flipped_bit(tmp_path):
    _, path = stored(tmp_path, random_graph())
    content = bytearray((path / "x.npy").read_bytes())
    content[-3] ^= 1
    (path / "x.npy").write_bytes(content)
    store.read(path)  # the sizes are right
    assert store.verify(path) == ["x"]


def test_arrays_are_mapped_not_read(tmp_path):
    graph = planted(500)
    _, path = stored(tmp_path, graph, parts=10)
    opened = store.read(path)
    assert not np.load(path / "x.npy", mmap_mode="r").flags.writeable
    maps = Path("/proc/self/maps")
    if maps.is_file():  # shared and read-only: a private map would count against a limit on memory
        (line,) = [x for x in maps.read_text().splitlines() if x.endswith(str(path / "x.npy"))]
        assert line.split()[1] == "r--s"
    assert opened.x.shape == (500, 32)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(symmetric=not m["symmetric"]),
        lambda m: m.update(classes=70),
        lambda m: m["arrays"].pop("x"),
        lambda m: m.update(partition={}),
        lambda m: m["arrays"].update(x="foo"),
        lambda m: m.pop("seal"),
    ],
)
def test_an_edited_manifest_is_refused(tmp_path, edit):
    _, path = stored(tmp_path, random_graph())
    manifest = json.loads((path / "manifest.json").read_text())
    edit(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    for look in (store.read, store.verify, store.manifest_of):
        with pytest.raises(InputError, match="manifest of .* is damaged|no readable store"):
            look(path)
