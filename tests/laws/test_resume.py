"""A run that was stopped anywhere and resumed ends where it would have ended: to the bit."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch
from forked import begun, done
from stopping import After

from graphscale import session
from graphscale.config import plain
from graphscale.errors import InputError
from graphscale.interrupt import Interrupted
from graphscale.recipes.cluster_gcn import ClusterGCNConfig

TINY = ClusterGCNConfig(
    data="planted:300", num_parts=8, parts_per_batch=1, hidden=8, layers=2, epochs=6, threads=1, save_seconds=1e-9
)


def trained(out, **changes):
    return session.train("cluster_gcn", replace(TINY, out=out, **changes))


def metrics(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], line["loss"], line["scores"]) for line in lines]


def weights(path):
    (last,) = sorted((path / "checkpoints").glob("epoch-*.pt"))
    state = torch.load(last, weights_only=True)
    return [*state["slots"][0]["module"].values(), *state["log"]["best_state"].values()]


def assert_same_run(a, b):
    assert metrics(a) == metrics(b)
    for x, y in zip(weights(a), weights(b), strict=True):
        assert torch.equal(x, y)
    results = [json.loads((path / "result.json").read_text()) for path in (a, b)]
    for key in ("val", "test", "final", "best_epoch", "epochs"):
        assert results[0][key] == results[1][key]


@pytest.mark.parametrize("model", ["cluster_gcn", "gin"])  # gin has BatchNorm
@pytest.mark.parametrize("step", [1, 5, 8, 17, 24, 47])  # inside epochs, at their first and last steps
def test_resumed_equals_uninterrupted(tmp_path, monkeypatch, model, step):
    trained(tmp_path / "whole", model=model)
    with monkeypatch.context() as patch:
        After(step, patch)
        with pytest.raises(Interrupted, match=r"Go on with: graphscale train cluster_gcn --resume --out"):
            trained(tmp_path / "parts", model=model)
    trained(tmp_path / "parts", model=model, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_neighbours_patience_and_sparse_evaluation_resume_too(tmp_path, monkeypatch):
    changes = {"batches": "neighbors", "fanout": "3,3", "batch_size": 20, "patience": 2, "eval_every": 2, "epochs": 30}
    trained(tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        After(29, patch)
        with pytest.raises(Interrupted):
            trained(tmp_path / "parts", **changes)
    trained(tmp_path / "parts", resume=True, **changes)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_seeds_resume_where_they_were(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole", seeds=3)
    with monkeypatch.context() as patch:
        After(6 * 8 + 11, patch)  # in the second seed
        with pytest.raises(Interrupted):
            trained(tmp_path / "parts", seeds=3)
    parts = trained(tmp_path / "parts", seeds=3, resume=True)
    assert parts["mean"] == whole["mean"]
    for seed in range(3):
        assert_same_run(tmp_path / "whole" / f"seed-{seed}", tmp_path / "parts" / f"seed-{seed}")


def test_a_finished_run_may_go_on_for_more_epochs(tmp_path):
    trained(tmp_path / "whole")
    trained(tmp_path / "parts", epochs=3)
    trained(tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_goes_on_as_it_began(tmp_path):
    trained(tmp_path / "run", epochs=2)
    with pytest.raises(InputError, match=r"started with lr = 0\.01"):
        trained(tmp_path / "run", resume=True, lr=0.5)
    with pytest.raises(InputError, match="holds no run"):
        trained(tmp_path / "absent", resume=True)


def test_other_clusters_are_refused(tmp_path):
    from graphscale.cli import main

    store = str(tmp_path / "store")
    assert main(["prepare", "planted:300", "--to", store, "--num-parts", "8"]) == 0
    trained(tmp_path / "run", data=store, epochs=2)
    assert main(["prepare", "planted:300", "--to", store, "--num-parts", "5", "--overwrite"]) == 0
    with pytest.raises(InputError, match="other clusters"):
        trained(tmp_path / "run", data=store, resume=True)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    trained(tmp_path / "run", epochs=2)
    (last,) = (tmp_path / "run" / "checkpoints").glob("epoch-*.pt")
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        trained(tmp_path / "run", resume=True)


def test_killed_at_random_moments(tmp_path):
    # SIGKILL leaves no chance to save: what the last checkpoint holds must be enough.
    trained(tmp_path / "whole", epochs=40)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in plain(replace(TINY, epochs=40)).items()
             if value is not None and not isinstance(value, bool)]  # fmt: skip
    command = ["train", "cluster_gcn", *flags, "--out", "parts"]
    killed = 0
    for wait in (0.0, 0.3, 0.05, 0.2, 0.1):
        again = ["--resume"] if (tmp_path / "parts" / "config.toml").is_file() else []
        started = (tmp_path / "parts" / "metrics.jsonl").stat().st_size if again else 0
        process = begun(*command, *again, folder=tmp_path)
        deadline = time.monotonic() + 60
        while process.is_alive() and time.monotonic() < deadline:
            file = tmp_path / "parts" / "metrics.jsonl"
            if file.is_file() and file.stat().st_size > started:  # it trains
                time.sleep(wait)
                process.kill()
                killed += 1
                break
            time.sleep(0.01)
        process.join()
    assert killed >= 3
    done(*command, "--resume", folder=tmp_path)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
