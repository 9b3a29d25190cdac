"""What comes out of a run is what its evaluation saw, under the caller's ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from graphscale import load, outputs, session
from graphscale.cli import main
from graphscale.data.static import load as load_graph
from graphscale.errors import InputError
from graphscale.nn.stock import Feed
from graphscale.recipes.cluster_gcn import ClusterGCNConfig

SOURCE = "planted:300"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for model in ("cluster_gcn", "sage"):
        config = ClusterGCNConfig(
            data=SOURCE, num_parts=4, hidden=8, layers=3, epochs=3, model=model, out=folder / model
        )
        found[model] = (folder / model, session.train("cluster_gcn", config))
    return found


@pytest.mark.parametrize("model", ["cluster_gcn", "sage"])
def test_prediction_equals_evaluation(runs, tmp_path, model, monkeypatch):
    monkeypatch.setattr("graphscale.prediction._TILE", 64)  # several row groups
    run, result = runs[model]
    assert main(["predict", str(run), "--to", str(tmp_path / "p.parquet"), "--embeddings"]) == 0
    rows = pq.read_table(tmp_path / "p.parquet")
    assert rows.column_names == ["node", "predicted", "probability", "embedding"]
    graph = load_graph(SOURCE)
    assert rows["node"].to_pylist() == list(range(300))
    predicted = rows["predicted"].to_numpy()
    for split in ("val", "test"):
        mask = graph.masks[split].numpy()
        accuracy = (predicted == graph.y.numpy())[mask].mean()
        assert accuracy == pytest.approx(result[split]["accuracy"], abs=1e-12)
    probability = np.stack(rows["probability"].to_pylist())
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(probability.argmax(1), predicted)
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]  # no scratch is left


def test_a_large_graph_goes_through_a_stock_model_in_tiles(runs, tmp_path, monkeypatch):
    run, _ = runs["sage"]
    outputs.predict(run, tmp_path / "whole.parquet", embeddings=True)
    monkeypatch.setattr("graphscale.nn.exact._ONE_PASS", 250)
    outputs.predict(run, tmp_path / "tiles.parquet", embeddings=True)
    one, other = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "tiles"))
    assert one["predicted"] == other["predicted"]
    for column in ("probability", "embedding"):
        np.testing.assert_allclose(np.stack(other[column].to_pylist()), np.stack(one[column].to_pylist()), atol=1e-5)


@pytest.mark.parametrize("model", ["cluster_gcn", "sage"])
def test_the_module_comes_back_and_its_embeddings_are_those_written(runs, tmp_path, model):
    run, _ = runs[model]
    module = load(run)
    assert not module.training
    graph = load_graph(SOURCE)
    outputs.predict(run, tmp_path / "p.parquet", embeddings=True)
    rows = pq.read_table(tmp_path / "p.parquet")
    with torch.no_grad():
        if model == "cluster_gcn":
            *_, hidden, logits = module.layers(graph.x, graph.adj)
            assert torch.equal(module.infer(graph.x, graph.adj), logits)
        else:
            logits = Feed("edge_index", weight=False, attr=False)(module, graph.x, graph.adj, None)
            hidden = None
    predicted = torch.tensor(rows["predicted"].to_pylist())
    assert torch.equal(predicted, logits.argmax(1))
    if hidden is not None:
        torch.testing.assert_close(torch.tensor(rows["embedding"].to_pylist()), hidden)
    assert rows.schema.field("embedding").type == pa.list_(pa.float32(), 8)


def test_predictions_of_a_store_carry_the_callers_ids(tmp_path):
    draw = np.random.default_rng(0)
    ids = np.sort(draw.choice(10**9, 120, replace=False))
    pairs = draw.integers(120, size=(2, 700))
    pq.write_table(pa.table({"src": ids[pairs[0]], "dst": ids[pairs[1]]}), tmp_path / "edges.parquet")
    split = np.array(["train", "val", "test"], dtype=object)[np.arange(120) % 3]
    pq.write_table(pa.table({"node": ids, "label": np.arange(120) % 4, "split": split}), tmp_path / "labels.parquet")
    np.save(tmp_path / "x.npy", draw.random((120, 6), dtype=np.float32))
    where = {
        name: str(tmp_path / name) for name in ("edges.parquet", "labels.parquet", "x.npy", "store", "run", "p.parquet")
    }
    code = main(
        ["prepare", where["edges.parquet"], "--to", where["store"], "--num-parts", "5", "--partitioner", "stream"]
        + ["--undirected", "--features", where["x.npy"], "--labels", where["labels.parquet"]]
    )
    assert code == 0
    assert main(["info", where["store"], "--verify"]) == 0
    train = ["train", "cluster_gcn", "--data", where["store"], "--epochs", "2", "--hidden", "8", "--out", where["run"]]
    assert main(train) == 0
    assert main(["predict", where["run"], "--to", where["p.parquet"]]) == 0
    rows = pq.read_table(where["p.parquet"])
    assert rows["node"].to_pylist() == ids.tolist()
    assert main(["evaluate", where["run"], "--json"]) == 0


def test_a_store_needs_no_partitioning_and_says_so(tmp_path, capsys):
    assert main(["prepare", SOURCE, "--to", str(tmp_path / "s"), "--num-parts", "6"]) == 0
    flags = ["--data", str(tmp_path / "s"), "--epochs", "1", "--hidden", "8", "--num-parts", "99"]
    assert main(["train", "cluster_gcn", *flags, "--out", str(tmp_path / "run")]) == 0
    assert "clusters of the store are used (6)" in capsys.readouterr().err


def test_a_store_trains_as_the_graph_it_was_made_from(tmp_path):
    assert main(["prepare", SOURCE, "--to", str(tmp_path / "s"), "--num-parts", "4"]) == 0
    common = {"num_parts": 4, "hidden": 8, "layers": 2, "epochs": 2, "threads": 1}
    stored = session.train("cluster_gcn", ClusterGCNConfig(data=str(tmp_path / "s"), out=tmp_path / "a", **common))
    memory = session.train("cluster_gcn", ClusterGCNConfig(data=SOURCE, out=tmp_path / "b", **common))
    for split in ("val", "test"):  # rows in another order are summed in another order
        assert stored[split]["accuracy"] == memory[split]["accuracy"]
        assert stored[split]["logloss"] == pytest.approx(memory[split]["logloss"], rel=1e-4)
    assert stored["partition"]["edge_cut"] == memory["partition"]["edge_cut"]


def test_export_holds_the_best_weights(runs, tmp_path):
    run, _ = runs["cluster_gcn"]
    assert main(["export", str(run), "--to", str(tmp_path / "m.safetensors")]) == 0
    module = load(run)
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata()["recipe"] == "cluster_gcn"
        for name, value in module.state_dict().items():
            assert torch.equal(file.get_tensor(name), value)


def test_files_in_use_and_several_seeds_are_refused(runs, tmp_path):
    run, _ = runs["cluster_gcn"]
    (tmp_path / "mine").write_text("keep")
    for call in (outputs.export, outputs.predict):
        with pytest.raises(InputError, match="in use"):
            call(run, tmp_path / "mine")
    config = ClusterGCNConfig(data=SOURCE, num_parts=4, hidden=8, epochs=1, seeds=2, out=tmp_path / "two")
    session.train("cluster_gcn", config)
    with pytest.raises(InputError, match=r"holds 2 runs.*seed-0"):
        outputs.load(tmp_path / "two")
    assert outputs.load(tmp_path / "two" / "seed-1") is not None


def test_a_store_without_labels_is_refused_by_train(tmp_path, capsys):
    np.save(tmp_path / "e.npy", np.random.default_rng(0).integers(50, size=(2, 200)))
    assert main(["prepare", str(tmp_path / "e.npy"), "--to", str(tmp_path / "s"), "--num-parts", "3"]) == 0
    assert main(["train", "cluster_gcn", "--data", str(tmp_path / "s"), "--out", str(tmp_path / "run")]) == 2
    assert "no labelled node in train, val, test" in capsys.readouterr().err
