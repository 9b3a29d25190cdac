"""Law: a run's anonymous memory does not grow with the edges of a store, nor with depth."""

from __future__ import annotations

import json

import pytest
from forked import done, started
from tilework import evaluated

from graphscale import probe
from graphscale.data.communities import Like
from graphscale.preparing import generate

pytestmark = pytest.mark.skipif(probe.anon_mb() is None, reason="this system does not count anonymous memory")

NODES, PARTS = 40_000, 80
SLACK = 60.0  # MB: temporaries of a tile are seen by the sampling of memory, or not


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    made = {}
    for edges in (200_000, 5_000_000):
        made[edges] = folder / str(edges)
        like = Like(nodes=NODES, edges=edges, features=16, classes=5, community=2000)
        generate(like, made[edges], PARTS, partitioner="random")
    return made


def peak(store, out, *flags):
    settings = ["--epochs=1", "--hidden=64", "--threads=1", f"--out={out}", "--parts-per-batch=1", *flags]
    done("train", "cluster_gcn", "--data", str(store), *settings, folder=out.parent)
    return json.loads((out / "result.json").read_text())["peak_anon_mb"]


@pytest.mark.parametrize("flags", [(), ("--scaling=standard",), ("--precompute",), ("--model=sage",)], ids=str)
def test_edges_are_never_held(stores, tmp_path, flags):
    few, many = (peak(store, tmp_path / str(edges), *flags) for edges, store in stores.items())
    # 10 million entries: 40 MB as they are stored, 80 as int64.
    assert many < few + SLACK


def test_depth_adds_no_memory_but_weights(stores, tmp_path):
    store = stores[200_000]
    few, many = (peak(store, tmp_path / layers, f"--layers={layers}") for layers in ("3", "18"))
    assert many < few + SLACK  # 15 layers of all nodes: 150 MB


def evaluating(store, model, out):
    started(evaluated, store, model, out, size=1)
    return float(out.read_text())


@pytest.mark.parametrize("model", ["gcn", "gat"])
def test_tiles_of_stock_models_hold_a_tiles_edges(stores, tmp_path, model):
    few, many = (evaluating(store, model, tmp_path / "megabytes") for store in stores.values())
    # One pass over 10 million entries takes a gigabyte for gat's scores; a tile has a million entries at most.
    assert many < few + (250 if model == "gat" else 80)
