"""A few-shot run on labels, graphs and pairs that it has not seen."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest
import torch

from graphscale import configure, train
from graphscale.cli import main
from graphscale.data import collections

USUAL = {"preset": "none", "epochs": 1, "tasks": 8, "tasks_per_step": 4, "hidden": 8, "eval_tasks": 4, "shots": 2,
         "queries": 4, "inner_steps": 2, "test_steps": 3, "threads": 1, "inner_lr": 0.1}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("few") / "run"
    train("gmeta", configure("gmeta", data="syn-cycle", ways=2, out=out, **USUAL))
    return out


def tables(tmp_path, count=3):
    """Support and query of two classes, told by names."""
    y = collections.load("syn-cycle").graph.y
    lines = {"support": ["node,label"], "query": ["node,label"]}
    for label in (0, 1):
        rows = (y == label).nonzero()[:, 0].tolist()
        for place, some in (("support", rows[:count]), ("query", rows[count : count + 5])):
            lines[place] += [f"{v},kind {label}" for v in some]
    for place, rows in lines.items():
        (tmp_path / f"{place}.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "support.csv", tmp_path / "query.csv"


def adapt(run, support, query, to, *more):
    return main(["adapt", str(run), "--support", str(support), "--query", str(query), "--to", str(to), *more])


def test_rows_are_told_apart_by_name_with_a_curve(run, tmp_path, capsys):
    support, query = tables(tmp_path)
    assert adapt(run, support, query, tmp_path / "out.csv", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["labels"] == ["kind 0", "kind 1"]
    assert [p["step"] for p in said["curve"]] == [0, 1, 2, 3]
    losses = [p["support_loss"] for p in said["curve"]]
    assert losses[0] is None
    assert losses[3] < losses[1]
    table = pa_csv.read_csv(tmp_path / "out.csv")
    told = table.to_pydict()
    right = sum(a == b for a, b in zip(told["label"], told["predicted"], strict=True)) / table.num_rows
    assert right == pytest.approx(said["curve"][3]["accuracy"])
    for row in table.to_pylist():
        assert row["p_kind 0"] + row["p_kind 1"] == pytest.approx(1, abs=1e-6)
        assert row["predicted"] == max(("kind 0", "kind 1"), key=lambda k: row[f"p_{k}"])


def test_labels_of_queries_are_only_compared_with(run, tmp_path):
    support, query = tables(tmp_path)
    blind = tmp_path / "blind.csv"
    blind.write_text("\n".join(line.split(",")[0] for line in query.read_text().splitlines()) + "\n")
    adapt(run, support, query, tmp_path / "a.parquet")
    adapt(run, support, blind, tmp_path / "b.parquet")
    a, b = (pa_parquet.read_table(tmp_path / f"{name}.parquet") for name in "ab")
    assert a["p_kind 1"].equals(b["p_kind 1"])


def test_steps_of_zero_adapt_nothing_and_more_do(run, tmp_path):
    support, query = tables(tmp_path)
    for steps in ("0", "3"):
        adapt(run, support, query, tmp_path / f"{steps}.parquet", "--steps", steps)
    a, b = (pa_parquet.read_table(tmp_path / f"{steps}.parquet")["p_kind 1"] for steps in "03")
    assert not a.equals(b)


@pytest.mark.parametrize("method", ["gmeta", "finetune", "knn"])
def test_more_labels_than_the_ways_of_training(method, tmp_path):
    run = tmp_path / "run"
    train("gmeta", configure("gmeta", data="syn-cycle", ways=2, out=run, method=method, **USUAL))
    y = collections.load("syn-cycle").graph.y
    rows = [f"{v},{label}" for label in range(4) for v in (y == label).nonzero()[:2, 0].tolist()]
    (tmp_path / "four.csv").write_text("\n".join(["node,label", *rows]) + "\n")
    assert adapt(run, tmp_path / "four.csv", tmp_path / "four.csv", tmp_path / "out.csv") == 0
    assert {"p_0", "p_1", "p_2", "p_3"} <= set(pa_csv.read_csv(tmp_path / "out.csv").column_names)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("node,kind\n1,a\n2,b\n", "lacks label"),
        ("id,label\n1,a\n2,b\n", "lacks node"),
        ("node,label\n1,a\n2,a\n", "one label"),
        ("node,label\n1,a\n2,\n", "row 2 has no label"),
        ("node,label\n1,a\n999999,b\n", "no node 999999"),
        ("node,label\n", "no row"),
        ("node,label\nx,a\ny,b\n", "no column of whole numbers"),
        ("node,node,label\n1,1,a\n2,2,b\n", "name of several columns"),
        ("node,label\n1,a\n,b\n", "row 2 has no id"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(run, tmp_path, capsys, lines, words):
    _, query = tables(tmp_path)
    (tmp_path / "bad.csv").write_text(lines)
    assert adapt(run, tmp_path / "bad.csv", query, tmp_path / "out.csv") == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_pairs_of_new_graphs(tmp_path, capsys):
    out = tmp_path / "run"
    train("gmeta", configure("gmeta", data="planted-graphs:6:60", setup="links", out=out, **USUAL))
    found = collections.load("planted-graphs:6:60")
    adj, ptr, name = found.graph.adj, found.graph.part_ptr, found.names[5]
    start = int(ptr[5])
    source = adj.indices[int(adj.indptr[start]) : int(adj.indptr[start]) + 1].long() - start
    rows = [f"{name},0,{int(source)},link", f"{name},{int(source)},{(int(source) + 7) % 60},none"]
    (tmp_path / "s.csv").write_text("\n".join(["graph,node,other,label", *rows]) + "\n")
    assert adapt(out, tmp_path / "s.csv", tmp_path / "s.csv", tmp_path / "o.csv") == 0
    assert pa_csv.read_csv(tmp_path / "o.csv").num_rows == 2
    (tmp_path / "s.csv").write_text("\n".join(["graph,node,other,label", "nowhere,0,1,a", rows[0]]) + "\n")
    assert adapt(out, tmp_path / "s.csv", tmp_path / "s.csv", tmp_path / "p.csv") == 2
    assert "graph nowhere" in capsys.readouterr().err


def test_a_run_that_learned_its_labels_does_not_adapt(tmp_path, capsys):
    out = tmp_path / "run"
    train("cluster_gcn", configure("cluster_gcn", data="planted:200", preset="none", epochs=1, num_parts=4, out=out))
    support, query = tables(tmp_path)
    assert adapt(out, support, query, tmp_path / "o.csv") == 2
    assert "Use graphscale predict" in capsys.readouterr().err


def test_predictions_are_no_query(run, tmp_path, capsys):
    support, query = tables(tmp_path)
    assert adapt(run, support, query, tmp_path / "one.csv") == 0
    assert adapt(run, support, tmp_path / "one.csv", tmp_path / "two.csv") == 2
    assert "has a column p_kind 0 already" in capsys.readouterr().err


def test_maml_with_fewer_labels_than_ways_counts_what_it_writes(tmp_path, capsys):
    out = tmp_path / "run"
    train("gmeta", configure("gmeta", data="syn-cycle", ways=3, method="maml", out=out, **USUAL))
    support, query = tables(tmp_path)
    capsys.readouterr()
    assert adapt(out, support, query, tmp_path / "o.csv", "--json") == 0
    told = pa_csv.read_csv(tmp_path / "o.csv").to_pydict()
    right = sum(a == b for a, b in zip(told["label"], told["predicted"], strict=True)) / len(told["label"])
    assert json.loads(capsys.readouterr().out)["curve"][-1]["accuracy"] == pytest.approx(right)


def test_a_new_graph_without_labels(run, tmp_path):
    ends = torch.randint(0, 50, (2, 200), generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "new.npz", edge_index=torch.cat([ends, ends.flip(0)], 1).numpy(), num_nodes=50)
    (tmp_path / "s.csv").write_text("node,label\n0,a\n1,a\n2,b\n3,b\n")
    (tmp_path / "q.csv").write_text("node\n4\n5\n")
    data = ("--data", str(tmp_path / "new.npz"))
    assert adapt(run, tmp_path / "s.csv", tmp_path / "q.csv", tmp_path / "o.csv", *data) == 0
    assert set(pa_csv.read_csv(tmp_path / "o.csv")["predicted"].to_pylist()) <= {"a", "b"}


def test_labels_are_compared_by_value_and_none_is_missing(run, tmp_path, capsys):
    """What pandas writes of whole numbers with gaps is floats."""
    import pyarrow as pa

    support, query = tables(tmp_path)
    nodes = pa_csv.read_csv(support)["node"]
    floats = pa.table({"node": nodes, "label": pa.array([0.0] * 3 + [1.0] * 3)})
    pa_parquet.write_table(floats, tmp_path / "s.parquet")
    (tmp_path / "q.csv").write_text(query.read_text().replace("kind ", ""))
    capsys.readouterr()
    assert adapt(run, tmp_path / "s.parquet", tmp_path / "q.csv", tmp_path / "o.csv", "--json") == 0
    assert "accuracy" in json.loads(capsys.readouterr().out)["curve"][-1]
    assert adapt(run, tmp_path / "s.parquet", query, tmp_path / "p.csv") == 2
    assert "none of the support's, 0.0, 1.0" in capsys.readouterr().err
    gap = pa.table({"node": nodes, "label": pa.array([0.0] * 3 + [1.0] * 2 + [float("nan")])})
    pa_parquet.write_table(gap, tmp_path / "gap.parquet")
    assert adapt(run, tmp_path / "gap.parquet", query, tmp_path / "p.csv") == 2
    assert "row 6 has no label" in capsys.readouterr().err


def test_steps_are_of_methods_that_descend(tmp_path, capsys):
    support, query = tables(tmp_path)
    for method in ("finetune", "knn"):
        run = tmp_path / method
        train("gmeta", configure("gmeta", data="syn-cycle", ways=2, out=run, method=method, **USUAL))
    for steps in ("1", "9"):
        assert adapt(tmp_path / "finetune", support, query, tmp_path / f"{steps}.parquet", "--steps", steps) == 0
    one, nine = (pa_parquet.read_table(tmp_path / f"{steps}.parquet")["p_kind 1"] for steps in "19")
    assert not one.equals(nine)
    assert adapt(tmp_path / "knn", support, query, tmp_path / "o.csv", "--steps", "3") == 2
    assert "knn descends on no support" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_the_work(run, tmp_path, capsys):
    support, query = tables(tmp_path)
    (tmp_path / "file").write_text("")
    assert adapt(run, support, query, tmp_path / "file" / "o.csv") == 2
    assert "nothing can be written there" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{"variant": "author"}, {"method": "tlp"}, {}], ids=str)
def test_an_asked_pairs_own_edge_says_nothing(settings, tmp_path):
    """An edge between the ends of a pair that is asked may be there or not: what is foretold is the same."""
    first = {"data": "planted-graphs:6:60", "setup": "links", "out": tmp_path / "run"}
    train("gmeta", configure("gmeta", **first, **settings, **USUAL))
    draw = torch.Generator().manual_seed(0)
    ends = torch.randint(0, 20, (2, 100), generator=draw)
    ends = ends[:, (ends[0] != ends[1]) & (ends.amin(0) + ends.amax(0) > 1)]  # without the pair 0, 1
    ends = torch.cat([ends, ends + 20], 1)  # the support lies apart, since it may see the edge
    x = torch.randn(40, 32, generator=draw).numpy()
    (tmp_path / "s.csv").write_text("node,other,label\n22,23,a\n24,25,a\n26,27,b\n28,29,b\n")
    (tmp_path / "q.csv").write_text("node,other\n0,1\n1,0\n")
    for name, more in (("without", ends[:, :0]), ("with", torch.tensor([[0], [1]]))):
        both = torch.cat([ends, more], 1)
        np.savez(tmp_path / f"{name}.npz", edge_index=torch.cat([both, both.flip(0)], 1).numpy(), num_nodes=40, x=x)
        tables_ = (tmp_path / "s.csv", tmp_path / "q.csv", tmp_path / f"{name}.parquet")
        assert adapt(tmp_path / "run", *tables_, "--data", str(tmp_path / f"{name}.npz")) == 0
    a, b = (pa_parquet.read_table(tmp_path / f"{name}.parquet") for name in ("without", "with"))
    assert a["p_a"].equals(b["p_a"])
    assert a["p_a"][0] == a["p_a"][1], "either order is the same pair"
