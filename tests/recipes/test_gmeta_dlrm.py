"""Runs over tasks: learning, checkpoints, resume, processes; and their use for people that training has not seen."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
import torch
from rating import small
from safetensors.torch import load_file
from stopping import After

import graphscale
from graphscale import cli, folder, outputs, rating_baselines, rating_runs, session
from graphscale.batches.task_reader import TaskReader
from graphscale.data.task_logs import Columns
from graphscale.data.task_sorting import Cut
from graphscale.errors import InputError
from graphscale.interrupt import Interrupted
from graphscale.rating_adapt import adapted_predictions
from graphscale.recipes.gmeta_dlrm import GMetaDLRMConfig
from graphscale.store.tasks import names_of
from graphscale.task_preparing import prepare_tasks
from graphscale.world import World

TINY = GMetaDLRMConfig(
    data="planted-tasks:60", dim=4, top="8", epochs=3, tasks_per_step=16, threads=1, inner_steps=2, order="first"
)
KINDS = [
    {},
    {"model": "melu", "adapt": "decision", "order": "second", "rates": "tensor"},
    {"model": "wide_deep", "adapt": "all", "rates": "number", "row_optimiser": "adam", "rows": "disk"},
    {"model": "bias", "shots": 3, "row_optimiser": "sgd"},
    {"data": "planted-clicks:60", "loss": "bce", "adapt": "none", "bottom": "6"},
]


def trained(out, **changes):
    return session.train("gmeta_dlrm", replace(TINY, out=out, **changes))


def metrics(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], line["loss"], line["scores"]) for line in lines]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_checkpoint_is_scored_as_training_scored_it(tmp_path, kind):
    result = trained(tmp_path / "run", **kind)
    again = session.evaluate(tmp_path / "run")
    for split in ("val", "test"):
        assert again[split] == pytest.approx(result[split], nan_ok=True)
    measures = result["measures"]
    assert measures["bytes_read"] > 0 and measures["ids"] > measures["distinct_rows"] > 0
    assert measures["bytes_rows"] == 0, "one process sends nothing"


def test_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    kind = {"model": "wide_deep", "adapt": "all", "row_optimiser": "adam", "save_seconds": 1e-9}
    trained(tmp_path / "whole", **kind)
    with monkeypatch.context() as patch:
        After(4, patch)  # in the second epoch
        with pytest.raises(Interrupted):
            trained(tmp_path / "parts", **kind)
    trained(tmp_path / "parts", resume=True, **kind)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_two_processes_give_the_scores_of_one_and_one_goes_on_for_them(tmp_path):
    flags = ["train", "gmeta_dlrm", "--data", "planted-tasks:60", "--dim", "4", "--top", "8", "--tasks-per-step", "16",
             "--threads", "1", "--order", "first", "--inner-steps", "2"]  # fmt: skip
    command = [sys.executable, "-m", "graphscale", *flags, "--epochs", "2", "--nproc", "2", "--out", tmp_path / "two"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    trained(tmp_path / "one")
    assert (
        cli.main(["train", "gmeta_dlrm", "--resume", "--out", str(tmp_path / "two"), "--epochs", "3", "--nproc", "1"])
        == 0
    )
    for (epoch, loss, scores), (same, other, found) in zip(
        metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True
    ):
        assert epoch == same and loss == pytest.approx(other, rel=1e-4)
        for split in scores:
            assert found[split] == pytest.approx(scores[split], rel=1e-2)


def test_adapting_beats_not_adapting_and_offsets_are_what_they_say():
    """On planted tastes a few steps on the support foretell better; damped offsets equal a sum written out."""
    config = replace(TINY, data="planted-tasks:300", adapt="dense", epochs=6, inner_lr=0.05, inner_steps=3)
    errors = {}
    for adapt in ("head", "none"):
        views = rating_runs.read(config)
        run = rating_runs.build(replace(config, adapt=adapt), views, 0)
        graphscale.fit(run, epochs=6)
        errors[adapt] = run.evaluate()["test"]["mae"]
    assert errors["head"] < errors["none"] - 0.02
    tasks = small()
    fitted = rating_baselines.Offsets(3.0, np.full(24, 0.25), (1.0, 4.0))
    found = rating_baselines.foretold(tasks, "item", fitted, "test", shots=2)
    number = tasks.parts["test"][0]
    first, support = int(tasks.offset[number]), int(tasks.support[number])
    shown = tasks.labels(first, first + support)[-2:]
    assert found.score[0] == pytest.approx(3.25 + float((shown - 3.25).sum()) / 6)
    assert found.y[0] == tasks.labels(first + support, first + support + 1)[0]


def test_shots_are_the_last_records_of_a_support():
    tasks = small()
    decoder = rating_runs.decoder_of(replace(TINY, shots=2), tasks)
    for batch in TaskReader(decoder, 7).epoch(0):
        (block,) = batch.blocks
        for t, number in enumerate(block.tasks.tolist()):
            first, support = int(tasks.offset[number]), int(tasks.support[number])
            assert block.shown[t] == min(2, support)
            assert torch.equal(block.y[t, : block.shown[t]], tasks.labels(first, first + support)[-2:])


@pytest.fixture
def run(tmp_path):
    """(A trained run on a store, the log, the store's tasks)."""
    draw = np.random.default_rng(0)
    log = {
        "user": [f"u{k}" for k in draw.integers(40, size=900)], "stars": draw.integers(1, 6, size=900),
        "hour": draw.random(900), "item": draw.integers(30, size=900),
        "tags": [["a", "b"][: k % 3] for k in range(900)],
    }  # fmt: skip
    pa_parquet.write_table(pa.table(log), tmp_path / "log.parquet")
    columns = Columns("user", "stars", dense=("hour",), sparse=(("item", "item"),), bags=(("tags", "tags"),))
    made = prepare_tasks(tmp_path / "log.parquet", tmp_path / "store", columns, Cut(query=3, least=6))
    trained(tmp_path / "run", data=str(tmp_path / "store"), model="wide_deep", adapt="all", inner_lr=0.1)
    return tmp_path / "run", log, made


def test_people_are_observed_and_scored_as_evaluation_scores_them(tmp_path, run):
    place, log, made = run
    state, config = folder.best(place / "checkpoints" / "best.pt"), replace(TINY, data=str(tmp_path / "store"))
    config = replace(config, model="wide_deep", adapt="all", inner_lr=0.1)
    objective, table, views = rating_runs.restored(config, state)
    scores = rating_runs.scorer(config, views.tasks, objective, table, World(), table.device)
    expected = scores.part("test")
    names = names_of(made)
    first, end = made.parts["test"]
    people = graphscale.users(place)
    support, query = ({name: [] for name in log} for _ in range(2))
    for number in range(first, end):
        rows = [i for i in range(900) if log["user"][i] == names[number]]
        # the store's random queries, found again by label and hour
        low = int(made.offset[number]) + int(made.support[number])
        hours = made.records[low : int(made.offset[number + 1]), 1].contiguous().view(torch.float32).tolist()
        asked = [next(i for i in rows if np.float32(log["hour"][i]) == np.float32(h)) for h in hours]
        for part, some in ((query, asked), (support, [i for i in rows if i not in asked])):
            for name in log:
                part[name] += [log[name][i] for i in some]
    people.observe(support)
    assert people.num_records == len(support["user"])
    found = people.score({name: column for name, column in query.items() if name != "stars"})
    torch.testing.assert_close(found, expected.score, rtol=1e-4, atol=1e-5)
    both = {name: [*support[name], *query[name]] for name in log}
    both["stars"] = [*(float(s) for s in support["stars"]), *[None] * len(query["stars"])]
    pa_parquet.write_table(pa.table(both), tmp_path / "people.parquet")
    count = adapted_predictions(config, state, tmp_path / "people.parquet", None, tmp_path / "out.parquet")
    table = pa_parquet.read_table(tmp_path / "out.parquet")
    assert count == len(found) and table["task"].to_pylist() == query["user"]
    assert table["row"].to_pylist() == list(range(len(support["user"]), len(both["user"])))
    torch.testing.assert_close(torch.tensor(table["score"].to_pylist()), found, rtol=1e-4, atol=1e-5)
    people.forget(names[first])
    stranger = people.score({"user": ["nobody", names[first]], "hour": [0.5] * 2, "item": [3, 3], "tags": [["a"]] * 2})
    assert stranger[0] == pytest.approx(float(stranger[1])), "who was not observed is scored by the common weights"
    with pytest.raises(InputError, match="no column hour"):
        people.score({"user": ["x"], "item": [1], "tags": [[]]})
    one = {"user": ["x"], "item": [1], "tags": [["a"]], "hour": [0.5]}
    with pytest.raises(InputError, match="cannot be read"):
        people.score({**one, "hour": ["noon"]})
    with pytest.raises(InputError, match="1 records lack user or stars"):
        people.observe({**one, "stars": [float("nan")]})
    with pytest.warns(UserWarning, match="no value of item is one that training had"):
        people.score({**one, "item": ["007"]})


def test_rows_of_a_log_with_a_gap_are_not_renumbered(tmp_path, run):
    place, log, _ = run
    state, config = folder.best(place / "checkpoints" / "best.pt"), replace(TINY, data=str(tmp_path / "store"))
    config = replace(config, model="wide_deep", adapt="all", inner_lr=0.1)
    gap = {**log, "user": [None, *log["user"][1:]]}
    pa_parquet.write_table(pa.table(gap), tmp_path / "gap.parquet")
    with pytest.raises(InputError, match="1 records lack user"):
        adapted_predictions(config, state, tmp_path / "gap.parquet", None, tmp_path / "out.parquet")
    with pytest.raises(InputError, match=r"written as \.parquet"):
        adapted_predictions(config, state, tmp_path / "gap.parquet", None, tmp_path / "out.csv")


def test_shots_of_a_log_are_its_latest_records_in_time(tmp_path):
    draw = np.random.default_rng(0)
    log = {"user": [f"u{k}" for k in draw.integers(20, size=600)], "stars": draw.integers(1, 6, size=600),
           "item": draw.integers(30, size=600), "t": draw.permutation(600)}  # fmt: skip
    pa_parquet.write_table(pa.table(log), tmp_path / "log.parquet")
    columns = Columns("user", "stars", "t", sparse=(("item", "item"),))
    prepare_tasks(tmp_path / "log.parquet", tmp_path / "store", columns, Cut(query=3, least=6))
    special = {"data": str(tmp_path / "store"), "model": "wide_deep", "adapt": "all", "inner_lr": 0.1, "shots": 2}
    trained(tmp_path / "run", **special)
    state, config = folder.best(tmp_path / "run" / "checkpoints" / "best.pt"), replace(TINY, **special)
    pa_parquet.write_table(pa.table({"user": ["u3"] * 5, "item": range(5)}), tmp_path / "asked.parquet")
    rows = [i for i in range(600) if log["user"][i] == "u3"]
    found = []
    for name, order in (("up", rows), ("down", sorted(rows, key=lambda i: -log["t"][i]))):
        pa_parquet.write_table(
            pa.table({k: [v[i] for i in order] for k, v in log.items()}), tmp_path / f"{name}.parquet"
        )
        files = (tmp_path / f"{name}.parquet", tmp_path / "asked.parquet", tmp_path / f"{name}-out.parquet")
        adapted_predictions(config, state, *files)
        found.append(pa_parquet.read_table(files[2])["score"].to_pylist())
    assert found[0] == pytest.approx(found[1])


def test_a_store_that_nothing_can_be_scored_on_is_refused(tmp_path):
    draw = np.random.default_rng(0)
    log = {
        "user": draw.integers(9, size=200),
        "stars": draw.integers(1, 6, size=200),
        "item": draw.integers(30, size=200),
    }
    pa_parquet.write_table(pa.table(log), tmp_path / "log.parquet")
    columns = Columns("user", "stars", sparse=(("item", "item"),))
    prepare_tasks(tmp_path / "log.parquet", tmp_path / "store", columns, Cut(query=3, least=6))  # a tenth of 9 is none
    with pytest.raises(InputError, match="has no task in val"):
        trained(tmp_path / "run", data=str(tmp_path / "store"))


def test_exported_rows_lie_in_the_order_of_ids(tmp_path):
    trained(tmp_path / "run", epochs=1)
    outputs.export(tmp_path / "run", tmp_path / "model.safetensors")
    weights = load_file(tmp_path / "model.safetensors")
    _, table, views = rating_runs.restored(TINY, folder.best(tmp_path / "run" / "checkpoints" / "best.pt"))
    layout = views.tasks.layout
    ids = torch.tensor([[5, 7, 2, 3, 4, 5]])
    number = torch.tensor([5, 201 + 7, 201 + 9 + 2, *(201 + 9 + 5 + k for k in (3, 4, 5))])
    assert torch.equal(weights["embedding.rows"][number], table.read(layout.rows(ids)[0]))
    model = graphscale.load(tmp_path / "run")
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_what_cannot_be_trained_is_refused(tmp_path, capsys):
    for flags, words in (
        (["--data", "nosuch"], "no tasks 'nosuch'"),
        (["--data", "planted-tasks:60", "--loss", "bce"], "labels 0 and 1"),
        (["--top", "8,x"], "numbers above 0"),
        (["--adapt", "none", "--rates", "tensor"], "Leave one out"),
        (["--precision", "bf16"], "float32"),
        (["--num-subnets", "2"], "not cut into sub-networks"),
    ):
        assert cli.main(["train", "gmeta_dlrm", *flags, "--out", str(tmp_path / "x")]) == 2
        assert words in capsys.readouterr().err
    trained(tmp_path / "run", epochs=1)
    with pytest.raises(InputError, match="not hold the tasks"):
        session.evaluate(tmp_path / "run", data="planted-tasks:70")
    with pytest.raises(InputError, match="observe"):
        outputs.predict(tmp_path / "run", tmp_path / "p.parquet")
    with pytest.raises(InputError, match="which columns"):
        graphscale.users(tmp_path / "run")
