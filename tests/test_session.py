from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graphscale import checkpoint, nodes, places, session
from graphscale.data import pyg, static
from graphscale.errors import InputError
from graphscale.recipes.cluster_gcn import ClusterGCNConfig

KEYS = {
    "recipe", "data", "config", "monitor", "val", "test", "final", "best_epoch", "epochs", "seconds", "peak_anon_mb",
    "device", "peak_device_mb",
    "parameters", "partition", "versions", "commit", "seed",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tiny(out: str | None, **change) -> ClusterGCNConfig:
    given = {"data": "planted:200", "num_parts": 4, "hidden": 8, "layers": 2, "epochs": 4}
    return ClusterGCNConfig(**{**given, "out": None if out is None else Path(out), **change})


def train(out: str | None, **change) -> dict:
    return session.train("cluster_gcn", tiny(out, **change))


def file_of(name: str, **change) -> str:
    """planted:200 as a file, with keys changed or, where None, taken away."""
    graph = static.load("planted:200")
    content = {
        "edge_index": np.stack([graph.adj.indices.numpy(), graph.adj.row_of.numpy()]),
        "num_nodes": np.array(200),
        "x": graph.x.numpy(),
        "y": graph.y.numpy(),
        **{f"{split}_mask": mask.numpy() for split, mask in graph.masks.items()},
        **change,
    }
    np.savez(name, **{key: value for key, value in content.items() if value is not None})
    return name


def same_numbers(one: dict, two: dict) -> bool:
    names = ("val", "test", "final", "best_epoch", "epochs", "partition", "parameters", "monitor")
    return all(one[name] == two[name] for name in names)


# The result


def test_the_result_has_these_keys_and_is_the_file():
    result = train("run")
    assert set(result) == KEYS
    assert json.loads(Path("run/result.json").read_text()) == result
    assert set(result["seconds"]) == {"prepare", "train", "evaluate"}
    assert all(value > 0 for value in result["seconds"].values())
    assert (result["recipe"], result["data"], result["seed"], result["epochs"]) == ("cluster_gcn", "planted:200", 0, 4)
    assert result["monitor"] == "accuracy"
    assert set(result["val"]) == set(result["test"]) == {"accuracy", "f1_micro", "f1_macro", "logloss"}
    assert set(result["final"]) == {"val", "test"}
    assert result["config"]["hidden"] == 8
    assert not {"out", "json", "overwrite", "config"} & set(result["config"])
    assert result["partition"]["num_parts"] == 4
    assert result["peak_anon_mb"] is None or result["peak_anon_mb"] > 10


def test_parameters_are_counted():
    # Two layers of [A'X || X] W + b: 64 -> 8 and 16 -> 8 classes, and the scale and shift of one LayerNorm.
    assert train("run")["parameters"] == (64 * 8 + 8) + (16 * 8 + 8) + 2 * 8


def test_the_best_epoch_is_the_best_of_the_log():
    result = train("run", epochs=12, lr=1.0)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    order = [(-line["scores"]["val"]["accuracy"], line["scores"]["val"]["logloss"]) for line in lines]
    best = order.index(min(order))
    assert result["best_epoch"] == best + 1
    assert {"val": result["val"], "test": result["test"]} == lines[best]["scores"]
    assert result["final"] == lines[-1]["scores"]
    assert best < 11  # otherwise best and last are not told apart


def test_another_monitor_picks_by_it():
    result = train("run", epochs=12, lr=1.0, monitor="logloss")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = [line["scores"]["val"]["logloss"] for line in lines]
    assert result["monitor"] == "logloss"
    assert result["best_epoch"] == 1 + losses.index(min(losses))


def test_patience_stops_early():
    result = train("run", epochs=200, lr=1.0, patience=2)
    assert result["epochs"] < 200
    assert result["epochs"] == result["best_epoch"] + 2
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == result["epochs"]


def test_eval_every():
    train("run", epochs=5, eval_every=2)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    # The last epoch is always scored.
    assert [line["scores"] is not None for line in lines] == [False, True, False, True, True]


def test_undefined_scores_are_null_in_files():
    # Validation holds one class only: AUC does not exist there.
    y = static.load("planted:200").y.numpy() % 2
    val = static.load("planted:200").masks["val"].numpy()
    y[val] = 1
    result = train("run", data=file_of("one.npz", y=y), epochs=2, seeds=2)
    assert math.isnan(result["val"]["auc"])
    text = Path("run/result.json").read_text()
    stored = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert stored["runs"][0]["val"]["auc"] is None
    assert stored["mean"]["val"]["auc"] is None
    assert stored["mean"]["test"]["auc"] == pytest.approx(np.mean([r["test"]["auc"] for r in stored["runs"]]))
    for line in Path("run/seed-0/metrics.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=lambda name: pytest.fail(name))["scores"]["val"]["auc"] is None


# Seeds


def test_the_same_seed_gives_the_same_numbers():
    one, two = train("one", dropout=0.5), train("two", dropout=0.5)
    assert same_numbers(one, two)
    losses = [
        [json.loads(line)["loss"] for line in Path(place, "metrics.jsonl").read_text().splitlines()]
        for place in ("one", "two")
    ]
    assert losses[0] == losses[1]


def test_the_same_seed_does_not_depend_on_what_was_drawn_before():
    one = train("one", dropout=0.5)
    torch.manual_seed(1234)
    np.random.seed(99)  # noqa: NPY002 - the global state is what must not matter
    torch.rand(100)
    assert same_numbers(one, train("two", dropout=0.5))


def test_training_leaves_the_global_state_as_it_was():
    state = torch.random.get_rng_state()
    train("run", dropout=0.5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_another_seed_gives_other_numbers():
    assert not same_numbers(train("one"), train("two", seed=1))


def test_two_seeds_equal_two_runs():
    together = train("both", seeds=2, dropout=0.5)
    apart = [train("zero", seed=0, dropout=0.5), train("one", seed=1, dropout=0.5)]
    assert set(together) == KEYS | {"runs", "mean", "std"}
    assert len(together["runs"]) == 2
    for run, alone in zip(together["runs"], apart, strict=True):
        assert set(run) == KEYS
        assert same_numbers(run, alone)
        assert run["config"] == alone["config"]
        assert run["seed"] == alone["seed"]
    assert json.loads(Path("both/result.json").read_text()) == together
    for seed, alone in enumerate(apart):
        assert same_numbers(json.loads(Path(f"both/seed-{seed}/result.json").read_text()), alone)


def test_mean_and_deviation_of_seeds():
    result = train("run", seeds=3, seed=5)
    assert [run["seed"] for run in result["runs"]] == [5, 6, 7]
    assert (result["seed"], result["config"]["seeds"]) == (5, 3)
    for split in ("val", "test"):
        assert set(result["mean"][split]) == set(result["std"][split]) == set(result["runs"][0][split])
        for name in result["mean"][split]:
            values = [run[split][name] for run in result["runs"]]
            assert result["mean"][split][name] == pytest.approx(np.mean(values))
            assert result["std"][split][name] == pytest.approx(np.std(values, ddof=1))
    assert set(result["mean"]) == set(result["std"]) == {"val", "test"}


def test_seconds_of_seeds_add_up_and_count_the_reading_once(monkeypatch):
    read = nodes.read
    monkeypatch.setattr(nodes, "read", lambda config: [__import__("time").sleep(0.3), read(config)][1])
    result = train("run", seeds=3)
    runs = [run["seconds"] for run in result["runs"]]
    assert result["seconds"]["train"] == pytest.approx(sum(s["train"] for s in runs), abs=1e-3)
    assert min(s["prepare"] for s in runs) > 0.3
    assert 0.3 < result["seconds"]["prepare"] < sum(s["prepare"] for s in runs) - 0.5


# Folders


def test_the_default_folder_says_what_it_is():
    train(None)
    (out,) = Path("runs").iterdir()
    assert out.name.startswith("cluster_gcn-planted-200-20")
    train(None, data=file_of("mine.npz"))
    assert any(path.name.startswith("cluster_gcn-mine-20") for path in Path("runs").iterdir())


def test_two_runs_in_one_second_have_two_folders(monkeypatch):
    class Clock:
        @staticmethod
        def now():
            return __import__("datetime").datetime(2030, 1, 2, 3, 4, 5)

    monkeypatch.setattr(places, "datetime", Clock)
    train(None, epochs=1)
    train(None, epochs=1)
    stem = "cluster_gcn-planted-200-20300102-030405"
    assert sorted(path.name for path in Path("runs").iterdir()) == [stem, f"{stem}-1"]


def test_a_folder_in_use_is_refused_and_overwrite_replaces_a_run():
    train("run")
    Path("run/stale.txt").write_text("of the old run")
    before = Path("run/result.json").read_text()
    with pytest.raises(InputError, match=r"run is in use.*--overwrite"):
        train("run", seed=1)
    assert Path("run/result.json").read_text() == before
    train("run", seed=1, overwrite=True)
    assert json.loads(Path("run/result.json").read_text())["seed"] == 1
    assert not Path("run/stale.txt").exists()


@pytest.mark.parametrize("config", [None, "title = 'A site'\n", "recipe = [broken"])
def test_a_folder_that_is_no_run_is_never_deleted(config):
    # Other programs call their settings config.toml too.
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("years of work")
    if config is not None:
        Path("thesis/config.toml").write_text(config)
    with pytest.raises(InputError, match="not a run's folder; it is not replaced"):
        train("thesis", overwrite=True)
    assert Path("thesis/chapter.tex").read_text() == "years of work"


def test_a_file_is_never_replaced():
    Path("notes").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="notes"):
            train("notes", overwrite=overwrite)
    assert Path("notes").read_text() == "mine"


@pytest.mark.parametrize(
    "change", [{"data": "nowhere"}, {"num_parts": 500}, {"monitor": "auc"}, {"model": "nothing"}, {"split": 7}]
)
def test_a_mistake_costs_no_old_run_and_leaves_no_new_folder(change):
    train("run")
    with pytest.raises(InputError):
        train("run", overwrite=True, **change)
    assert Path("run/checkpoints/best.pt").is_file()
    with pytest.raises(InputError):
        train("new", **change)
    assert not Path("new").exists()  # so the corrected command is not told that it is in use
    with pytest.raises(InputError):
        train(None, **change)
    assert not Path("runs").exists()


def test_a_folder_in_use_is_refused_before_the_data_is_read():
    # Reading may take hours.
    train("run")
    with pytest.raises(InputError, match="run is in use"):
        train("run", data="nowhere")


def test_an_empty_folder_is_free():
    Path("run").mkdir()
    train("run", epochs=1)
    assert Path("run/result.json").is_file()


def test_unknown_recipe():
    with pytest.raises(InputError, match=r"no recipe 'gcn_cluster'.*cluster_gcn"):
        session.train("gcn_cluster", tiny("run"))


# Evaluation


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"model": "gcn"},
        {"model": "pna", "layer_norm": True},
        {"scaling": "standard"},
        {"setting": "inductive"},
        {"precompute": True, "norm": "row"},
        {"batches": "full"},
        {"precision": "bf16"},
        {"seed": 3},
    ],
    ids=str,
)
def test_evaluate_gives_the_very_metrics_of_the_result(change):
    result = train("run", **change)
    scored = session.evaluate(Path("run"))
    assert set(scored) == {"recipe", "data", "epoch", "val", "test"}
    assert scored["epoch"] == result["best_epoch"]
    assert (scored["val"], scored["test"]) == (result["val"], result["test"])


def test_evaluate_of_several_seeds():
    result = train("run", seeds=3, seed=9)  # 9, 10, 11: not in the order of letters
    scored = session.evaluate(Path("run"))
    assert [run["test"] for run in scored["runs"]] == [run["test"] for run in result["runs"]]
    assert scored["mean"] == result["mean"]
    assert scored["std"] == result["std"]


def test_evaluate_on_the_same_data_by_another_name():
    result = train("run")
    scored = session.evaluate(Path("run"), data=file_of("same.npz"))
    assert scored["data"] == str(Path("same.npz").resolve())
    assert scored["test"] == pytest.approx(result["test"], abs=1e-6)


def test_evaluate_on_other_data_uses_the_scaling_of_training():
    # Other training nodes: statistics fitted anew would differ, the test nodes and their scores must not.
    result = train("run", scaling="standard")
    graph = static.load("planted:200")
    fewer = graph.masks["train"].numpy() & (graph.x[:, 0].numpy() > 0)
    scored = session.evaluate(Path("run"), data=file_of("other.npz", train_mask=fewer))
    assert scored["test"] == pytest.approx(result["test"], abs=1e-6)


def test_evaluate_on_a_larger_graph_of_the_same_features():
    train("run")
    scored = session.evaluate(Path("run"), data="planted:300")
    assert scored["data"] == "planted:300"
    assert 0 <= scored["test"]["accuracy"] <= 1


@pytest.mark.parametrize("change", [{}, {"scaling": "standard"}, {"model": "gcn"}], ids=str)
def test_evaluate_on_other_features_is_refused(change):
    train("run", **change)
    wide = file_of("wide.npz", x=np.ones((200, 33), dtype=np.float32))
    with pytest.raises(InputError, match=r"(33|size mismatch).* Give data with") as caught:
        session.evaluate(Path("run"), data=wide)
    assert "\n" not in str(caught.value)


def test_evaluate_on_more_classes_is_refused():
    train("run")
    y = static.load("planted:200").y.numpy().copy()
    y[0] = 8
    with pytest.raises(InputError, match="9 classes; the model was trained on 8"):
        session.evaluate(Path("run"), data=file_of("more.npz", y=y))


def test_the_last_checkpoint_is_the_last_epoch():
    result = train("run", epochs=12, lr=1.0)
    assert result["best_epoch"] < 12
    state = checkpoint.load(Path("run/checkpoints/epoch-000012.pt"))
    config = session.stored(Path("run"))[1]
    assert nodes.scores(config, {**state, "model": state["slots"][0]["module"]}) == result["final"]


def test_data_without_features_get_degrees_and_say_so(capsys):
    from graphscale.console import Console

    data = file_of("bare.npz", x=None)
    result = session.train("cluster_gcn", tiny("run", data=data), console=Console())
    assert "note: no features in the data: 33 degree features made" in capsys.readouterr().err
    assert session.evaluate(Path("run"))["test"] == result["test"]
    assert result["parameters"] == (66 * 8 + 8) + (16 * 8 + 8) + 2 * 8


def test_several_labels_a_node():
    y = (np.random.default_rng(0).random((200, 3)) < 0.4).astype(np.float32)
    result = train("run", data=file_of("labels.npz", y=y))
    assert result["monitor"] == "f1_micro"
    assert set(result["test"]) == {"f1_micro", "f1_macro", "logloss"}
    assert session.evaluate(Path("run"))["test"] == result["test"]


def test_sparse_features_train_as_dense_ones():
    x = (np.random.default_rng(0).random((200, 10)) < 0.2).astype(np.float32)
    row, col = np.nonzero(x)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=200))])
    sparse = {"x": None, "x_indptr": indptr, "x_indices": col, "x_data": x[row, col], "x_shape": np.array([200, 10])}
    one = train("one", data=file_of("dense.npz", x=x), dropout=0.0)
    two = train("two", data=file_of("sparse.npz", **sparse), dropout=0.0)  # dropout draws by entry
    assert one["test"]["logloss"] == pytest.approx(two["test"]["logloss"], rel=1e-4)


# A run's folder that has come to harm


def test_evaluate_of_what_is_no_run():
    with pytest.raises(InputError, match="nowhere holds no run"):
        session.evaluate(Path("nowhere"))
    Path("empty").mkdir()
    with pytest.raises(InputError, match="empty holds no run"):
        session.evaluate(Path("empty"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("epochs = 3\n", "holds no run"),
        ("recipe = 'cluster_gcn'\nepochs = [", "holds no run"),
        ("recipe = 'unknown'\n", "no recipe 'unknown'"),
        ("recipe = ['cluster_gcn']\n", "no recipe"),
        ("recipe = 'cluster_gcn'\nwidth = 3\n", "sets width"),
        ("recipe = 'cluster_gcn'\nhidden = 'eight'\n", "a whole number is needed"),
    ],
)
def test_damaged_settings_of_a_run(content, words):
    train("run", epochs=1)
    Path("run/config.toml").write_text(content)
    with pytest.raises(InputError, match=words):
        session.evaluate(Path("run"))


def test_settings_that_do_not_fit_the_checkpoint():
    train("run", epochs=1)
    text = Path("run/config.toml").read_text()
    Path("run/config.toml").write_text(text.replace("hidden = 8", "hidden = 16"))
    with pytest.raises(InputError, match="checkpoint does not fit"):
        session.evaluate(Path("run"))


def test_damaged_or_missing_checkpoints():
    train("run", epochs=2, save_every=1)
    best = Path("run/checkpoints/best.pt")
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.write_bytes(content)
    with pytest.raises(InputError, match=r"best\.pt cannot be read .*damaged"):
        session.evaluate(Path("run"))
    best.write_bytes(Path("run/checkpoints/epoch-000002.pt").read_bytes())  # a checkpoint, but not a best one
    with pytest.raises(InputError, match="lacks epoch, model"):
        session.evaluate(Path("run"))
    best.unlink()
    with pytest.raises(InputError, match=r"no checkpoint .*best\.pt"):
        session.evaluate(Path("run"))


def test_configurations_are_values():
    config = tiny("run")
    session.train("cluster_gcn", config)
    assert config == tiny("run")
    assert session.stored(Path("run")) == ("cluster_gcn", replace(config, out=None))


# Real data


@pytest.mark.data
def test_cora_learns(data_dir, monkeypatch):
    monkeypatch.setenv(pyg.DATA_VARIABLE, str(data_dir))
    settings = {"model": "cluster_gcn", "norm": "sym", "concat": False, "layer_norm": False, "layers": 2, "lr": 0.05}
    config = ClusterGCNConfig(
        data="cora", scaling="row", epochs=20, num_parts=10, dropout=0.5, out=Path("run"), **settings
    )
    result = session.train("cluster_gcn", config)
    # Full training reaches about 0.8; the largest class alone gives 0.32.
    assert result["test"]["accuracy"] > 0.7
    assert session.evaluate(Path("run"))["test"] == result["test"]


@pytest.mark.data
def test_a_model_moves_from_one_country_to_another(data_dir, monkeypatch):
    monkeypatch.setenv(pyg.DATA_VARIABLE, str(data_dir))
    result = train("run", data="twitch/PTBR", epochs=2)
    scored = session.evaluate(Path("run"), data="twitch/RU")
    assert scored["data"] == "twitch/RU"
    assert set(scored["test"]) == set(result["test"]) >= {"auc", "ap"}
    with pytest.raises(InputError, match="7 classes; the model was trained on 2"):
        session.evaluate(Path("run"), data="cora")
