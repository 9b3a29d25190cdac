"""Searches: most with a trainer that only pretends, a few with a real one on a tiny graph."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sqlalchemy import Engine, event
from stopping import After

import graphscale
from graphscale import folder, search_space, session, tuning
from graphscale.__main__ import main
from graphscale.config import plain
from graphscale.errors import DivergenceError, InputError
from graphscale.folder import Lock
from graphscale.interrupt import Interrupted
from graphscale.loop import Record
from graphscale.recipes.cluster_gcn import ClusterGCNConfig
from graphscale.study import COMPLETE, Study, Taken

SPACE = {"lr": "1e-4..1e-1:log", "hidden": "8,16,32", "dropout": "0..0.6:0.2"}
TINY = ClusterGCNConfig(
    data="planted:200", num_parts=4, hidden=8, layers=2, epochs=3, threads=1, seed=5, device="cpu", out=Path("search")
)


class Trainer:
    """Stands in for ``session.train``: a run's folder with made-up scores, the test's against validation's.

    ``does`` is called with every configuration, and may raise or give the validation's scores.
    """

    def __init__(self, monkeypatch, does=lambda config: {}):
        self.configs, self.does = [], does
        monkeypatch.setattr(tuning.session, "train", self)

    def __call__(self, recipe, config, *, watch=None):
        self.configs.append(config)
        config.out.mkdir(parents=True, exist_ok=config.resume)
        folder.write_config(config.out / "config.toml", recipe, {**plain(config), "nproc": 1})
        accuracy = 1 / (1 + abs(config.lr - 0.01)) - config.hidden / 1000 - config.dropout / 10
        val = {"accuracy": accuracy, "logloss": config.lr, **(self.does(config) or {})}
        result = {"monitor": config.monitor or "accuracy", "val": val, "best_epoch": 1}
        # Only the file has the test's scores: whoever looks for them in the result fails.
        folder.write_result(config.out / "result.json", {**result, "test": {"accuracy": 1 - accuracy, "logloss": 1.0}})
        return result


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, in which nobody waits for the disk: no test pulls the plug."""

    def hastily(connection, record):
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    event.listen(Engine, "connect", hastily)
    yield
    event.remove(Engine, "connect", hastily)


@pytest.fixture
def trainer(monkeypatch):
    return Trainer(monkeypatch)


def tune(out="search", space=SPACE, *, sampler="random", trials=5, config=TINY, **how):
    return tuning.tune("cluster_gcn", replace(config, out=Path(out)), space, sampler=sampler, trials=trials, **how)


def rows(result):
    """What must be equal between two searches: all but seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result["trials"]]


# The search


def test_a_search_makes_its_trials_and_keeps_the_best(trainer):
    result = tune(trials=6)
    assert len(trainer.configs) == 6
    for number, config in enumerate(trainer.configs):
        assert config.out == Path(f"search/trial-{number:04d}")
        drawn = {name: getattr(config, name) for name in SPACE}
        assert result["trials"][number]["params"] == drawn
        assert config == replace(TINY, **drawn, out=config.out)  # nothing else is changed
        assert config.hidden in (8, 16, 32) and 1e-4 <= config.lr <= 1e-1
        assert any(config.dropout == pytest.approx(v) for v in (0, 0.2, 0.4, 0.6))
    assert len({config.lr for config in trainer.configs}) == 6
    scores = [row["score"] for row in result["trials"]]
    best = scores.index(max(scores))
    assert result["best"]["trial"] == best
    assert result["best"]["score"] == scores[best]
    assert result["budget"] == {"trials": 6, "seconds": None}
    assert result["spent"].items() >= {"trials": 6, "complete": 6, "failed": 0, "pruned": 0, "running": 0}.items()
    assert json.loads(Path("search/result.json").read_text())["trials"] == result["trials"]


def test_the_same_seed_draws_the_same_and_another_one_does_not(trainer):
    one, two, other = tune("one"), tune("two"), tune("other", config=replace(TINY, seed=6))
    assert rows(one) == rows(two)
    assert not {row["params"]["lr"] for row in one["trials"]} & {row["params"]["lr"] for row in other["trials"]}


def test_a_random_draw_does_not_depend_on_what_else_is_searched(trainer):
    alone = tune("alone", {"lr": SPACE["lr"]})
    beside = tune("beside")
    assert [row["params"]["lr"] for row in alone["trials"]] == [row["params"]["lr"] for row in beside["trials"]]


def test_tpe_comes_nearer_than_chance(trainer):
    def mean_of_last(sampler):
        result = tune(sampler, {"lr": "1e-4..1:log"}, sampler=sampler, trials=25)
        return sum(row["score"] for row in result["trials"][-10:]) / 10

    assert mean_of_last("tpe") > mean_of_last("random")


def test_the_test_decides_nothing_and_is_told_of_the_chosen_trial_alone(trainer, capsys):
    first = tune("kept")
    # The best by validation is the worst by test, here.
    scores = [row["score"] for row in first["trials"]]
    assert first["best"]["score"] == max(scores)
    assert first["best"]["test"]["accuracy"] == pytest.approx(1 - max(scores))
    assert b'"test"' not in Path("kept/study.db").read_bytes()
    told = json.dumps({k: v for k, v in first.items() if k != "best"})
    assert '"test"' not in told
    # All other trials' test scores may be missing.
    for place in Path("kept").glob("trial-*"):
        if place.name != first["best"]["folder"]:
            (place / "result.json").unlink()
    assert tune("kept")["best"] == first["best"]


def test_screens_show_the_chosen_trial_s_test_alone(trainer, capsys):
    from graphscale.console import Console

    result = tune(console=Console())
    err = capsys.readouterr().err
    shown = [f"{100 * (1 - row['score']):.2f} %" in err for row in result["trials"]]
    assert shown == [row["trial"] == result["best"]["trial"] for row in result["trials"]]
    for row in result["trials"]:
        assert f"{100 * row['score']:.2f} %" in err


@pytest.mark.parametrize(
    ("scores", "monitor", "best"),
    [
        ([{"accuracy": 0.5}, {"accuracy": 0.75}, {"accuracy": 0.5}], None, 1),
        ([{"logloss": 0.5}, {"logloss": 0.75}, {"logloss": 0.25}], "logloss", 2),  # lower is better
        ([{"accuracy": 0.5, "logloss": x} for x in (0.5, 0.25, 0.75)], None, 1),  # equal: the log loss decides
        ([{"accuracy": 0.5, "logloss": 0.5}] * 3, None, 0),  # all equal: the earliest
        ([{"accuracy": 0.5}, {"accuracy": float("nan")}, {"accuracy": 0.25}], None, 0),
    ],
)
def test_which_trial_is_chosen(monkeypatch, scores, monitor, best):
    left = iter(scores)
    Trainer(monkeypatch, lambda config: next(left))
    result = tune(trials=3, config=replace(TINY, monitor=monitor))
    assert result["best"]["trial"] == best
    assert result["best"]["score"] == scores[best][monitor or "accuracy"]  # as it is told to people, without a sign


def test_trials_that_fail_or_are_refused_are_told_and_the_search_goes_on(monkeypatch):
    def does(config):
        if config.hidden == 8:
            raise DivergenceError("training diverged in epoch 2: its loss is nan")
        if config.hidden == 16:
            raise InputError(f"--hidden {config.hidden} cannot be had with this data. Choose another.")
        if config.dropout == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")

    Trainer(monkeypatch, does)
    result = tune(trials=12)
    states = {}
    for row in result["trials"]:
        hidden = row["params"]["hidden"]
        why = {8: "failed", 16: "pruned", 32: "failed" if row["params"]["dropout"] == 0 else "complete"}[hidden]
        assert row["state"] == why
        assert (row["score"] is None) == (why != "complete")
        words = {8: "diverged in epoch 2", 16: "--hidden 16 cannot be had", 32: "out of memory"}[hidden]
        assert why == "complete" or words in row["reason"]
        states[why] = states.get(why, 0) + 1
    assert set(states) == {"failed", "pruned", "complete"}
    assert {k: result["spent"][k] for k in states} == states
    assert result["trials"][result["best"]["trial"]]["state"] == "complete"


def test_a_combination_that_the_configuration_refuses_is_pruned(trainer):
    space = {"model": "cluster_gcn,gcn", "residual": "true,false"}
    result = tune(space=space, trials=12)
    refused = [row for row in result["trials"] if row["state"] == "pruned"]
    assert refused
    assert all(row["params"] == {"model": "gcn", "residual": True} for row in refused)
    assert all("--precompute and --residual belong" in row["reason"] for row in refused)
    assert len(trainer.configs) == 12 - len(refused)  # they were never trained


def test_what_refuses_every_trial_alike_ends_the_search(monkeypatch):
    def does(config):
        raise InputError("there is no data. Bring some.")

    trainer = Trainer(monkeypatch, does)
    with pytest.raises(InputError, match=r"there is no data. Bring some. \(All 10 trials were refused so.\)"):
        tune(trials=100)
    assert len(trainer.configs) == 10


def test_a_search_without_a_score_says_why(monkeypatch):
    def does(config):
        raise DivergenceError("training diverged.")

    Trainer(monkeypatch, does)
    with pytest.raises(InputError, match=r"no trial of 3 gave a score. 3 of them: training diverged."):
        tune(trials=3)
    assert not Path("search/best.toml").exists()


def test_seconds_are_a_budget(trainer):
    result = tune(seconds=1e-9)
    assert result["spent"]["trials"] == 1  # what was begun is ended
    assert result["budget"] == {"trials": 5, "seconds": 1e-9}
    assert rows(tune()) == rows(tune("whole"))


def test_seeds_per_trial_score_by_their_mean(trainer, monkeypatch):
    def train(recipe, config, *, watch=None):
        assert (config.seed, config.seeds) == (5, 3)
        alone = {"monitor": "accuracy", "val": {"accuracy": 0.9}}
        return {**alone, "mean": {"val": {"accuracy": config.lr, "logloss": 1.0}}}

    monkeypatch.setattr(tuning.session, "train", train)
    result = tune(trials=3, seeds_per_trial=3)
    assert [row["score"] for row in result["trials"]] == [row["params"]["lr"] for row in result["trials"]]
    assert "seeds = 3" in Path("search/best.toml").read_text()


# Going on


def stopped_at(k, error=KeyboardInterrupt):
    seen = []

    def does(config):
        seen.append(config)
        if len(seen) == k:
            raise error

    return does


@pytest.mark.parametrize(("sampler", "trials", "k"), [("random", 4, 1), ("random", 5, 4), ("tpe", 13, 12)])
def test_resumed_equals_uninterrupted(monkeypatch, sampler, trials, k):
    Trainer(monkeypatch)
    whole = tune("whole", sampler=sampler, trials=trials)
    first = Trainer(monkeypatch, stopped_at(k))
    with pytest.raises(Interrupted, match="Go on with: graphscale tune cluster_gcn --resume --out parts"):
        tune("parts", sampler=sampler, trials=trials)
    second = Trainer(monkeypatch)
    parts = tune("parts", sampler=sampler, trials=trials)
    assert rows(parts) == rows(whole)
    # No finished trial is made again, and the stopped one goes on from its checkpoint.
    assert [c.out.name for c in first.configs + second.configs[1:]] == [f"trial-{n:04d}" for n in range(trials)]
    assert second.configs[0] == replace(first.configs[-1], resume=True)
    assert not any(c.resume for c in first.configs + second.configs[1:])


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_trial_that_was_stopped_while_it_was_drawn_goes_on(trainer, monkeypatch, sampler):
    whole = tune("whole", sampler=sampler)
    left, suggest = [7], search_space.Range.suggest  # two ranges a trial: the first of the fourth trial

    def stops(self, trial, name):
        value = suggest(self, trial, name)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return value

    with monkeypatch.context() as patch:
        patch.setattr(search_space.Range, "suggest", stops)
        with pytest.raises(Interrupted):
            tune("parts", sampler=sampler)
    assert len(list(Path("parts").glob("trial-*"))) == 3
    assert rows(tune("parts", sampler=sampler)) == rows(whole)


def test_more_trials_are_those_of_a_longer_search(trainer):
    tune("parts", trials=3)
    assert rows(tune("parts", trials=7)) == rows(tune("whole", trials=7))
    assert len(tune("parts", trials=2)["trials"]) == 7  # nothing is left to make
    assert len(trainer.configs) == 14


def test_processes_share_the_trials(monkeypatch):
    # Threads stand for them: each opens the database and its locks for itself.
    meet = threading.Barrier(2, timeout=60)
    began = []

    def does(config):
        began.append(config.out.name)
        if config.out.name in ("trial-0000", "trial-0001"):
            meet.wait()  # both work at the same time, or this fails

    Trainer(monkeypatch, does)
    results = []
    workers = [threading.Thread(target=lambda: results.append(tune(trials=5))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(began) == [f"trial-{n:04d}" for n in range(5)]  # each once
    last = json.loads(Path("search/result.json").read_text())
    assert last["spent"]["complete"] == 5
    Trainer(monkeypatch)
    assert rows(last) == rows(tune("alone", trials=5))


def test_a_trial_that_another_process_ends_meanwhile_was_not_lost(monkeypatch):
    Trainer(monkeypatch, stopped_at(1))
    with pytest.raises(Interrupted):
        tune(trials=2)
    held = Study._held

    def late(self, number):
        if number == 0:  # after the trials were read, before this one's lock is tried
            ended = Taken(self._lost(0), Lock(), again=False)
            self.tell(ended, COMPLETE, 0.5, monitor="accuracy", val={"accuracy": 0.5}, seconds=1.0)
        return held(self, number)

    monkeypatch.setattr(Study, "_held", late)
    trainer = Trainer(monkeypatch)
    result = tune(trials=2)
    assert [config.out.name for config in trainer.configs] == ["trial-0001"]
    assert result["trials"][0]["score"] == 0.5


CHANGES = {
    "lr": ({"config": replace(TINY, lr=0.5)}, "lr = 0.01"),
    "epochs": ({"config": replace(TINY, epochs=4)}, "epochs = 3"),
    "a setting that was not set": ({"config": replace(TINY, clip=1.0)}, "clip = None"),
    "seed": ({"config": replace(TINY, seed=0)}, "seed = 5"),
    "the space": ({"space": {**SPACE, "hidden": "8,16"}}, "search.hidden = 8,16,32"),
    "less space": ({"space": {"lr": SPACE["lr"]}}, "search.dropout = 0.0..0.6:0.2, search.hidden = 8,16,32"),
    "the sampler": ({"sampler": "tpe"}, "study.sampler = random"),
    "seeds": ({"seeds_per_trial": 2}, "study.seeds_per_trial = 1"),
}


def test_a_search_goes_on_as_it_began(trainer):
    tune(trials=1)
    for change, was in CHANGES.values():
        with pytest.raises(InputError, match="it must go on as it began") as refusal:
            tune(**change)
        assert f"search holds a search with {was};" in str(refusal.value)
    assert len(trainer.configs) == 1


def test_what_decides_no_score_may_change(trainer):
    tune(trials=1)
    changed = replace(TINY, threads=2, save_every=3, prefetch=0)
    same = {"dropout": "0.0..0.6:0.2", "lr": "0.0001..0.1:log", "hidden": [8, 16, 32]}  # in other words
    assert len(tune(trials=2, config=changed, space=same, seconds=1000)["trials"]) == 2


REFUSED = {
    "nproc": ({"nproc": 2}, "every trial of a search trains in one process"),
    "restarts": ({"restarts": 1}, "every trial of a search trains in one process"),
    "seeds": ({"seeds": 3}, "Give --seeds-per-trial 3 instead"),
    "overwrite": ({"overwrite": True}, "Delete it, or give another --out"),
    "resume": ({"resume": True}, "search holds no search to resume"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_belongs_to_one_run_is_refused(trainer, change, words):
    with pytest.raises(InputError, match=words):
        tune(config=replace(TINY, **change))
    assert not Path("search").exists()
    assert trainer.configs == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"trials": 0}, "--trials 0: it must be above 0"),
        ({"trials": 2.5}, "sets trials = 2.5; a whole number"),
        ({"seconds": 0.0}, "--seconds 0.0: it must be above 0"),
        ({"seconds": float("inf")}, "--seconds inf: it must be finite"),
        ({"sampler": "grid"}, "sets sampler = 'grid'; 'tpe' or 'random'"),
        ({"trails": 3}, "tune sets trails, which StudyConfig does not have"),
    ],
)
def test_how_a_search_is_made_is_checked(trainer, how, words):
    with pytest.raises(InputError, match=words):
        tune(**how)
    assert not Path("search").exists()


def test_other_people_s_folders_are_left_alone(trainer):
    Path("search").mkdir()
    Path("search/thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="search is in use by something else"):
        tune()
    tune("good", trials=1)
    Path("good/trial-0001").mkdir()
    Path("good/trial-0001/thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="trial-0001 is in use"):
        tune("good", trials=2)
    assert [path.name for path in Path("search").iterdir()] == ["thesis.tex"]
    Path("good/study.toml").write_text("recipe = = 3")
    with pytest.raises(InputError, match=r"study.toml cannot be used"):
        tune("good")
    with pytest.raises(InputError, match=r"cannot be made .* Give another --out"):
        tune("search/thesis.tex/deeper")


def test_a_database_that_cannot_be_used_is_said(trainer):
    tune(trials=1)
    Path("search/study.db").write_bytes(b"no database at all, and longer than a header of SQLite is" * 99)
    with pytest.raises(InputError, match=r"study.db cannot be opened"):
        tune(trials=2)
    with pytest.raises(InputError, match=r"nosuch://x cannot be opened"):
        tune("elsewhere", storage="nosuch://x")


def test_a_database_of_one_s_own(trainer):
    url = "sqlite:///all.db"
    one = tune("one/study", storage=url, trials=2)
    assert not Path("one/study/study.db").exists()
    assert len(tune("one/study", storage=url, trials=3)["trials"]) == 3
    with pytest.raises(InputError, match="holds a search called study. Give an --out with another name"):
        tune("two/study", storage=url, trials=2)
    assert rows(tune("three", storage=url, trials=2)) == rows(one)


# Pruning


def test_a_trial_below_the_median_ends_early(monkeypatch):
    ended = []

    def train(recipe, config, *, watch):
        level = 0.1 if "0006" in config.out.name else 0.5
        for epoch in range(1, 9):
            val = {"accuracy": level + epoch / 100}
            watch(SimpleNamespace(monitor="accuracy"), config.seed, Record(epoch, 0.0, 0.0, {"val": val}))
            watch(
                SimpleNamespace(monitor="accuracy"), config.seed + 1, Record(epoch, 0.0, 0.0, {"val": {"accuracy": 0}})
            )
            watch(SimpleNamespace(monitor="accuracy"), config.seed, Record(epoch, 0.0, 0.0, None))  # was not scored
        ended.append(config.out.name)
        return {"monitor": "accuracy", "val": val}

    monkeypatch.setattr(tuning.session, "train", train)
    result = tune(config=replace(TINY, epochs=8), prune=True, trials=8)
    (row,) = [row for row in result["trials"] if row["state"] == "pruned"]
    assert row["trial"] == 6
    assert row["reason"] == "below the median of other trials at epoch 3"  # the first quarter is left alone
    assert len(ended) == 7


def test_a_real_run_can_be_watched_and_ended():
    seen = []

    def watch(run, seed, record):
        seen.append((run.monitor, seed, record.epoch))
        if seed == 6 and record.epoch == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        session.train("cluster_gcn", replace(TINY, seeds=2, out=Path("run")), watch=watch)
    assert seen == [("accuracy", seed, epoch) for seed, epoch in ((5, 1), (5, 2), (5, 3), (6, 1), (6, 2))]
    assert len(Path("run/seed-6/metrics.jsonl").read_text().splitlines()) == 2  # what was trained is written


# With real training


def test_the_best_configuration_trains_to_the_chosen_trial_s_scores():
    result = tune(trials=3, seeds_per_trial=2)
    assert main(["train", "cluster_gcn", "--config", "search/best.toml", "--out", "again"]) == 0
    again = json.loads(Path("again/result.json").read_text())
    assert again["mean"] == result["best"]["mean"]
    assert again["std"] == result["best"]["std"]
    assert again["mean"]["val"]["accuracy"] == result["best"]["score"]
    # Every trial is an ordinary run.
    assert main(["evaluate", "search/trial-0001"]) == 0
    assert session.evaluate("search/trial-0001")["mean"]["val"]["accuracy"] == result["trials"][1]["score"]


@pytest.mark.parametrize("step", [3, 18])  # inside the first trial of 12 steps, inside the second
def test_a_stopped_trial_goes_on_inside_an_epoch(monkeypatch, step):
    whole = tune("whole", trials=2)
    with monkeypatch.context() as patch:
        After(step, patch)
        with pytest.raises(Interrupted, match="graphscale tune cluster_gcn --resume --out parts"):
            tune("parts", trials=2)
    assert list(Path("parts").glob(f"trial-{step // 12:04d}/checkpoints/epoch-*.pt"))
    assert rows(tune("parts", trials=2)) == rows(whole)


def test_a_killed_search_goes_on(capsys):
    program = """
        import os
        import signal
        import torch

        steps = []

        class Model(torch.nn.Linear):
            def forward(self, x, edge_index):
                if self.training:
                    steps.append(1)
                    if len(steps) == 20 and not os.path.exists("killed"):
                        open("killed", "w").close()
                        os.kill(os.getpid(), signal.SIGKILL)
                return super().forward(x)
    """
    Path("mortal.py").write_text(textwrap.dedent(program))
    flags = ["--data", "planted:200", "--num-parts", "4", "--epochs", "3", "--threads", "1", "--model", "mortal:Model"]
    argv = ["tune", "cluster_gcn", *flags, "--search", "lr=1e-3..1:log", "--trials", "3", "--sampler", "random"]
    start = [sys.executable, "-m", "graphscale", *argv]
    environment = {**os.environ, "PYTHONPATH": f"{Path(graphscale.__file__).parents[1]}:{Path.cwd()}"}
    killed = subprocess.run([*start, "--out", "parts"], env=environment, capture_output=True, text=True, timeout=200)
    assert killed.returncode == -9, killed.stderr
    sys.path.insert(0, str(Path.cwd()))
    try:
        assert main([*argv, "--out", "whole"]) == 0
        capsys.readouterr()
        assert main(["tune", "cluster_gcn", "--resume", "--out", "parts", "--json"]) == 0
    finally:
        sys.path.remove(str(Path.cwd()))
    out, err = capsys.readouterr()
    assert "(begun before, goes on)" in err
    parts, whole = json.loads(out), json.loads(Path("whole/result.json").read_text())
    assert rows(parts) == rows(whole)
    assert parts["spent"]["complete"] == 3


# The command line


def told(argv, capsys):
    code = main(["tune", "cluster_gcn", *map(str, argv)])
    return code, *capsys.readouterr()


def test_flags_files_and_their_order(trainer, capsys):
    Path("mine.toml").write_text(
        'data = "planted:200"\nepochs = 7\n[search]\nlr = "1e-3..1e-1:log"\nnum-parts = [3, 4]\n[study]\ntrials = 2\n'
    )
    code, out, err = told(["--config", "mine.toml", "--out", "a", "--json", "--search", "num-parts=5,6"], capsys)
    assert code == 0, err
    result = json.loads(out)
    assert out.count("\n") == 1
    assert result["search"] == {"lr": "0.001..0.1:log", "num_parts": "5,6"}  # flags win, a setting each
    assert result["budget"]["trials"] == 2
    assert trainer.configs[0].epochs == 7
    # What was written down says the same, as --config and as --resume.
    code, out, _ = told(["--config", "a/study.toml", "--out", "b", "--json"], capsys)
    assert rows(json.loads(out)) == rows(result)
    code, out, _ = told(["--resume", "--out", "a", "--trials", "3", "--json"], capsys)
    assert [row["params"] for row in json.loads(out)["trials"][:2]] == [row["params"] for row in result["trials"]]
    assert len(trainer.configs) == 5


def test_the_usual_space_and_the_preset_are_said(trainer, capsys):
    code, _, err = told(["--data", "digits", "--trials", "1", "--out", "a"], capsys)
    assert code == 0
    assert "preset digits" in err
    assert "search in a: tpe over dropout = 0.0..0.6:0.1, hidden = 64,128,256, lr = 0.001..0.03:log" in err
    assert "graphscale train cluster_gcn --config a/best.toml" in err
    assert trainer.configs[0].num_parts == 20  # the preset's


BAD = {
    "no search to resume": (["--resume"], "--resume: there is no search to go on with"),
    "nor here": (["--resume", "--out", "nothing"], "--resume: there is no search to go on with"),
    "a file for a resumed one": (["--resume", "--out", "x", "--config", "y"], "Leave --config out"),
    "unknown setting": (["--search", "learning-rate=1,2"], "sets learning_rate, which ClusterGCNConfig does not have"),
    "refused value": (["--search", "lr=0..1"], "draws lr = 0.0, which is refused: --lr 0.0: it must be above 0"),
    "empty range": (["--search", "lr=1..0.1"], "the range is empty"),
    "no trials": (["--trials", "0"], "--trials 0: it must be above 0"),
    "sampler": (["--sampler", "grid"], "grid"),
    "bad file": (["--config", "bad.toml"], "[study] of --config bad.toml sets trials = 'many'; a whole number"),
}


@pytest.mark.parametrize(("argv", "words"), BAD.values(), ids=BAD)
def test_wrong_usage_is_2_and_one_line(trainer, capsys, argv, words):
    Path("bad.toml").write_text('[study]\ntrials = "many"\n')
    code, out, err = told([*argv, "--preset", "none"], capsys)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert not trainer.configs


def test_a_search_s_file_is_not_taken_for_a_run_s(trainer, capsys):
    told(["--data", "planted:200", "--trials", "1", "--out", "a"], capsys)
    assert main(["train", "cluster_gcn", "--config", "a/study.toml"]) == 2
    assert "has a table [search], which is for graphscale tune cluster_gcn" in capsys.readouterr().err
    assert main(["show", "cluster_gcn", "--config", "a/best.toml"]) == 0


def test_recipes_come_first(capsys):
    assert main(["tune"]) == 2
    assert "tune needs a recipe before all flags" in capsys.readouterr().err
    assert graphscale.tune is tuning.tune
