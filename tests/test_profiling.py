"""What ``--profile`` writes, and that it changes nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from graphscale import profiling, session
from graphscale.config import TrainConfig
from graphscale.console import Console
from graphscale.data import static
from graphscale.loop import Log
from graphscale.profile import rates
from graphscale.profile.clock import STAGES
from graphscale.recipes.cluster_gcn import ClusterGCNConfig

TINY = ClusterGCNConfig(data="planted:300", num_parts=8, hidden=8, layers=2, epochs=4)


@pytest.fixture(autouse=True)
def _quick_in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rates, "_NUMBERS", 1 << 10)
    monkeypatch.setattr(rates, "_SECONDS", 0.0)


def trained(out: str, console: Console | None = None, **change):
    session.train("cluster_gcn", replace(TINY, out=Path(out), profile=True, **change), console=console)
    return json.loads(Path(out, "profile/report.json").read_text())


def story(out: str):
    """Losses, scores and every number of the last checkpoint."""
    lines = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    (last,) = sorted(Path(out, "checkpoints").glob("epoch-*.pt"))
    state = torch.load(last, weights_only=True)
    moments = state["slots"][0]["optimiser"]["state"]
    tensors = [*state["slots"][0]["module"].values(), *(v for one in moments.values() for v in one.values())]
    return [(line["epoch"], line["loss"], line["scores"]) for line in lines], tensors


def spans(out: str) -> list[dict]:
    """The stages in a trace."""
    events = json.loads(Path(out, "profile/trace.json").read_text())["traceEvents"]
    return [e for e in events if e.get("ph") == "X" and e["name"] in (*STAGES, "sample")]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"batches": "full", "dropout": 0.5},
        {"batches": "neighbors", "fanout": "3,3", "batch_size": 32},
        {"model": "gat", "heads": 2},
        {"model": "pna", "accelerate": False},
        {"model": "gin", "precision": "bf16"},
        {"precision": "bf16", "prefetch": 0},
    ],
    ids=str,
)
def test_a_profile_changes_no_result_and_holds_every_stage(change):
    session.train("cluster_gcn", replace(TINY, out=Path("without"), **change))
    assert not Path("without/profile").exists()
    made = trained("with", **change)
    (told, numbers), (expected, same) = story("with"), story("without")
    assert told == expected
    assert len(numbers) == len(same)
    assert all(torch.equal(a, b) for a, b in zip(numbers, same, strict=True))
    assert Path("with/config.toml").read_text() == Path("without/config.toml").read_text()
    assert sorted(path.name for path in Path("with/profile").iterdir()) == ["report.json", "report.md", "trace.json"]
    assert {span["name"] for span in spans("with")} == {*STAGES, "sample"}
    assert made["window"]["work"]["forward"]["flops"] > 0
    aggregated = change.get("accelerate", True)  # PyG's own layers are not seen by the meter
    assert (made["window"]["work"]["forward"]["bytes"] > 0) == aggregated
    assert ("its bytes are not known" in Path("with/profile/report.md").read_text()) != aggregated


def test_seconds_are_those_of_the_log():
    made = trained("run", eval_every=2)
    logged = [json.loads(line)["seconds"] for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["seconds"] for line in made["epochs"]] == pytest.approx(logged)
    assert [line["steps"] for line in made["epochs"]] == [8, 8, 8, 8]
    assert made["total"]["steps"] == 32
    for line in (*made["epochs"], made["total"]):
        assert line["stages"].keys() == {*STAGES, "rest"}
        assert sum(line["stages"].values()) == pytest.approx(line["seconds"])
        assert line["stages"]["rest"] > 0
    assert [line["evaluate"] > 0 for line in made["epochs"]] == [False, True, False, True]
    assert [line["checkpoint"] > 0 for line in made["epochs"]] == [False, False, False, True]
    assert (made["mean"]["of"], made["mean"]["steps"]) == ("timed", 32 - 12)
    assert (made["window"]["traced"], made["window"]["counted"]) == ([3, 5], [6, 12])


def test_the_work_of_the_house_s_model_by_hand():
    made = trained("run", batches="full", epochs=30)
    graph = static.load("planted:300")
    n, e, size = 300, graph.adj.num_entries, 4
    # Two layers of [A'X || X] W, 32 -> 8 and 8 -> 8 classes; to x there is no gradient.
    first, second = 2 * n * 64 * 8, 2 * n * 16 * 8
    indices = size * (n + 1 + e)
    work = made["window"]["work"]
    assert work["forward"]["flops"] == first + second
    assert work["backward"]["flops"] == first + 2 * second
    assert work["forward"]["bytes"] == 2 * indices + size * (e + n) * (32 + 8)
    assert work["backward"]["bytes"] == indices + size * (e + n) * 8
    assert work["forward"]["least_bytes"] == 2 * indices + size * 2 * n * (32 + 8)
    machine, window = made["machine"], made["window"]
    floor = sum(w["bytes"] for w in work.values()) / machine["bytes_per_second"]
    floor += sum(w["flops"] for w in work.values()) / machine["flops_per_second"]
    assert window["floor_seconds"] == pytest.approx(floor)
    assert window["measured_seconds"] == pytest.approx(sum(made["mean"]["stages"][s] for s in ("forward", "backward")))
    assert window["share"] == pytest.approx(floor / window["measured_seconds"])


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_short_run_has_all_three_files(steps):
    made = trained("run", batches="full", epochs=steps)
    assert made["total"]["steps"] == steps
    assert made["window"]["counted_steps"] >= 1
    assert made["mean"]["of"] == ("window" if steps == 1 else "warm-up" if steps <= 3 else "timed")
    assert {span["name"] for span in spans("run")} == {*STAGES, "sample"}
    assert f"- {steps} steps in {steps} epochs" in Path("run/profile/report.md").read_text()


def test_the_profile_of_a_continuation():
    trained("run")
    made = trained("run", epochs=6, resume=True)
    assert [line["epoch"] for line in made["epochs"]] == [5, 6]
    assert (made["total"]["steps"], made["begins_after_step"]) == (16, 32)
    assert (made["window"]["traced"], made["window"]["counted"]) == ([3, 4], [5, 9])


def test_nothing_left_to_train_is_nothing_to_report(capsys):
    trained("run")
    session.train("cluster_gcn", replace(TINY, out=Path("run"), profile=True, resume=True), console=Console())
    assert "no step was left to train" in capsys.readouterr().err
    assert not list(Path("run/profile").iterdir())  # what the first part took is not this part's


def test_a_run_that_is_stopped_has_a_profile(monkeypatch):
    from graphscale.errors import DivergenceError

    with pytest.raises(DivergenceError):
        trained("run", lr=1e30, epochs=50)
    made = json.loads(Path("run/profile/report.json").read_text())
    assert 0 < made["total"]["steps"] < 50 * 8


def test_every_seed_has_its_own():
    session.train("cluster_gcn", replace(TINY, out=Path("run"), profile=True, seeds=2))
    assert not Path("run/profile").exists()
    for seed in (0, 1):
        assert json.loads(Path(f"run/seed-{seed}/profile/report.json").read_text())["total"]["steps"] == 32


def test_the_table_is_told_once(capsys):
    trained("run", console=Console())
    told = capsys.readouterr().err
    assert told.count("backward") == 2  # a row of the table, and the floor's line
    assert told.count("profile: run/profile") == 1


def test_a_long_report_leaves_out_the_middle():
    trained("run", batches="full", epochs=30)
    lines = Path("run/profile/report.md").read_text().splitlines()
    told = [int(line.split()[1]) for line in lines if line.startswith("| ") and line.split()[1].isdigit()]
    assert told == [*range(1, 11), *range(21, 31)]
    assert "The 10 epochs in the middle are in report.json." in lines


@pytest.mark.parametrize(
    ("log", "change", "steps"),
    [
        (Log(), {}, 100 * 8),
        (Log(epochs=3, batches=2), {}, 97 * 8 - 2),
        (Log(epochs=3, best_epoch=2, best={"val": {}}), {"patience": 4}, 3 * 8),  # epoch 6 may be the last
        (Log(), {"patience": 4}, 5 * 8),  # epoch 1 is the best at least until the next one is scored
        (Log(), {"patience": 4, "eval_every": 10}, 14 * 8),
        (Log(), {"patience": 500}, 100 * 8),
        (Log(epochs=9, batches=5, best_epoch=2, best={"val": {}}), {"patience": 4, "eval_every": 2}, 3),
    ],
)
def test_steps_that_are_sure(log, change, steps):
    run = SimpleNamespace(batches=range(8))
    assert profiling.sure_steps(run, log, TrainConfig(**change)) == steps
