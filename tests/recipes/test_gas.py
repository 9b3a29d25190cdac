"""The recipe gas, from its command to its scores."""

from __future__ import annotations

import json

import pytest

from graphscale import InputError, configure, session
from graphscale.recipes.gas import GASConfig

SETTINGS = {"data": "planted:300", "num_parts": 6, "parts_per_batch": 2, "hidden": 8, "layers": 3, "dropout": 0.3}


def trained(out, **settings):
    return session.train("gas", configure("gas", **{**SETTINGS, "out": out, "overwrite": True, **settings}))


def story(out):
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(line["epoch"], line["loss"], line["scores"]) for line in lines]


def test_it_learns_and_its_scores_are_the_full_batchs(tmp_path):
    result = trained(tmp_path / "run", epochs=20, lr=0.02, dropout=0.0)
    assert result["test"]["accuracy"] > 0.8
    again = session.evaluate(tmp_path / "run")
    assert again["test"] == pytest.approx(result["test"])


@pytest.mark.parametrize("model", ["gcn", "gat", "pna"])
def test_tables_on_disk_are_tables_in_memory(tmp_path, model):
    for where in ("ram", "disk"):
        trained(tmp_path / where, epochs=3, histories=where, model=model)
    assert story(tmp_path / "ram") == story(tmp_path / "disk")


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_a_resumed_run_has_its_histories(tmp_path, where):
    trained(tmp_path / "whole", epochs=5, histories=where)
    trained(tmp_path / "cut", epochs=3, histories=where)
    config = configure("gas", **{**SETTINGS, "out": tmp_path / "cut", "epochs": 5, "histories": where, "resume": True})
    session.train("gas", config)
    assert story(tmp_path / "whole") == story(tmp_path / "cut")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_histories_of_half_the_bytes(tmp_path, dtype):
    result = trained(tmp_path / "run", epochs=20, lr=0.02, dropout=0.0, history_dtype=dtype)
    assert result["test"]["accuracy"] > 0.8


def test_the_model_of_the_house_is_refused():
    with pytest.raises(InputError, match="splices histories into PyG's layers"):
        GASConfig(model="cluster_gcn")
