"""The recipe gist, from its command to its scores."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as parquet
import pytest
import torch
from forked import done
from safetensors.torch import load_file

from graphscale import InputError, checkpoint, configure, load, scratch, session
from graphscale.cli import main
from graphscale.data import static
from graphscale.data.transform import Views
from graphscale.nn.splice import last_input
from graphscale.nn.stock import Feed
from graphscale.recipes import gist
from graphscale.recipes.gist import GISTConfig
from graphscale.width import columns
from graphscale.width.plan import coverage

SETTINGS = {
    "data": "planted:400", "num_parts": 8, "parts_per_batch": 2, "hidden": 24, "layers": 3, "dropout": 0.1,
    "num_subnets": 3, "every": 2, "lr": 0.02, "epochs": 25,
}  # fmt: skip


def trained(out, **settings):
    return session.train("gist", configure("gist", **{**SETTINGS, "out": out, "overwrite": True, **settings}))


def story(out):
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(line["epoch"], line["loss"], line["scores"]) for line in lines]


@pytest.mark.parametrize(
    "settings",
    [{}, {"model": "gcn"}, {"model": "gin", "lr": 0.005}, {"model": "gat", "heads": 6, "hidden": 48},
     {"model": "gat", "cut": "channels", "heads": 2, "epochs": 50}, {"batches": "full", "epochs": 80}, {"carry": True},
     {"batches": "neighbors", "fanout": "5,5,5", "batch_size": 100}, {"batch_norm": True}],
    ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()) or "clusters",
)  # fmt: skip
def test_it_learns_and_its_checkpoint_scores_the_same(tmp_path, settings):
    result = trained(tmp_path / "run", **settings)
    assert result["test"]["accuracy"] > 0.6  # chance is 1/8
    assert session.evaluate(tmp_path / "run")["test"] == pytest.approx(result["test"])


def test_columns_score_as_the_whole(tmp_path):
    whole = trained(tmp_path / "whole", epochs=6)
    lines = [trained(tmp_path / "columns", epochs=6, evaluate="columns")]
    # Their first weights are drawn otherwise, so only what they say of one model can be compared: see width/columns.
    assert lines[0]["parameters"] == whole["parameters"]
    assert lines[0]["test"].keys() == whole["test"].keys()


@pytest.mark.parametrize(
    "settings",
    [{}, {"batch_norm": True, "setting": "inductive"}, {"model": "gcn", "carry": True, "logit_scale": "1/m"}],
    ids=["sage", "inductive, batch norm", "gcn, carried, scaled"],
)
def test_a_run_that_nobody_held_whole_is_scored_predicted_and_exported_at_its_best(tmp_path, settings, monkeypatch):
    """The best epoch's weights, though later epochs were saved: all are those of one model, which ``load`` gives."""
    run = tmp_path / "run"
    result = trained(run, **{"evaluate": "columns", "epochs": 20, "every": 3, "lr": 0.1, "keep": 1, **settings})
    assert result["best_epoch"] < 20, "the last epoch's shards alone would do"
    assert len(list(run.glob("checkpoints/epoch-*.step-*"))) == 2, "the last ones and the best"
    monkeypatch.setattr(scratch, "_IN_MEMORY", 64)  # all weights are pages of files
    monkeypatch.setattr(columns, "_TILE", 50)
    assert session.evaluate(run)["test"] == pytest.approx(result["test"])
    elsewhere = session.evaluate(run, data="planted:300")
    assert elsewhere["epoch"] == result["best_epoch"]

    assert main(["predict", str(run), "--to", str(tmp_path / "p.parquet"), "--embeddings"]) == 0
    rows = parquet.read_table(tmp_path / "p.parquet")
    graph = static.load("planted:400")
    right = torch.tensor(rows["predicted"].to_pylist()) == graph.y
    assert float(right[graph.masks["test"]].float().mean()) == pytest.approx(result["test"]["accuracy"])

    model, seen = load(run), gist.read(configure("gist", **{**SETTINGS, **settings})).whole
    with torch.no_grad(), last_input(model) as last:
        logits = Feed("edge_index", False, False)(model, seen.x, seen.adj, None)
    probability = torch.tensor(rows["probability"].to_pylist())
    torch.testing.assert_close(logits.softmax(1), probability, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(last[-1], torch.tensor(rows["embedding"].to_pylist()), rtol=1e-3, atol=1e-4)

    assert main(["export", str(run), "--to", str(tmp_path / "m.safetensors")]) == 0
    written = load_file(tmp_path / "m.safetensors")
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], value) for name, value in model.state_dict().items())


def test_shards_that_are_gone_or_of_other_features_are_an_error_in_words(tmp_path, capsys, data_dir):
    run = tmp_path / "run"
    trained(run, evaluate="columns", epochs=2)
    assert main(["evaluate", str(run), "--data", "cora"]) == 2
    assert "Give data with the features" in capsys.readouterr().err
    for folder in (run / "checkpoints").glob("epoch-*.step-*"):
        shutil.rmtree(folder)
    for command in (["evaluate"], ["predict", "--to", str(tmp_path / "p")], ["export", "--to", str(tmp_path / "m")]):
        assert main([command[0], str(run), *command[1:]]) == 2
        assert "the weights of the best epoch cannot be read" in capsys.readouterr().err
    best = run / "checkpoints" / "best.pt"
    checkpoint.save(best, {**checkpoint.load(best), "model": {}, "shards": ""})  # as earlier versions wrote it
    for command in (["evaluate"], ["predict", "--to", str(tmp_path / "p")], ["export", "--to", str(tmp_path / "m")]):
        assert main([command[0], str(run), *command[1:]]) == 2
        assert "by an earlier version, which kept no weights" in capsys.readouterr().err
    assert not (tmp_path / "m").exists() and not (tmp_path / "p").exists()


@pytest.mark.parametrize("evaluate", ["whole", "columns"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, evaluate):
    settings = {"evaluate": evaluate, "every": 3, "lr_drops": "0.5"}  # 4 steps an epoch: stopped in mid-round
    trained(tmp_path / "whole", epochs=6, **settings)
    trained(tmp_path / "cut", epochs=6, **settings, patience=None, save_steps=7)
    # Ctrl-C is heard when a round ends, so that processes need no word within.
    config = configure("gist", **{**SETTINGS, "out": tmp_path / "cut", "overwrite": True, "epochs": 6, **settings})
    _stopped_at(config, step=10)
    session.train(
        "gist", configure("gist", **{**SETTINGS, "out": tmp_path / "cut", "epochs": 6, "resume": True, **settings})
    )
    assert story(tmp_path / "cut") == story(tmp_path / "whole")


def _stopped_at(config, step):
    """Train until Ctrl-C comes after a step."""
    from graphscale import loop
    from graphscale.interrupt import Interrupted

    inner, count = loop.train_step, 0

    def counted(*given):
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(*given)

    loop.train_step = counted
    try:
        with pytest.raises(Interrupted):
            session.train("gist", config)
    finally:
        loop.train_step = inner


def test_another_number_of_processes_resumes(tmp_path):
    command = ["train", "gist", *_flags(SETTINGS), "--threads", "1"]
    done(*command, "--epochs", "4", "--nproc", "2", "--out", "cut", folder=tmp_path)
    done(*command, "--epochs", "8", "--nproc", "1", "--out", "cut", "--resume", folder=tmp_path)
    done(*command, "--epochs", "8", "--out", "whole", folder=tmp_path)
    for (_, loss, scores), (_, other, expected) in zip(story(tmp_path / "cut"), story(tmp_path / "whole"), strict=True):
        assert loss == pytest.approx(other, rel=1e-4)
        assert scores["val"]["accuracy"] == pytest.approx(expected["val"]["accuracy"], abs=0.02)


def _flags(settings):
    return [part for k, v in settings.items() if k != "epochs" for part in (f"--{k.replace('_', '-')}", str(v))]


def test_a_killed_worker_is_started_again(tmp_path):
    """Twice, the leading one and the other: the run ends as an uninterrupted one does, and says what was lost."""
    settings = {**SETTINGS, "data": "planted:4000"}
    command = ["train", "gist", *_flags(settings), "--epochs", "40", "--threads", "1"]
    done(*command, "--out", "whole", folder=tmp_path)
    program, shared = [sys.executable, "-m", "graphscale"], ["--out", "cut", "--nproc", "2", "--restarts", "2"]
    run = subprocess.Popen(
        [*program, *command, *shared], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "cut" / "metrics.jsonl"
    for number, lines in enumerate((4, 15)):
        deadline = time.monotonic() + 120
        while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= lines):
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.02)
        os.kill(_worker(run.pid, number), signal.SIGKILL)
        time.sleep(1)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    said = out + err
    assert all(f"restart {k}: a process was lost after step" in said for k in (1, 2))
    for line in said.splitlines():
        if "steps are done again" in line:
            assert int(line.split(" steps are done again")[0].split()[-1]) <= SETTINGS["every"], line
    for (_, loss, _), (_, other, _) in zip(story(tmp_path / "cut"), story(tmp_path / "whole"), strict=True):
        assert loss == pytest.approx(other, rel=1e-2)
    ends = [json.loads((tmp_path / place / "result.json").read_text()) for place in ("cut", "whole")]
    assert ends[0]["final"]["test"]["accuracy"] == pytest.approx(ends[1]["final"]["test"]["accuracy"], abs=0.02)


def _worker(launcher, number):
    """A rank of a launch: a child that trains."""
    for _ in range(200):
        found = subprocess.run(["pgrep", "-P", str(launcher), "-f", "graphscale train"], capture_output=True, text=True)
        if len(found.stdout.split()) == 2:
            return int(found.stdout.split()[number])
        time.sleep(0.05)
    raise AssertionError("the launch has no rank")


MODEL = """
import torch
from torch_geometric.nn import GCNConv, SAGEConv

class Net(torch.nn.Module):
    def __init__(self, in_dim, out_dim, dims):
        super().__init__()
        self.a, self.b = SAGEConv(in_dim, dims["wide"]), GCNConv(dims["wide"], dims["wide"])
        self.last = torch.nn.Linear(2 * dims["wide"] + dims["deep"], out_dim)
        self.c = torch.nn.Linear(dims["wide"], dims["deep"])

    def forward(self, x, edge_index):
        a = self.a(x, edge_index).relu()
        b = a + self.b(a, edge_index).relu()
        return self.last(torch.cat([a, self.c(b).relu(), b], 1))
"""


def test_a_model_of_ones_own(tmp_path, monkeypatch):
    """A residual ties two layers, jumping knowledge joins three: nothing about them is declared."""
    (tmp_path / "own_wide.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = trained(tmp_path / "run", model="own_wide:Net", dims="wide=30,deep=12", epochs=60)
    assert result["test"]["accuracy"] > 0.6
    assert session.evaluate(tmp_path / "run")["test"] == pytest.approx(result["test"])


def notes(**settings):
    config = configure("gist", **{**SETTINGS, **settings})
    views = gist.read(config)
    assert isinstance(views, Views) and isinstance(config, GISTConfig)
    return " ".join(gist.build(config, views, 0).notes)


def test_it_says_what_rounds_will_train_before_it_trains():
    said = notes(num_subnets=8, every=25)  # 100 steps: 4 rounds
    assert "4 rounds of 25 steps" in said
    assert f"rounds train {100 * coverage(8, 4):.1f} % of every hidden matrix" in said
    assert "--every 2 would train 99 %" in said
    assert coverage(8, 100 // 2) >= 0.99 > coverage(8, 100 // 3)
    assert "random start" not in notes(every=2, num_subnets=2)
    assert "of every hidden matrix" not in notes(layers=2)  # one hidden layer: each round trains it all
    assert "at least 35 steps (more --epochs or batches)" in notes(num_subnets=8, every=1, epochs=1)


def test_divided_logits_are_calibrated_and_rank_the_same(tmp_path):
    plain = trained(tmp_path / "plain", epochs=12)
    divided = trained(tmp_path / "divided", epochs=12, logit_scale="1/m")
    assert divided["final"]["test"]["accuracy"] == plain["final"]["test"]["accuracy"]
    assert divided["final"]["test"]["logloss"] != plain["final"]["test"]["logloss"]
    assert session.evaluate(tmp_path / "divided")["test"] == pytest.approx(divided["test"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_subnets": 30}, "h1 has 24 units, which 30 sub-networks cannot share"),
        ({"model": "pna"}, "no stack 'pna' whose widths can be cut"),
        ({"layers": 1}, "one layer has no hidden dimension to cut"),
        ({"model": "gat", "hidden": 20, "heads": 8}, "not a multiple of 8 heads"),
        ({"dims": "a=3"}, "only those: give both or neither"),
        ({"model": "own:Net"}, "give both or neither"),
        ({"model": "own:Net", "dims": "a=x"}, "'a=x' is no name=width"),
        ({"lr_drops": "0.5,2"}, "give different shares of the training between 0 and 1"),
        ({"lr_drops": "half"}, "give different shares of the training between 0 and 1"),
        ({"local_sgd": True}, "give --num-subnets 1"),
        ({"local_sgd": True, "evaluate": "columns"}, "score it whole"),
        ({"model": "gat", "evaluate": "columns", "heads": 6}, "cannot be scored by columns"),
        ({"nproc": 3, "replicas": 2}, "cannot be parted into groups of --replicas 2"),
        ({"batches": "full", "replicas": 2}, "one batch an epoch"),
        ({"every": 0}, "--every 0: it must be above 0"),
        ({"precompute": True}, "--precompute"),
    ],
)
def test_what_cannot_be_is_refused_before_training(tmp_path, settings, words):
    with pytest.raises(InputError, match=words):
        trained(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_gas_with_subnetworks_is_refused_with_its_reason(capsys):
    with pytest.raises(InputError, match="a history holds the columns of one sub-network"):
        configure("gas", data="planted:300", num_subnets=4)
    assert main(["train", "gas", "--data", "planted:300", "--num-subnets", "4"]) == 2
    assert "a history holds the columns of one sub-network" in capsys.readouterr().err


def test_a_run_that_was_never_scored_is_scored_when_it_ends_where_it_stood(tmp_path):
    for evaluate in ("whole", "columns"):
        place, settings = tmp_path / evaluate, {"evaluate": evaluate, "epochs": 30, "eval_every": 20}
        _stopped_at(configure("gist", **{**SETTINGS, **settings, "out": place}), step=28)  # 4 steps an epoch
        again = configure("gist", **{**SETTINGS, **settings, "out": place, "epochs": 7, "resume": True})
        assert session.train("gist", again)["test"]["accuracy"] > 0.25  # the random start has 1/8


def test_epochs_of_a_run_with_drops_stay(tmp_path):
    trained(tmp_path / "run", epochs=4, lr_drops="0.5")
    again = {**SETTINGS, "out": tmp_path / "run", "resume": True, "lr_drops": "0.5"}
    with pytest.raises(InputError, match="was started with epochs = 4"):
        session.train("gist", configure("gist", **{**again, "epochs": 8}))


def test_coverage_is_in_the_result(tmp_path):
    result = trained(tmp_path / "run", epochs=2)  # 8 steps, 4 rounds
    assert result["measures"] == {"round": 4.0, "coverage": coverage(3, 4)}


def test_an_error_under_restarts_is_said_once(tmp_path):
    command = [sys.executable, "-m", "graphscale", "train", "gist", *_flags({**SETTINGS, "lr": 1e30}), "--epochs", "9"]
    done = subprocess.run(
        [*command, "--nproc", "2", "--restarts", "3", "--out", "run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("training diverged") == 1, done.stderr


def test_ranks_that_deal_otherwise_are_found(monkeypatch):
    from graphscale.world import World

    config = configure("gist", **SETTINGS)
    run = gist.build(config, gist.read(config), 0)
    monkeypatch.setattr(World, "totals", lambda self, *numbers: tuple(n + 1 for n in numbers))
    with pytest.raises(InputError, match="ranks hold different plans"):
        run.sync._agree()
    assert torch.is_grad_enabled()
