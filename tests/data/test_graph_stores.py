from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import random_graph

from graphscale import store
from graphscale.__main__ import main
from graphscale.data.collections import joined, load
from graphscale.data.link_split import split_links
from graphscale.errors import InputError
from graphscale.partitioning import partition
from graphscale.store.graphs import write_graphs


def some(**kind):
    return joined((f"graph {n}", random_graph(n, seed=n, **kind)) for n in (30, 12, 20))


def same(a, b):
    assert a.names == b.names
    for name in ("y", "part_ptr", "node_id"):
        assert torch.equal(getattr(a.graph, name), getattr(b.graph, name)), name
    assert a.graph.fingerprint() == b.graph.fingerprint() and torch.equal(a.graph.x, b.graph.x)
    assert a.graph.adj.symmetric == b.graph.adj.symmetric and a.graph.num_classes == b.graph.num_classes
    assert a.graph.masks.keys() == b.graph.masks.keys()
    assert (a.pairs is None) == (b.pairs is None)
    if a.pairs is not None:
        assert torch.equal(a.pairs.pair, b.pairs.pair) and torch.equal(a.pairs.label, b.pairs.label)
        assert torch.equal(a.pairs.support, b.pairs.support)


@pytest.mark.parametrize("kind", [{}, {"directed": True}, {"weighted": True}])
@pytest.mark.parametrize("pairs", [False, True])
def test_a_collection_comes_back_from_its_store(tmp_path, kind, pairs):
    whole = split_links(some(**kind)) if pairs else some(**kind)
    cut = write_graphs(whole, tmp_path / "s")
    assert cut.cut == 0 and cut.halo_ratio == 0 and cut.num_parts == 3
    same(load(tmp_path / "s"), whole)
    assert store.verify(tmp_path / "s") == []


def test_splits_of_nodes_are_kept(tmp_path):
    whole = some()
    masks = {name: torch.arange(62) % 3 == i for i, name in enumerate(("train", "val", "test"))}
    write_graphs(replace(whole, graph=replace(whole.graph, masks=masks)), tmp_path / "s")
    back = load(tmp_path / "s").graph.masks
    assert all(torch.equal(back[name], masks[name] & (whole.graph.y >= 0)) for name in masks)


def test_splits_of_graphs_whose_pairs_are_labelled_are_kept(tmp_path):
    whole = some()
    graph = replace(whole.graph, y=torch.full((whole.graph.num_nodes,), -1), num_classes=0)
    owner = torch.arange(whole.num_graphs).repeat_interleave(graph.part_ptr.diff())
    masks = {split: owner == g for g, split in enumerate(("train", "val", "test"))}
    collection = split_links(replace(whole, graph=replace(graph, masks=masks)))
    write_graphs(collection, tmp_path / "store")
    for split, mask in load(tmp_path / "store").graph.masks.items():
        assert torch.equal(mask, masks[split])


def test_a_store_of_clusters_is_one_graph(tmp_path):
    graph = random_graph(60)
    store.write(graph, partition(graph, 5), tmp_path / "cut")
    one = load(tmp_path / "cut")
    assert one.names == ("cut",) and one.graph.part_ptr.tolist() == [0, 60] and one.graph.masks
    assert sorted(one.graph.node_id.tolist()) == list(range(60))


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GRAPHSCALE_DATA", str(tmp_path))
    assert main(["prepare", "planted-graphs:5:60", "--to", str(tmp_path / "five"), "--graphs", "--seed", "4"]) == 0
    assert "5 graphs clusters of 60..60 nodes" in capsys.readouterr().out
    same(load("five"), load("planted-graphs:5:60", seed=4))  # found in the data folder
    assert main(["info", str(tmp_path / "five"), "--verify"]) == 0
    assert "made from planted-graphs:5:60; 5 graphs" in capsys.readouterr().out
    assert main(["prepare", "syn-cycle", "--to", str(tmp_path / "five"), "--graphs"]) == 2
    assert "is in use" in capsys.readouterr().err
    assert main(["prepare", "syn-cycle", "--to", str(tmp_path / "five"), "--graphs", "--overwrite"]) == 0
    assert load("five").names == ("cycle-0",)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--graphs", "--num-parts", "3"], ["--graphs", "--weighted"], ["--graphs", "--partitioner", "stream"]],
)
def test_graphs_or_parts(tmp_path, capsys, arguments):
    assert main(["prepare", "syn-cycle", "--to", str(tmp_path / "s"), *arguments]) == 2
    assert "--num-parts" in capsys.readouterr().err and not (tmp_path / "s").exists()


def put(name, place, value):
    def damage(path):
        array = np.load(path / f"{name}.npy")
        array[place] = value
        np.save(path / f"{name}.npy", array)

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (put("pair", (0, 0), 10**6), "graphs or pairs"),
        (put("pair", (0, 0), -1), "graphs or pairs"),
        (put("pair", (0, 1), 61), "graphs or pairs"),  # of another graph
        (put("pair_label", 3, 2), "graphs or pairs"),
        (lambda path: (path / "pair_support.npy").unlink(), "missing or damaged"),
    ],
)
def test_damage_is_refused(tmp_path, damage, words):
    write_graphs(split_links(some()), tmp_path / "s")
    damage(tmp_path / "s")
    with pytest.raises(InputError, match=words):
        load(tmp_path / "s")


def test_names_are_sealed(tmp_path):
    write_graphs(some(), tmp_path / "s")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    manifest["graphs"][0] = "another"
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="changed since it was written"):
        load(tmp_path / "s")
