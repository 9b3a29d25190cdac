from __future__ import annotations

import contextlib
import json
import math
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from graphscale import checkpoint, folder
from graphscale.errors import InputError
from graphscale.loop import Log, Record
from graphscale.sync.replicas import Replicas
from graphscale.world import World


def scores(value: float) -> dict:
    return {"val": {"accuracy": value, "logloss": 1.5}, "test": {"accuracy": value / 2, "logloss": 2.5}}


@pytest.fixture
def sync() -> Replicas:
    model = nn.Linear(2, 3)
    return Replicas(model, torch.optim.Adam(model.parameters()), lambda params, batch: None)


@pytest.fixture
def lock():
    with contextlib.closing(folder.Lock()) as held:
        yield held


# claim


def test_claim_makes_a_folder_with_its_parents(tmp_path, lock):
    folder.claim(tmp_path / "a" / "b", lock, overwrite=False)
    assert (tmp_path / "a" / "b").is_dir()
    folder.claim(tmp_path / "a" / "b", lock, overwrite=False)  # empty still: free


def test_claim_replaces_a_run_only_when_asked(tmp_path, lock):
    (tmp_path / "config.toml").write_text('recipe = "cluster_gcn"\n')
    (tmp_path / "deep").mkdir()
    with pytest.raises(InputError, match=r"in use.*--overwrite"):
        folder.claim(tmp_path, lock, overwrite=False)
    assert (tmp_path / "deep").exists()
    folder.claim(tmp_path, lock, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("content", [None, "", "title = 'a site'", "recipe = ", "\x00"])
def test_claim_never_deletes_another_folder(tmp_path, content, lock):
    (tmp_path / "work.txt").write_text("mine")
    if content is not None:
        (tmp_path / "config.toml").write_text(content)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"in use|not a run's folder"):
            folder.claim(tmp_path, lock, overwrite=overwrite)
    assert (tmp_path / "work.txt").read_text() == "mine"


def test_claim_refuses_files_and_impossible_places(tmp_path, lock):
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="file"):
            folder.claim(tmp_path / "file", lock, overwrite=overwrite)
    with pytest.raises(InputError, match=r"cannot be made .*Give another --out"):
        folder.claim(tmp_path / "file" / "below", lock, overwrite=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_claim_does_not_delete_through_a_link(tmp_path, lock):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text('recipe = "cluster_gcn"\n')
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(InputError):
        folder.claim(tmp_path / "link", lock, overwrite=True)
    assert (tmp_path / "run" / "config.toml").exists()


def test_demand_free_changes_nothing(tmp_path):
    folder.demand_free(tmp_path / "new", overwrite=False)
    assert not (tmp_path / "new").exists()
    (tmp_path / "config.toml").write_text('recipe = "cluster_gcn"\n')
    folder.demand_free(tmp_path, overwrite=True)
    assert (tmp_path / "config.toml").exists()


# text files


def test_dumps_is_strict_json():
    value = {"a": math.nan, "b": [math.inf, 1.5], 3: {"c": -math.inf}, "d": (1, "x", None, True)}
    text = folder.dumps(value)
    parsed = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert parsed == {"a": None, "b": [None, 1.5], "3": {"c": None}, "d": [1, "x", None, True]}
    assert "\n" not in text


def test_write_config_leaves_out_what_is_not_set(tmp_path):
    folder.write_config(tmp_path / "config.toml", "cluster_gcn", {"lr": 0.5, "patience": None, "data": 'a "b"\\c'})
    values = tomllib.loads((tmp_path / "config.toml").read_text())
    assert values == {"recipe": "cluster_gcn", "lr": 0.5, "data": 'a "b"\\c'}


# RunFolder


def events_of(path: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(path))
    board.Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_a_line_and_events_for_every_epoch(tmp_path):
    store = folder.RunFolder(tmp_path, keep=1)
    store.record(Record(1, 0.75, 0.1))
    # Lines are there while the run goes on: it may be killed.
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    store.record(Record(2, 0.5, 0.2, scores(0.25)))
    store.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"epoch": 1, "loss": 0.75, "seconds": 0.1, "scores": None},
        {"epoch": 2, "loss": 0.5, "seconds": 0.2, "scores": scores(0.25)},
    ]
    events = events_of(tmp_path)
    assert events["loss/train"] == [(1, 0.75), (2, 0.5)]
    assert events["accuracy/val"] == [(2, 0.25)]
    assert events["accuracy/test"] == [(2, 0.125)]
    assert events["logloss/test"] == [(2, 2.5)]
    assert [step for step, _ in events["seconds/epoch"]] == [1, 2]


def test_what_was_written_after_the_checkpoint_is_forgotten(tmp_path):
    store = folder.RunFolder(tmp_path, keep=1)
    for epoch in range(1, 5):
        store.record(Record(epoch, 1 / epoch, 0.1))
    store.close()
    store = folder.RunFolder(tmp_path, keep=1, epochs=2)  # goes on after a checkpoint of two epochs
    store.record(Record(3, 0.125, 0.1))
    store.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 0.125)]
    steps = events_of(tmp_path)["loss/train"]
    assert [step for step, _ in steps] == [1, 2, 3]


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    folder.write_config(tmp_path / "config.toml", "cluster_gcn", {})
    first, second = folder.Lock(), folder.Lock()
    first.take(tmp_path)
    for attempt in (lambda: second.take(tmp_path), lambda: folder.claim(tmp_path, second, overwrite=True)):
        with pytest.raises(InputError, match=f"another process is training in {tmp_path}. Wait for it"):
            attempt()
    assert (tmp_path / "config.toml").is_file()
    first.close()
    second.take(tmp_path)
    second.close()


def run_of(sync, **keeps):
    return SimpleNamespace(sync=sync, tables={}, keeps=keeps, world=World())


def names(path: Path) -> list[str]:
    return sorted(p.name for p in (path / "checkpoints").iterdir())


@pytest.mark.parametrize(("keep", "expected"), [(1, [4]), (3, [2, 3, 4])])
def test_the_last_checkpoints_are_kept_and_the_best(tmp_path, sync, keep, expected):
    store = folder.RunFolder(tmp_path, keep=keep)
    log = Log()
    for epoch in range(4):
        log.epochs, log.steps = epoch + 1, 10 * (epoch + 1)
        if epoch == 1:  # the best, never beaten
            log.best_epoch, log.best, log.best_state = epoch + 1, scores(0.9), {"weight": torch.full((3, 2), 7.0)}
        run = run_of(sync, num_classes=3)
        store.save(log, run, folder.gathered(log, run))
    store.close()
    assert names(tmp_path) == ["best.pt", *(f"epoch-{n:06d}.pt" for n in expected)]
    best = checkpoint.load(tmp_path / "checkpoints" / "best.pt")
    assert best["epoch"] == 2
    assert best["num_classes"] == 3
    assert torch.equal(best["model"]["weight"], torch.full((3, 2), 7.0))
    last = checkpoint.load(tmp_path / "checkpoints" / "epoch-000004.pt")
    assert (last["log"]["epochs"], last["log"]["steps"]) == (4, 40)
    (slot,) = last["slots"]
    assert torch.equal(slot["module"]["weight"], sync.slot.module.weight.detach())
    assert slot["optimiser"]["param_groups"][0]["lr"] == 1e-3


def test_a_new_best_replaces_the_old(tmp_path, sync):
    store = folder.RunFolder(tmp_path, keep=1)
    log = Log()
    for epoch in range(3):
        log.epochs, log.best_epoch, log.best_state = epoch + 1, epoch + 1, {"weight": torch.tensor(float(epoch))}
        run = run_of(sync)
        store.save(log, run, folder.gathered(log, run))
    store.close()
    best = checkpoint.load(tmp_path / "checkpoints" / "best.pt")
    assert (best["epoch"], float(best["model"]["weight"])) == (3, 2.0)


def test_without_a_score_there_is_no_best(tmp_path, sync):
    store = folder.RunFolder(tmp_path, keep=1)
    store.save(Log(epochs=1), run_of(sync), Log(epochs=1).state_dict(World()))
    store.close()
    assert names(tmp_path) == ["epoch-000001.pt"]


def test_save_every(tmp_path):
    from graphscale import session
    from graphscale.recipes.cluster_gcn import ClusterGCNConfig

    settings = {"data": "planted:200", "num_parts": 4, "hidden": 8, "layers": 2, "epochs": 5}
    session.train("cluster_gcn", ClusterGCNConfig(**settings, save_every=2, keep=9, out=tmp_path / "run"))
    # Every second epoch, and one always at the end.
    assert names(tmp_path / "run") == ["best.pt", *(f"epoch-{n:06d}.pt" for n in (2, 4, 5))]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    events = events_of(tmp_path / "run")
    assert [step for step, _ in events["loss/train"]] == [line["epoch"] for line in lines] == list(range(1, 6))
    for line, (_, value) in zip(lines, events["accuracy/val"], strict=True):
        assert value == pytest.approx(line["scores"]["val"]["accuracy"])
