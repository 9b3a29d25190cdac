from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import random_graph

from graphscale.data.collections import load
from graphscale.errors import InputError


def folder(tmp_path, numbers=(0, 1, 10), **tables):
    """Graphs of 8, 9 and 10 nodes, and tables by name: rows of (name, label)."""
    graphs = {}
    for size, number in zip((8, 9, 10), numbers, strict=True):
        graphs[number] = random_graph(size, seed=size, density=0.4)
        edge_index = torch.stack([graphs[number].adj.indices.long(), graphs[number].adj.row_of])
        np.savez(tmp_path / f"{number}.npz", edge_index=edge_index, num_nodes=size, x=graphs[number].x)
    for name, rows in tables.items():
        lines = [f"{i},{name},{label}" for i, (name, label) in enumerate(rows)]  # as pandas writes it
        (tmp_path / f"{name}.csv").write_text("\n".join([",name,label", *lines]) + "\n")
    return graphs


def test_tables_of_nodes(tmp_path):
    folder(tmp_path, train=[("0_3", 2), ("10_9", 0)], val=[("1_0", 1)], test=[("0_0", 1), ("10_0", 2)])
    read = load(tmp_path)
    assert read.names == ("0", "1", "10")  # by number
    expected = torch.full((27,), -1)
    expected[3], expected[26], expected[8], expected[0], expected[17] = 2, 0, 1, 1, 2
    assert torch.equal(read.graph.y, expected) and read.graph.num_classes == 3
    where = {split: mask.nonzero()[:, 0].tolist() for split, mask in read.graph.masks.items()}
    assert where == {"train": [3, 26], "val": [8], "test": [0, 17]}
    assert read.graph.num_features == 5 and read.pairs is None and read.graph.notes == ()


def test_nodes_in_two_tables_are_said(tmp_path):
    folder(tmp_path, train=[("0_3", 2)], val=[("0_3", 2), ("1_0", 0)])
    assert "1 nodes lie in more than one of train, val, test" in load(tmp_path).graph.notes


def test_tables_of_pairs_and_what_would_give_the_answer_away(tmp_path):
    graphs = folder(tmp_path)
    dense = graphs[1].adj.dense(torch.bool)
    links = [(a, b) for a in range(9) for b in range(a) if dense[a, b]]
    none = [(a, b) for a in range(9) for b in range(a) if not dense[a, b]]
    kept, asked = links[:4], links[4:7]
    # One pair that is said to be no link is an edge of the graph, as the authors' script leaves it.
    false = [links[7], none[0]]
    spt = [(f"1_{a}_{b}", 1) for a, b in kept] + [(f"1_{a}_{b}", 0) for a, b in false]
    qry = [(f"1_{a}_{b}", 1) for a, b in asked] + [(f"1_{a}_{b}", 0) for a, b in none[1:4]]
    folder(tmp_path, train_spt=spt, train_qry=qry, test_spt=[("0_1_0", 1)], test_qry=[("0_2_3", 0)])
    read = load(tmp_path)
    pairs = read.pairs
    assert len(pairs) == len(spt) + len(qry) + 2
    assert pairs.pair[0].tolist() == [1, 0] and pairs.support[:2].tolist() == [True, False]  # by graph
    mine = pairs.pair[:, 0] >= 8
    found = {(a - 8, b - 8, y, s) for (a, b), y, s in zip(
        pairs.pair[mine].tolist(), pairs.label[mine].tolist(), pairs.support[mine].tolist(), strict=True)}  # fmt: skip
    rows = ((name, label, True) for name, label in spt), ((name, label, False) for name, label in qry)
    assert found == {(*map(int, name.split("_")[1:]), y, s) for part in rows for name, y, s in part}
    after = read.graph.adj.dense(torch.bool)[8:17, 8:17]
    expected = dense.clone()
    for a, b in [*asked, links[7]]:
        expected[a, b] = expected[b, a] = False
    assert torch.equal(after, expected) and read.graph.adj.check_symmetric()
    out = 2 * (4 + int(graphs[0].adj.dense()[2, 3]))
    assert read.graph.notes == (f"{out} entries between pairs that are asked or are no links taken out of the graphs",)
    assert read.graph.masks["train"].nonzero()[:, 0].tolist() == list(range(8, 17))
    assert read.graph.masks["test"].nonzero()[:, 0].tolist() == list(range(8))


def test_nothing_is_unpickled(tmp_path):
    (tmp_path / "graph_dgl.pkl").write_bytes(b"\x80\x04cos\nsystem\n")
    (tmp_path / "train.csv").write_text("name,label\n0_0,1\n")
    with pytest.raises(InputError, match=r"graph_dgl.pkl: a pickle may run any program.*numpy.savez\('0.npz'"):
        load(tmp_path)
    (tmp_path / "graph_dgl.pkl").unlink()
    with pytest.raises(InputError, match="tables but no graphs"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"train": [("0_8", 1)]}, "names 0_8, and that graph has fewer nodes"),
        ({"train": [("2_0", 1)]}, "names graph 2, but there is no 2.npz"),
        ({"train": [("0_1_2", 1)]}, "names that are not X_Y"),
        ({"train": [("x", 1)]}, "names that are not X_Y"),
        ({"train_spt": [("0_1", 1)]}, "names that are not A_B_C"),
        ({"train": [("0_1", "cat")]}, "no table with columns name and label"),
        ({"train": [("0_1", 1)], "val": [("0_1", 2)]}, "another class than a table before"),
        ({"train": [("0_1", -1)]}, "below 0"),
        ({"train_spt": [("0_1_1", 1)]}, "join a node to itself"),
        ({"train_qry": [("0_1_2", 3)]}, "other than 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, tables, words):
    folder(tmp_path, **tables)
    with pytest.raises(InputError, match=words):
        load(tmp_path)
