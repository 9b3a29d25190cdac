"""On a GPU every recipe gives the numbers of the CPU, and GAS's memory there does not grow with the graph.

Run with ``GRAPHSCALE_TEST_CUDA=1 pytest tests/cuda tests/kernels tests/test_csr.py`` where there is one.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch

from graphscale import configure, train
from graphscale.loop import train_step
from graphscale.recipes import gas

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="GRAPHSCALE_TEST_CUDA is not set, or there is no GPU"
)

NODES: dict[str, Any] = {"data": "planted:600", "preset": "none", "dropout": 0.0, "epochs": 3, "hidden": 16}
PARTS: dict[str, Any] = {**NODES, "num_parts": 8, "parts_per_batch": 2}
LINKS: dict[str, Any] = {"data": "planted-stream:2000", "preset": "none", "dropout": 0.0, "epochs": 1}
CYCLE: dict[str, Any] = {
    "data": "syn-cycle", "preset": "none", "ways": 2, "shots": 1, "queries": 4, "hidden": 8, "tasks": 8,
    "tasks_per_step": 4, "epochs": 2, "eval_every": 1, "eval_tasks": 4, "val_labels": 2, "test_labels": 2,
}  # fmt: skip
USERS: dict[str, Any] = {"data": "planted-tasks:60", "preset": "none", "dim": 4, "top": "8", "epochs": 2}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "Cluster-GCN": ("cluster_gcn", PARTS),
    "GAS, GCN": ("gas", {**PARTS, "model": "gcn", "layers": 3}),
    "GAS, GAT": ("gas", {**PARTS, "model": "gat", "layers": 3}),
    "GAS, PNA": ("gas", {**PARTS, "model": "pna"}),
    "GAS, APPNP": ("gas", {**PARTS, "model": "appnp"}),
    "GAS, GCNII, disk": ("gas", {**PARTS, "model": "gcnii", "layers": 4, "histories": "disk"}),
    "GAS, GCN, histories there": ("gas", {**PARTS, "model": "gcn", "layers": 3, "histories": "device"}),
    "LMC, histories there": (
        "gas",
        {**PARTS, "model": "gcn", "layers": 3, "histories": "device", "compensation": "lmc"},
    ),
    "GAS, refreshed, histories there": (
        "gas",
        {**PARTS, "model": "sage", "refresh": "epoch", "histories": "device"},
    ),
    "GAS, refreshed": ("gas", {**PARTS, "model": "sage", "refresh": "epoch"}),
    "LMC": ("gas", {**PARTS, "model": "gcn", "layers": 3, "compensation": "lmc"}),
    "GIST": ("gist", {**NODES, "num_subnets": 2, "every": 2}),
    "TGN": ("pres", {**LINKS, "model": "tgn"}),
    "TGN, PRES": ("pres", {**LINKS, "model": "tgn", "gamma": "learn", "beta": 0.1}),
    "JODIE": ("pres", {**LINKS, "model": "jodie"}),
    "APAN": ("pres", {**LINKS, "model": "apan"}),
    "G-Meta": ("gmeta", CYCLE),
    "MAML, second order": ("gmeta", {**CYCLE, "method": "maml", "order": "second"}),
    "Ratings": ("gmeta_dlrm", USERS),
    "Ratings, second order": ("gmeta_dlrm", {**USERS, "order": "second"}),
}


def losses(recipe: str, settings: dict[str, Any], out: Any, **special: Any) -> list[float]:
    train(recipe, configure(recipe, **{**settings, **special}, out=out, overwrite=True))
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_gives_the_numbers_of_the_cpu(name, tmp_path):
    there, here = (losses(*RUNS[name], tmp_path / device, device=device) for device in ("cuda", "cpu"))
    assert there == pytest.approx(here, rel=2e-3)


@pytest.mark.parametrize("histories", ["ram", "disk", "device"])
def test_rows_that_travel_beside_the_step_are_those_that_it_would_have_read(histories, tmp_path):
    settings = {**PARTS, "model": "gcn", "layers": 3, "epochs": 6, "histories": histories, "device": "cuda"}
    beside, before = (losses("gas", settings, tmp_path / str(n), prefetch=n) for n in (3, 0))
    assert beside == pytest.approx(before, rel=1e-4)


def test_a_run_that_is_stopped_goes_on_to_the_same_numbers(tmp_path):
    settings = {**PARTS, "model": "gcn", "dropout": 0.5, "epochs": 6, "device": "cuda"}
    whole = losses("gas", settings, tmp_path / "whole")
    losses("gas", {**settings, "epochs": 3}, tmp_path / "parts")
    train("gas", configure("gas", **settings, out=tmp_path / "parts", resume=True))
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == pytest.approx(whole, rel=1e-4)


def test_memory_of_a_step_does_not_grow_with_the_graph():
    peaks = []
    for nodes in (20_000, 160_000):
        settings = {**PARTS, "data": f"planted:{nodes}", "num_parts": nodes // 500, "parts_per_batch": 4, "hidden": 64}
        config = configure("gas", **settings, model="gcn", layers=3, staleness=0, device="cuda")  # type: ignore[arg-type]
        run = gas.build(config, gas.read(config), 0)
        run.model.train()
        torch.cuda.reset_peak_memory_stats()
        for step, batch in enumerate(itertools.islice(run.batches.epoch(0), 10)):
            train_step(run, batch.to(run.device), step)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 1.1 * peaks[0]
