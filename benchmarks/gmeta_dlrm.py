"""G-Meta for recommenders: MovieLens-100K by tasks, throughput and its ablations, a step beside torchrec, limits.

    GRAPHSCALE_DATA=... python benchmarks/gmeta_dlrm.py [--work DIR] [--only TABLE ...] [--seeds S] [--configs N]

Tables: ratings, cold_start, throughput, exchange, limits, preparing, restarts. Every run is a folder under --work and
is made once, so a stopped study goes on where it stopped. Writes benchmarks/results/gmeta_dlrm_TABLES_DATE.md, and ends
with a JSON line. ``throughput`` and ``exchange`` measure time: nothing else may run beside them.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import task_speed
import torchrec_speed
from study import machine

from graphscale import configure, folder, probe, rating_baselines, rating_runs, train
from graphscale.rng import derive
from graphscale.tasks import Tasks

RESULTS = Path(__file__).parent / "results"
Table = tuple[list[str], list[list[str]]]

# RecBole-MetaRec's protocol: users 8 : 1 : 1, 13 to 100 ratings, 10 random ones asked. --split s seeds both.
USUAL = {"data": "ml-100k", "epochs": 30, "patience": 5, "threads": 1, "preset": "none"}
# Searched at random on splits that no table reports, by validation MAE.
SEARCHED = (100, 101)
SPACE: dict[str, tuple[Any, ...]] = {
    "model": ("wide_deep", "melu", "dlrm"),
    "dim": (8, 16),
    "top": ("32", "64", "32,32"),
    "adapt": ("head", "decision", "dense", "all"),
    "order": ("first", "second"),
    "inner_lr": (0.01, 0.03, 0.1),
    "offset_lr": (0.2, 0.5),
    "inner_steps": (1, 2, 3),
    "rates": ("no", "tensor", "number"),
    "shrink": (2.0, 5.0, 10.0),
    "lr": (0.0005, 0.001, 0.002),
    "row_optimiser": ("adam",),
    "row_lr": (0.001, 0.002, 0.005),
    "row_decay": (0.0, 1e-3),
    "row_scale": (0.01, 0.05),
    "tasks_per_step": (16, 32),
    "redraw": (0.3, 0.5, 0.7),
}
JOINT = {"adapt": "none", "rates": "no"}
# Lee et al.: Adam 5e-5 outside, 5e-6 inside, one step, 32 numbers a field, layers of 64, 32 users a step.
MELU = {
    "model": "melu", "dim": 32, "top": "64,64", "adapt": "decision", "order": "first", "inner_lr": 5e-6,
    "inner_steps": 1, "lr": 5e-5, "row_optimiser": "adam", "row_lr": 5e-5, "row_scale": 0.1, "epochs": 20,
}  # fmt: skip
METRICS = ("mae", "precision@5", "ndcg_binary@5", "ndcg@1", "ndcg@3", "ndcg@5")


def one(work: Path, name: str, settings: dict[str, Any], split: int) -> dict[str, Any]:
    """The result of one split, made where it is not there."""
    out = work / f"{name}-{split}"
    if not (out / "result.json").is_file():
        train(
            "gmeta_dlrm",
            configure("gmeta_dlrm", **{**USUAL, **settings}, split=split, seed=split, out=out, overwrite=True),
        )
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def drawn(number: int, fixed: dict[str, Any]) -> dict[str, Any]:
    """Settings number ``number`` of the random search."""
    draw = np.random.default_rng(derive(7, number, len(fixed)))
    settings = {name: values[int(draw.integers(len(values)))] for name, values in SPACE.items()}
    return {**settings, **fixed}


def searched(work: Path, kind: str, fixed: dict[str, Any], configs: int) -> tuple[dict[str, Any], float, int]:
    """(Settings with the lowest validation MAE, that MAE, settings tried)."""
    found = []
    for number in range(configs):
        settings = drawn(number, fixed)
        runs = [one(work / "search", f"{kind}-{number}", settings, split) for split in SEARCHED]
        found.append((statistics.fmean(run["val"]["mae"] for run in runs), number))
    mae, number = min(found)
    return drawn(number, fixed), mae, len(found)


def spread(values: list[float]) -> str:
    """Mean and deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {deviation:.4f}"


WAYS: dict[str, dict[str, Any]] = {
    "MAML, second order": {"order": "second"},
    "MAML, first order": {"order": "first"},
    "joint training": JOINT,
}


def ratings(work: Path, seeds: int, configs: int) -> Table:
    """Item 1: MovieLens-100K, users as disjoint tasks."""
    lines, bias = [], []
    for split in range(seeds):
        tasks = rating_runs.read(configure("gmeta_dlrm", **USUAL, split=split)).tasks
        bias.append({
            "offsets, damping by validation": rating_baselines.bias_scores(tasks, "item")["test"],
            "random order": rating_baselines.random_scores(tasks, "item", seed=split)["test"],
        })  # fmt: skip
    bar = [found["offsets, damping by validation"]["mae"] for found in bias]
    for name in bias[0]:
        lines.append(row(name, [found[name] for found in bias], bar, ""))
    for name, fixed in WAYS.items():
        kind = "-".join(f"{v}" for v in fixed.values())
        settings, mae, tried = searched(work, kind, fixed, configs)
        tests = [one(work, kind, settings, split)["test"] for split in range(seeds)]
        lines.append(row(name, tests, bar, f"{tried} tried, validation {mae:.4f}: {said(settings)}"))
    tests = [one(work, "melu", MELU, split)["test"] for split in range(seeds)]
    lines.append(row("MeLU, its authors' rates", tests, bar, ""))
    return ["", *METRICS, "MAE less than offsets'", "settings"], lines


def row(name: str, tests: list[dict[str, float]], bar: list[float], settings: str) -> list[str]:
    """A line of the table: scores, and the difference to the bar split by split."""
    less = [b - test["mae"] for b, test in zip(bar, tests, strict=True)]
    return [name, *(spread([test[m] for test in tests]) for m in METRICS), spread(less), settings]


def said(settings: dict[str, Any]) -> str:
    """Settings in a line."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def cold_start(work: Path, seeds: int, configs: int) -> Table:
    """Item 1: test MAE by number of ratings shown, of the second-order run and of offsets."""
    settings, _, _ = searched(work, "second", WAYS["MAML, second order"], configs)
    found: dict[str, dict[int | None, list[float]]] = {"MAML, second order": {}, "offsets": {}}
    for split in range(seeds):
        one(work, "second", settings, split)
        config = configure("gmeta_dlrm", **{**USUAL, **settings}, split=split, seed=split)
        state = folder.best(work / f"second-{split}" / "checkpoints" / "best.pt")
        tasks = rating_runs.read(config).tasks
        fitted = rating_baselines.best_offsets(tasks, "item")
        for shots in SHOTS:
            scores = rating_runs.scores(replace(config, shots=shots), state)["test"]["mae"]
            offset = rating_baselines.scored(rating_baselines.foretold(tasks, "item", fitted, "test", shots=shots))
            found["MAML, second order"].setdefault(shots, []).append(scores)
            found["offsets"].setdefault(shots, []).append(offset["mae"])
    lines = [[name, *(spread(curve[shots]) for shots in SHOTS)] for name, curve in found.items()]
    return ["", *(f"{shots or 'all'}" for shots in SHOTS)], lines


def throughput(work: Path, seeds: int, configs: int) -> Table:
    """Item 2: records a second on a generated log, one thread a rank; ablations and readers in the same run."""
    store = task_speed.stored(work, SIZE["samples"], SIZE["tasks"], SIZE["rows"])
    tasks, steps, each = task_speed.loaded(store), SIZE["steps"], SIZE["tasks_per_step"]
    one_rank = task_speed.steps_of(work / "ranks", store, 1, each, steps, 3)["as it is"]
    two = task_speed.steps_of(work / "ranks", store, 2, each, steps, 3)
    lines = [["1 rank", f"{one_rank:,.0f}", ""]]
    lines.append(["2 ranks, as it is", f"{two['as it is']:,.0f}", f"weak scaling {two['as it is'] / 2 / one_rank:.2f}"])
    lines += [
        [f"2 ranks, {name}", f"{value:,.0f}", f"as it is: {two['as it is'] / value:.2f} times"]
        for name, value in two.items()
        if name != "as it is"
    ]
    inner = task_speed.inner_loops(store, each, steps)
    for name, value in inner.items():
        ratio = "" if name == "floor" else f"at once, factors: {value / inner['at once, factors']:.2f} times as fast"
        lines.append([f"a step's tasks {name}" if ratio else "floor of its products", f"{1000 * value:.1f} ms", ratio])
    return ["", "records a second", ""], [*lines, *readers(work, tasks, each)]


def readers(work: Path, tasks: Tasks, each: int) -> list[list[str]]:
    """Lines of readers: medians of three rounds in turn."""
    file = task_speed.as_parquet(tasks, each, work / "log.parquet")
    limit = min(SIZE["read"], tasks.num_records // 2)
    works: dict[str, Callable[[], tuple[int, float]]] = {
        "Meta-IO, decoded": lambda: task_speed.meta_io(tasks, each, limit),
        "its decoder, one batch in the cache": lambda: task_speed.decoder_alone(tasks, each, limit),
        "Parquet by shuffled row groups, decoded": lambda: task_speed.parquet(tasks, each, limit, file),
        "torch DataLoader over shuffled rows": lambda: task_speed.rows(tasks, each, min(limit, 100_000), 0),
        "the file in order, from the page cache": lambda: task_speed.sequential(tasks, limit, cold=False),
        "the file in order, not cached": lambda: task_speed.sequential(tasks, limit, cold=True),
    }
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(3):
        for name, run in works.items():
            records, seconds = run()
            found[name].append(records / seconds)
    rate = {name: statistics.median(values) for name, values in found.items()}
    house = rate["Meta-IO, decoded"]
    return [[name, f"{value:,.0f}", f"Meta-IO: {house / value:.2f} times"] for name, value in rate.items()]


def exchange(work: Path, seeds: int, configs: int) -> Table:
    """Item 3: fetch and descend 20,000 rows x 32 of 1,000,000 on 2 ranks of one thread."""
    found = task_speed.exchange(work / "exchange", 20_000, 32, 1_000_000, 100)
    lines = [
        ["graphscale, row-wise Adagrad", f"{1000 * found['seconds']:.2f}", ""],
        ["the bytes alone", f"{1000 * found['floor']:.2f}", f"{found['seconds'] / found['floor']:.1f} times that"],
    ]
    peer = torchrec_speed.measured(work / "exchange")
    if isinstance(peer, str):
        lines.append(["torchrec", "not measured", peer])
    else:
        lines += [
            [f"torchrec, {name}", f"{1000 * s:.2f}", f"{s / found['seconds']:.1f} times"] for name, s in peer.items()
        ]
    return ["", "milliseconds a step", ""], lines


def limits(work: Path, seeds: int, configs: int) -> Table:
    """Item 4: a table larger than the limit on a process's data segment, on 1 rank and on 2."""
    rows = 26_000_000  # x 16 float32, and a number of Adagrad's: 1.77 GB
    store = task_speed.stored(work, 20_000, 1_000, rows)
    lines = []
    for nproc in (1, 2):
        out = work / f"limit-{nproc}"
        flags = [
            "--data",
            str(store),
            "--loss",
            "bce",
            "--top",
            "32",
            "--epochs",
            "1",
            "--order",
            "first",
            "--threads",
            "1",
        ]
        done = limited([*TRAIN, *flags, "--nproc", str(nproc), "--out", str(out), "--overwrite"], LIMIT)
        result = out / "result.json"
        score = f"test AUC {json.loads(result.read_text())['test']['auc']:.3f}" if done.returncode == 0 else last(done)
        lines.append([f"{nproc}", f"{LIMIT / 1e6:,.0f} MB", "trains" if done.returncode == 0 else "does not", score])
    return ["ranks", "limit a process (RLIMIT_DATA)", "", ""], lines


def preparing(work: Path, seeds: int, configs: int) -> Table:
    """Item 5: a log whose columns take five times the limit on memory is prepared under it."""
    limit, rows = 1 << 30, SIZE["prepared"]
    file = work / "big.parquet"
    size = task_speed.big_log(file, rows)
    flags = ["--task", "user", "--label", "clicked", "--time", "t", "--sparse", ",".join(f"f{i}" for i in range(12)),
             "--hashed", ",".join(f"f{i}=100000" for i in range(12)), "--dense", "d0,d1", "--least", "2",
             "--memory-mb", "250", "--threads", "1"]  # fmt: skip
    command = [sys.executable, "-m", "graphscale", "prepare-tasks", str(file), "--to", str(work / "big"), *flags]
    done = limited([*command, "--overwrite"], limit)
    said = done.stdout.splitlines()[0] if done.returncode == 0 else last(done)
    return ["records", "log in memory", "limit (RLIMIT_DATA)", ""], [
        [f"{rows:,}", f"{size / 1e6:,.0f} MB", f"{limit / 1e6:,.0f} MB", said]
    ]


def restarts(work: Path, seeds: int, configs: int) -> Table:
    """Item 5: a rank killed in mid-epoch; torchrun starts it again, and no task is lost or seen twice."""
    flags = ["--data", "planted-tasks:4000", "--epochs", "3", "--tasks-per-step", "32", "--order", "first", "--threads",
             "1", "--nproc", "2", "--overwrite"]  # fmt: skip
    whole, parts = work / "whole", work / "parts"
    subprocess.run([*TRAIN, *flags, "--out", str(whole)], check=True, capture_output=True)
    run = subprocess.Popen(
        [*TRAIN, *flags, "--out", str(parts), "--restarts", "3", "--save-steps", "10"],
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics, killed = parts / "metrics.jsonl", 0
    while run.poll() is None and not killed:
        time.sleep(0.05)
        if metrics.is_file() and metrics.read_text().count("\n") == 1:
            time.sleep(0.7)
            ranks = [int(p) for p in children(run.pid)]
            if len(ranks) >= 2:
                os.kill(ranks[-1], signal.SIGKILL)
                killed = ranks[-1]
    _, error = run.communicate()
    told = next((line for line in error.splitlines() if "restart 1" in line), error[-200:])
    epochs = [[json.loads(line) for line in (p / "metrics.jsonl").read_text().splitlines()] for p in (whole, parts)]
    apart = max(abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in zip(*epochs, strict=True))
    return ["killed", "said", "largest relative difference of an epoch's loss to a run that was not killed"], [
        ["a rank, SIGKILL", told, f"{apart:.1e}"]
    ]


def limited(command: list[str], limit: int) -> subprocess.CompletedProcess[str]:
    """A command whose processes have a data segment of so many bytes each."""
    ends = functools.partial(resource.setrlimit, resource.RLIMIT_DATA, (limit, limit))
    return subprocess.run(command, preexec_fn=ends, capture_output=True, text=True)


def last(done: subprocess.CompletedProcess[str]) -> str:
    """The last words of a command that failed."""
    lines = [line for line in done.stderr.splitlines() if "rror" in line or "memory" in line]
    return (lines or ["no word"])[-1].strip()[:120]


def children(pid: int) -> list[str]:
    """Processes that a process started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


TRAIN = [sys.executable, "-m", "graphscale", "train", "gmeta_dlrm"]
SHOTS = (1, 2, 5, 10, 20, None)
LIMIT = 1_680_000_000
SIZE = {
    "samples": 50_000_000, "tasks": 1_000_000, "rows": 10_000_000, "tasks_per_step": 64, "steps": 40,
    "read": 4_000_000, "prepared": 40_000_000,
}  # fmt: skip
SMALL = {"samples": 500_000, "tasks": 10_000, "rows": 200_000, "steps": 8, "read": 200_000, "prepared": 2_000_000}
TABLES: dict[str, Callable[[Path, int, int], Table]] = {
    "ratings": ratings, "cold_start": cold_start, "throughput": throughput, "exchange": exchange, "limits": limits,
    "preparing": preparing, "restarts": restarts,
}  # fmt: skip


def markdown(table: Table) -> str:
    """A table as Markdown."""
    head, lines = table
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("runs/gmeta_dlrm"))
    parser.add_argument("--only", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--configs", type=int, default=24)
    parser.add_argument("--small", action="store_true", help="sizes for a trial of throughput and preparing")
    arguments = parser.parse_args()
    if arguments.small:
        SIZE.update(SMALL)
    arguments.work.mkdir(parents=True, exist_ok=True)
    pages, rows = [], []
    for name in arguments.only:
        table = TABLES[name](arguments.work, arguments.seeds, arguments.configs)
        doc = (TABLES[name].__doc__ or name).splitlines()[0]
        pages.append(f"## {doc}\n\n{markdown(table)}\n")
        rows += [{"table": name, **dict(zip(table[0], line, strict=True))} for line in table[1]]
        print(pages[-1], flush=True)
    page = RESULTS / f"gmeta_dlrm_{'_'.join(arguments.only)}_{date.today()}.md"
    page.write_text(f"# G-Meta for recommenders\n\nCommit {probe.commit()}, {machine()}.\n\n" + "\n".join(pages))
    print(json.dumps({"benchmark": "gmeta_dlrm", "machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
