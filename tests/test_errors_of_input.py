"""Everything that a user can mend ends a command with code 2, one line that says how, and no trace of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from graphscale import cli

N = 30
TINY = ("--num-parts", "3", "--hidden", "4", "--layers", "2", "--epochs", "1")


def write(name: str, **change) -> None:
    draw = np.random.default_rng(0)
    content = {
        "edge_index": draw.integers(N, size=(2, 90)),
        "num_nodes": np.array(N),
        "x": draw.standard_normal((N, 3)).astype(np.float32),
        "y": np.arange(N) % 2,
        **{f"{split}_mask": np.arange(N) % 3 == i for i, split in enumerate(("train", "val", "test"))},
        **change,
    }
    np.savez(name, **{key: value for key, value in content.items() if value is not None})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a sound file, one of each kind of mistake, and nothing of the machine's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHSCALE_DATA", str(tmp_path / "sets"))
    write("good.npz")
    write("nan.npz", x=np.full((N, 2), np.nan))
    write("ids.npz", edge_index=np.full((2, 4), N + 5))
    write("overlap.npz", val_mask=np.arange(N) % 3 == 0)
    write("empty_split.npz", test_mask=np.zeros(N, dtype=bool))
    write("no_labels.npz", y=None)
    write("weights.npz", edge_weight=np.ones(4))
    write("one_class.npz", y=np.zeros(N, dtype=np.int64))
    write("billion.npz", y=np.where(np.arange(N) == 3, 10**9, np.arange(N) % 2))
    write("splits.npz", train_mask=np.ones((N, 2), dtype=bool), val_mask=np.ones((N, 3), dtype=bool))
    write("negative.npz", edge_weight=-np.ones(90))
    write("edgeless.npz", edge_index=np.zeros((2, 0), dtype=np.int64))
    write("column.npz", y=(np.arange(N) % 2 + 0.5)[:, None])
    write("pickled.npz", y=np.array([None] * N, dtype=object))
    Path("cut.npz").write_bytes(Path("good.npz").read_bytes()[:200])
    Path("used").mkdir()
    Path("used/thesis.tex").write_text("mine")
    Path("file").write_text("mine")
    Path("bad.toml").write_text("epochs = = 3")
    Path("unknown.toml").write_text("epoch = 3")
    Path("type.toml").write_text("scaling = 'rows'")
    Path("broken_model.py").write_text(
        "import torch\ndef narrow(i, o): return torch.nn.Linear(i, o + 1)\ndef none(i, o): return None\n"
        "def one(i): return torch.nn.Linear(i, 2)\nnumber = 3\n"
        "from torch_geometric.nn import GCN\ndef norm(i, o): return GCN(i, 4, 2, o, norm='batch_norm')\n"
    )
    return tmp_path


TRAIN = ("train", "cluster_gcn", *TINY)
MISTAKES = {
    # usage
    "no command": ((), "list, show, train, advise, tune, e"),
    "unknown command": (("learn",), "learn.*graphscale --help"),
    "no recipe": (("train",), "train needs a recipe.*cluster_gcn"),
    "flags before the recipe": (("train", "--data", "good.npz", "cluster_gcn"), "recipe before all flags"),
    "unknown recipe": (("train", "gcn"), "no recipe 'gcn'.*cluster_gcn"),
    "unknown recipe with flags": (("train", "gcn", "--data", "good.npz", "--epochs", "3"), "no recipe 'gcn'"),
    "show of an unknown recipe": (("show", "gcn"), "no recipe 'gcn'"),
    "unknown flag": ((*TRAIN, "--learning-rate", "3"), "--learning-rate.*graphscale train cluster_gcn --help"),
    "flag without value": ((*TRAIN, "--data"), "--data"),
    "text for a number": ((*TRAIN, "--epochs", "many"), "--epochs.*'many'"),
    "fraction for a whole number": ((*TRAIN, "--epochs", "1.5"), "--epochs.*'1.5'"),
    "zero epochs": ((*TRAIN, "--epochs", "0"), "--epochs 0: it must be above 0"),
    "negative seed": ((*TRAIN, "--seed", "-1"), "--seed -1: it cannot be negative"),
    "no choice": ((*TRAIN, "--norm", "rows"), "'rows'.*'diag'"),
    "more parts than there are": ((*TRAIN, "--parts-per-batch", "9"), "--parts-per-batch 9 exceeds --num-parts 3"),
    "stray word": ((*TRAIN, "good.npz"), "good.npz"),
    "list takes nothing": (("list", "all"), "all"),
    "unknown preset": ((*TRAIN, "--preset", "imagenet"), "no preset 'imagenet'. It has: .*cora"),
    # data
    "unknown data": ((*TRAIN, "--data", "nowhere"), "no data set 'nowhere'.*nowhere/graph.npz"),
    "no such file": ((*TRAIN, "--data", "nowhere.npz"), "no file nowhere.npz"),
    "unknown PyG class": ((*TRAIN, "--data", "Nowhere:Cora"), "no data set class 'Nowhere'"),
    "too small to plant": ((*TRAIN, "--data", "planted:7"), "Write planted:10000"),
    "split of one": ((*TRAIN, "--data", "good.npz", "--split", "3"), r"split 3 asked.*--split 0\.\.0"),
    "damaged": ((*TRAIN, "--data", "cut.npz"), "cut.npz cannot be read.*damaged"),
    "pickled": ((*TRAIN, "--data", "pickled.npz"), "without pickle"),
    "NaN": ((*TRAIN, "--data", "nan.npz"), "x of nan has 60 values that are NaN"),
    "ids": ((*TRAIN, "--data", "ids.npz"), r"names nodes 35\.\.35.*0\.\.29"),
    "overlap": ((*TRAIN, "--data", "overlap.npz"), "10 nodes of overlap lie in more than one"),
    "empty split": ((*TRAIN, "--data", "empty_split.npz"), "test split of empty_split has no labelled node"),
    "no labels": ((*TRAIN, "--data", "no_labels.npz"), "lacks y; it has"),
    "short weights": ((*TRAIN, "--data", "weights.npz"), "edge_weight of weights has 4 rows for 90 edges"),
    "a class of a billion": ((*TRAIN, "--data", "billion.npz"), "names class 1000000000, and there are 30 nodes"),
    "no name": ((*TRAIN, "--data", ""), "the name of the data is empty"),
    "nothing planted": ((*TRAIN, "--data", "planted:"), "Write planted:10000"),
    "infinite": ((*TRAIN, "--lr", "inf"), "--lr inf: it must be finite"),
    "different numbers of splits": ((*TRAIN, "--data", "splits.npz"), "different numbers of splits: train 2, val 3"),
    "one class": ((*TRAIN, "--data", "one_class.npz"), "one_class.npz are of one class"),
    "fractions for classes": ((*TRAIN, "--data", "column.npz"), "y of column is torch.float64 .*classes are integers"),
    "negative weights": ((*TRAIN, "--data", "negative.npz"), "cluster_gcn divides by .* edge weights are negative"),
    "negative weights of GCN": ((*TRAIN, "--data", "negative.npz", "--model", "gcn"), "gcn divides by weighted"),
    "no degree to scale by": ((*TRAIN, "--data", "edgeless.npz", "--model", "pna"), "pna scales by the mean degree"),
    "a variance of one node": (
        (*TRAIN, "--data", "good.npz", "--num-parts", "30", "--partitioner", "random", "--model", "broken_model:norm"),
        "GCN has BatchNorm.*a batch of one node",
    ),
    "a variance of one root": (
        (*TRAIN, "--data", "good.npz", "--batches", "neighbors", "--fanout", "2,2", "--batch-size", "3", "--model",
         "broken_model:norm"),
        "GCN has BatchNorm.*another --batch-size",
    ),
    # the composed run
    "more clusters than nodes": ((*TRAIN, "--data", "good.npz", "--num-parts", "31"), "31 parts asked of 30 nodes"),
    "monitor": ((*TRAIN, "--data", "good.npz", "--monitor", "mrr"), "monitor 'mrr'.*accuracy, f1_micro, .*auc"),
    "unknown model": ((*TRAIN, "--data", "good.npz", "--model", "gcn2"), "no model 'gcn2'.*cluster_gcn, gcn"),
    "no such module": ((*TRAIN, "--data", "good.npz", "--model", "nobody:make"), "cannot load the model nobody:make"),
    "no such callable": ((*TRAIN, "--data", "good.npz", "--model", "broken_model:make"), "broken_model.*has no.*make"),
    "model is none": ((*TRAIN, "--data", "good.npz", "--model", "broken_model:none"), "returned NoneType"),
    "model takes no graph": ((*TRAIN, "--data", "good.npz", "--model", "broken_model:narrow"), r"\(x, edge_index\)"),
    "model is a number": ((*TRAIN, "--data", "good.npz", "--model", "broken_model:number"), "number cannot be called"),
    "model takes one width": ((*TRAIN, "--data", "good.npz", "--model", "broken_model:one"), r"takes \(in_channels"),
    "model without module": ((*TRAIN, "--data", "good.npz", "--model", ":make"), "cannot load the model :make"),
    "heads": ((*TRAIN, "--data", "good.npz", "--model", "gat", "--hidden", "9"), "9 is not a multiple of 8"),
    "stock with precompute": ((*TRAIN, "--data", "good.npz", "--model", "gcn", "--precompute"), "gcn runs unedited"),
    # files and folders
    "no such settings": ((*TRAIN, "--config", "none.toml"), "none.toml cannot be read"),
    "damaged settings": ((*TRAIN, "--config", "bad.toml"), "bad.toml is not TOML"),
    "unknown setting": ((*TRAIN, "--config", "unknown.toml"), "sets epoch, which"),
    "setting of no choice": ((*TRAIN, "--config", "type.toml"), "scaling = 'rows'; 'none' or 'standard' or 'row'"),
    "folder in use": ((*TRAIN, "--data", "good.npz", "--out", "used"), "used is in use"),
    "folder of another": ((*TRAIN, "--data", "good.npz", "--out", "used", "--overwrite"), "not a run's folder"),
    "folder in a file": ((*TRAIN, "--data", "good.npz", "--out", "file/run"), "file/run cannot be made"),
    # evaluate
    "evaluate nothing": (("evaluate",), "run"),
    "evaluate nowhere": (("evaluate", "nowhere"), "nowhere holds no run"),
    "evaluate another folder": (("evaluate", "used"), "used holds no run"),
    "evaluate on a bad device": (("evaluate", "used", "--device", "tpu"), "'tpu'.*cuda"),
}  # fmt: skip


@pytest.mark.parametrize(("argv", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_end_in_one_line_that_helps(argv, words, here, capsys):
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    code = cli.main(list(argv))
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert err.splitlines()[-1] == line
    assert re.search(words, line), line
    assert "Traceback" not in err
    assert "│" not in err  # no frames around it
    after = {path: path.stat().st_mtime_ns for path in here.rglob("*") if "__pycache__" not in path.parts}
    assert {path: time for path, time in before.items() if path != here} == {
        path: time for path, time in after.items() if path != here
    }  # nothing made, changed or deleted


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has CUDA")
def test_cuda_that_is_not_there(capsys):
    assert cli.main([*TRAIN, "--data", "good.npz", "--device", "cuda"]) == 2
    assert "error: --device cuda: torch finds no CUDA device. Use --device cpu" in capsys.readouterr().err


def test_a_good_file_is_good(capsys):
    # Without this, every test above could pass for a reason of its own.
    assert cli.main([*TRAIN, "--data", "good.npz", "--out", "run"]) == 0
    assert cli.main(["evaluate", "run", "--data", "nan.npz"]) == 2
    assert "error: x of nan" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(capsys):
    Path("closed").mkdir(mode=0o500)
    assert cli.main([*TRAIN, "--data", "good.npz", "--out", "closed/run"]) == 2
    assert "closed/run cannot be made" in capsys.readouterr().err
