"""Two real processes: the same accuracy, one writer, a lost rank by name. A start takes seconds: few are shared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from graphscale.__main__ import main
from graphscale.errors import InputError
from graphscale.world import World, joined, launched

LAUNCHERS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "MASTER_ADDR",
)  # fmt: skip
PROGRAM = [sys.executable, "-m", "graphscale", "train", "cluster_gcn"]
TRAIN = ["--data", "planted:600", "--num-parts", "12", "--layers", "2", "--hidden", "16", "--nproc", "2"]
EXACT = ["--threads", "1", "--save-seconds", "0.001"]


@pytest.fixture
def alone(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


def begun(folder: Path, *flags: str) -> subprocess.Popen[str]:
    """The command of two processes, in a folder."""
    env = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a fixture of a module comes before `ctrl_c`
    try:
        return subprocess.Popen([*PROGRAM, *flags], cwd=folder, env=env, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for_epochs(run: Path, process: subprocess.Popen[str], more_than: int = 0) -> None:
    deadline = time.monotonic() + 120
    while len(epochs(run)) <= more_than:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it does not train"
        time.sleep(0.01)


def lines(run: Path) -> list[dict]:
    """The epochs that were logged; a killed writer may have left a part of one."""
    file = run / "metrics.jsonl"
    whole = file.read_text().rpartition("\n")[0] if file.is_file() else ""
    return [json.loads(line) for line in whole.splitlines()]


def epochs(run: Path) -> list[int]:
    return [line["epoch"] for line in lines(run)]


@dataclass(frozen=True)
class Stopped:
    """A run of two processes after Ctrl-C."""

    folder: Path  # of ``parts``, the run
    returncode: int
    said: str
    checkpoints: int
    goal: int  # epochs that a resumed run, and an uninterrupted one, are to have


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    process = begun(folder, *TRAIN, *EXACT, "--epochs", "100000", "--out", "parts")
    wait_for_epochs(folder / "parts", process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=90)
    saved = len(list((folder / "parts" / "checkpoints").glob("epoch-*.pt")))
    return Stopped(folder, process.returncode, said, saved, max(8, len(epochs(folder / "parts")) + 3))


@pytest.fixture(scope="module")
def whole(stopped) -> dict:
    """The result of an uninterrupted run beside the stopped one, as it was printed."""
    process = begun(stopped.folder, *TRAIN, *EXACT, "--epochs", str(stopped.goal), "--out", "whole", "--json")
    printed, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert printed.count('"recipe"') == 1
    return json.loads(printed.splitlines()[-1])


def test_two_processes_train_and_one_writes(stopped, whole):
    assert whole["test"]["accuracy"] > 0.4  # chance is 1/8
    assert json.loads((stopped.folder / "whole" / "result.json").read_text())["test"] == whole["test"]
    assert epochs(stopped.folder / "whole") == list(range(1, stopped.goal + 1))


def test_every_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2"),
                        ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="2 processes.*1 GPU:.*--nproc 1, or --device cpu"), joined("auto"):
        pass


def test_ctrl_c_saves_and_says_how_to_go_on(stopped):
    assert stopped.returncode == 130
    assert "Traceback" not in stopped.said
    assert "--resume --out parts --nproc 2" in stopped.said
    assert stopped.checkpoints == 1


def test_two_ranks_resume_inside_an_epoch_to_the_bit(stopped, whole, alone, monkeypatch, capsys):
    parts = stopped.folder / "parts"
    resume = [*TRAIN, *EXACT, "--epochs", str(stopped.goal), "--out", "parts", "--resume"]
    monkeypatch.chdir(stopped.folder)
    assert main(["train", "cluster_gcn", *resume, "--nproc", "1"]) == 2
    assert "--nproc" in capsys.readouterr().err
    process = begun(stopped.folder, *resume, "--profile")
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "goes on after epoch" in said
    assert "of 2 processes this is the leading one, rank 0, alone" in (parts / "profile/report.md").read_text()
    found, expected = ([(x["loss"], x["scores"]) for x in lines(stopped.folder / name)] for name in ("parts", "whole"))
    assert found == expected


def rank_of(pid: int) -> str | None:
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((p[5:].decode() for p in pairs if p.startswith(b"RANK=")), None)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()]


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_ranks_end_with_their_launcher_and_a_rank_that_is_lost_is_named(tmp_path):
    process = begun(tmp_path, *TRAIN, "--epochs", "100000", "--save-every", "2", "--out", "run")
    wait_for_epochs(tmp_path / "run", process)
    ranks = [pid for pid in children(process.pid) if rank_of(pid) is not None]
    assert len(ranks) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() and state_of(pid) != "Z" for pid in ranks):
        assert time.monotonic() < deadline, "a rank outlives its launcher"
        time.sleep(0.1)
    # The number of processes is the run's: it need not be said again.
    process = begun(tmp_path, "--resume", "--out", "run")
    wait_for_epochs(tmp_path / "run", process, more_than=len(epochs(tmp_path / "run")))
    (second,) = [pid for pid in children(process.pid) if rank_of(pid) == "1"]
    os.kill(second, signal.SIGKILL)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 1
    (line,) = [x for x in said.splitlines() if x.startswith("error:")]
    assert "rank 1 was lost: killed by SIGKILL" in line
    assert "--resume --out run --nproc 2" in line
    found = epochs(tmp_path / "run")
    assert found == list(range(1, len(found) + 1)), "the resumed run goes on where the checkpoint was"


def test_wrong_input_is_said_once(tmp_path):
    process = begun(tmp_path, *TRAIN, "--monitor", "nothing")
    _, said = process.communicate(timeout=90)
    assert process.returncode == 2
    assert [x for x in said.splitlines() if x.startswith("error:")] == [
        x for x in said.splitlines() if "monitor 'nothing'" in x
    ]
    assert said.count("monitor 'nothing'") == 1


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
