"""Two real processes: the same accuracy, one writer, a lost rank by name. A minute in all, so few and full tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graphscale.errors import InputError
from graphscale.world import World, joined, launched

TRAIN = [
    sys.executable, "-m", "graphscale", "train", "cluster_gcn", "--data", "planted:600", "--num-parts", "12",
    "--layers", "2", "--hidden", "16", "--nproc", "2",
]  # fmt: skip


@pytest.fixture
def alone(monkeypatch):
    for name in (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_LOCALID",
        "MASTER_ADDR",
    ):
        monkeypatch.delenv(name, raising=False)


def test_two_processes_train_and_one_writes(tmp_path, alone):
    done = subprocess.run(
        [*TRAIN, "--epochs", "8", "--out", "run", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.stdout.count('"recipe"') == 1
    assert result["test"]["accuracy"] > 0.4  # chance is 1/8
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"] == result["test"]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 8
    resumed = subprocess.run(
        [*TRAIN, "--epochs", "9", "--out", "run", "--resume", "--profile"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on after epoch 8" in resumed.stderr
    assert "of 2 processes this is the leading one, rank 0, alone" in (tmp_path / "run/profile/report.md").read_text()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 9


def test_two_ranks_resume_inside_an_epoch_to_the_bit(tmp_path, alone):
    def story(name):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [(line["loss"], line["scores"]) for line in lines]

    flags = ["--epochs", "30", "--threads", "1", "--save-seconds", "0.001"]
    subprocess.run([*TRAIN, *flags, "--out", "whole"], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    process = subprocess.Popen([*TRAIN, *flags, "--out", "parts"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "parts" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=90)
    resume = [*TRAIN, *flags, "--out", "parts", "--resume"]
    alone_again = subprocess.run([*resume, "--nproc", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert alone_again.returncode == 2
    assert "--nproc" in alone_again.stderr
    subprocess.run(resume, cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    assert story("parts") == story("whole")


def rank_of(pid: int) -> str | None:
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((p[5:].decode() for p in pairs if p.startswith(b"RANK=")), None)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_a_lost_rank_ends_the_run_and_is_named(tmp_path, alone):
    process = subprocess.Popen(
        [*TRAIN, "--epochs", "100000", "--save-seconds", "0.5", "--out", "run"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    metrics = tmp_path / "run" / "metrics.jsonl"
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.1)
    (second,) = [pid for pid in children(process.pid) if rank_of(pid) == "1"]
    os.kill(second, signal.SIGKILL)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 1
    (line,) = [x for x in said.splitlines() if x.startswith("error:")]
    assert "rank 1 was lost: killed by SIGKILL" in line
    assert "--resume --out run --nproc 2" in line


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, alone):
    process = subprocess.Popen(
        [*TRAIN, "--epochs", "100000", "--out", "run"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    metrics = tmp_path / "run" / "metrics.jsonl"
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "--resume --out run --nproc 2" in said
    assert len(list((tmp_path / "run" / "checkpoints").glob("epoch-*.pt"))) == 1


def test_wrong_input_is_said_once(tmp_path, alone):
    done = subprocess.run([*TRAIN, "--monitor", "nothing"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert [x for x in done.stderr.splitlines() if x.startswith("error:")] == [
        x for x in done.stderr.splitlines() if "monitor 'nothing'" in x
    ]
    assert done.stderr.count("monitor 'nothing'") == 1


def test_a_process_knows_its_launcher(alone, monkeypatch):
    assert launched() is None
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    assert launched() is None  # an interactive shell of SLURM
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert launched() == (3, 4, 0)
    with pytest.raises(InputError, match="MASTER_ADDR"), joined("cpu"):
        pass
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert launched() == (1, 2, 1)  # torchrun inside SLURM


def test_alone_the_world_is_one(alone):
    with joined("cpu") as world:
        assert world == World(0, 1)
        assert world.share({"a": 1}) == {"a": 1}
        assert world.totals(1.5, 2) == (1.5, 2)


def test_ranks_end_with_their_launcher_and_the_run_resumes(tmp_path, alone):
    process = subprocess.Popen(
        [*TRAIN, "--epochs", "100000", "--save-every", "2", "--out", "run"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    metrics = tmp_path / "run" / "metrics.jsonl"
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.1)
    ranks = [pid for pid in children(process.pid) if rank_of(pid) is not None]
    assert len(ranks) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() and state_of(pid) != "Z" for pid in ranks):
        assert time.monotonic() < deadline, "a rank outlives its launcher"
        time.sleep(0.1)
    done = len(metrics.read_text().splitlines())
    resume = [sys.executable, "-m", "graphscale", "train", "cluster_gcn", "--resume", "--out", "run"]
    # The number of processes is the run's: it need not be said again.
    resumed = subprocess.run([*resume, "--epochs", str(done + 2)], cwd=tmp_path, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    epochs = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
    assert epochs == list(range(1, done + 3))


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"
