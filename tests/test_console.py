from __future__ import annotations

import io
import math
from types import SimpleNamespace

import pytest
from rich.console import Console as Rich

from graphscale import console as module
from graphscale.config import TrainConfig
from graphscale.console import Console, scores_table
from graphscale.loop import Record

PARTITION = {"num_parts": 4, "method": "metis", "smallest": 49, "largest": 51, "edge_cut": 0.168}
RUN = SimpleNamespace(notes=("3 duplicate entries merged",), partition=PARTITION, monitor="accuracy")
SCORES = {"val": {"accuracy": 0.81325, "logloss": 0.61234}, "test": {"accuracy": 0.79, "logloss": 0.7}}


def text_of(table) -> str:
    out = io.StringIO()
    Rich(file=out, width=100).print(table)
    return out.getvalue()


def line_of(table, name: str) -> str:
    (line,) = [line for line in text_of(table).splitlines() if name in line]
    return line


def test_percent_on_screens():
    table = scores_table(SCORES)
    assert "81.33 %" in line_of(table, "accuracy") or "81.32 %" in line_of(table, "accuracy")
    assert "79.00 %" in line_of(table, "accuracy")
    line = line_of(table, "logloss")
    assert "0.6123" in line and "0.7000" in line
    assert "%" not in line  # a loss is no fraction


def test_several_seeds_show_mean_and_deviation():
    std = {"val": {"accuracy": 0.0125, "logloss": 0.02}, "test": {"accuracy": 0.004, "logloss": 0.01}}
    table = scores_table({**SCORES, "mean": SCORES, "std": std})
    assert "79.00 % ± 0.40" in line_of(table, "accuracy")
    assert "0.6123 ± 0.0200" in line_of(table, "logloss")


def test_an_undefined_score_shows_as_nan():
    scores = {split: {"auc": math.nan} for split in ("val", "test")}
    assert "nan" in line_of(scores_table(scores), "auc")


def session(screen: Console) -> None:
    screen.say("a preset")
    for seed in (0, 1):
        screen.begins(RUN, seed, TrainConfig(epochs=2))
        screen.epoch(RUN, Record(1, 0.5, 0.1))
        screen.epoch(RUN, Record(2, 0.25, 0.1, SCORES))
        screen.ends()
    result = {**SCORES, "seconds": {"prepare": 1.0, "train": 2.0, "evaluate": 3.0}, "peak_anon_mb": 123.4}
    screen.finished(result, "the/folder")


def test_lines_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(module, "_EVERY", -1.0)  # every epoch
    session(Console())
    out, err = capsys.readouterr()
    assert out == ""  # standard output belongs to --json
    lines = err.splitlines()
    assert lines.count("note: 3 duplicate entries merged") == 1  # not again for the second seed
    assert "seed 0: 4 metis clusters of 49..51 nodes, 16.8% of the edges between them" in lines
    assert any(line.startswith("seed 1: 4 metis") for line in lines)
    assert "epoch 1  loss 0.5000" in lines
    assert (
        "epoch 2  loss 0.2500  val accuracy 81.32 %" in lines or "epoch 2  loss 0.2500  val accuracy 81.33 %" in lines
    )
    assert "peak anonymous memory 123 MB; run folder: the/folder" in err
    assert "\x1b" not in err  # no colours into a file


def test_lines_are_not_many(capsys):
    screen = Console()
    screen.begins(RUN, 0, TrainConfig(epochs=1000))
    for epoch in range(1000):
        screen.epoch(RUN, Record(epoch + 1, 0.5, 0.0))
    screen.ends()
    told = [int(line.split()[1]) for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert told == [1, *range(100, 1001, 100)]  # all of it within _EVERY seconds


def test_a_loss_that_is_monitored_is_no_percentage(capsys):
    screen = Console()
    run = SimpleNamespace(notes=(), partition={}, monitor="logloss")
    screen.begins(run, 0, TrainConfig(epochs=1))
    screen.epoch(run, Record(1, 0.5, 0.0, SCORES))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert line == "epoch 1  loss 0.5000  val logloss 0.6123"


def test_quiet_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(module, "_EVERY", -1.0)
    session(Console(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal():
    screen, out = Console(), io.StringIO()
    screen.rich = Rich(file=out, force_terminal=True, width=100)
    session(screen)
    told = out.getvalue()
    assert "2/2" in told
    assert "seed 1" in told
    assert screen._progress is None  # taken away, also for the next seed


@pytest.mark.parametrize("line", ["[red]brackets[/red]", "data[0]", "[/]"])
def test_brackets_are_text(capsys, line):
    # Names of files and errors hold brackets; rich would take them for markup.
    Console().say(line)
    assert capsys.readouterr().err == f"{line}\n"


def test_long_lines_are_not_broken(capsys):
    Console().say("x" * 500)
    assert capsys.readouterr().err == "x" * 500 + "\n"


def test_memory_that_is_not_known(capsys):
    result = {**SCORES, "seconds": {"prepare": 1.0, "train": 2.0, "evaluate": 3.0}, "peak_anon_mb": None}
    Console().finished(result, "x")
    assert "nan MB" in capsys.readouterr().err
