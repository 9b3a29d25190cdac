"""The README's commands and Python blocks are run; what they print is what it says, numbers within 0.03."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from graphscale.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+\.\d+")


def blocks(language):
    """(code, output) pairs: a block of the language, and the text block right after it, if any."""
    pattern = rf"```{language}\n(.*?)```(?:\n+```text\n(.*?)```)?"
    return re.findall(pattern, README, flags=re.DOTALL)


def assert_same_but_for_noise(got, said):
    assert NUMBER.sub("#", got).split() == NUMBER.sub("#", said).split()
    for a, b in zip(NUMBER.findall(got), NUMBER.findall(said), strict=True):
        assert abs(float(a) - float(b)) <= 0.03, f"{got!r} for {said!r}"


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block[0].splitlines()[0][:40])
def test_python_blocks(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = block
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {"__name__": "__readme__"})
    assert said, "a Python block shows what it prints"
    assert_same_but_for_noise(out.getvalue(), said)


def test_there_are_python_blocks():
    assert len(blocks("python")) >= 2


COMMANDS = [x for b, _ in blocks("bash") for x in b.splitlines() if x.startswith("graphscale ")]
NEEDS_A_RUN = ("evaluate", "predict", "export")
NEEDS_TABLES = ("adapt",)  # tests/test_adapting.py has them
NEEDS_DATA = ("prepare", "prepare-events", "prepare-tasks", "generate")


@pytest.mark.parametrize(
    "line", [x for x in COMMANDS if x.split()[1] not in (*NEEDS_A_RUN, *NEEDS_DATA, *NEEDS_TABLES)]
)
def test_commands_parse(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = shlex.split(line, comments=True)[1:]
    if "--resume" in argv:
        assert main(argv) == 2  # there is no runs/X; tests/laws/test_resume.py resumes what is
        assert "runs/X" in capsys.readouterr().err
        return
    if argv[0] in ("train", "advise"):  # `show` resolves the same flags without training
        argv[0] = "show"
    if argv[0] == "tune":  # its own command, made short
        argv = [{"--trials": "1"}.get(before, word) for before, word in zip(["", *argv], argv, strict=False)]
        argv += ["--epochs", "1", "--json"]
    assert main(argv) == 0
    assert capsys.readouterr().out


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder in which ``make demo`` has been, and the README's run over a stream, made short."""
    folder = tmp_path_factory.mktemp("demo")
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    (line,) = [x for x in makefile.splitlines() if x.startswith("\t$(BIN)/graphscale ")]
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        assert main(shlex.split(line)[1:]) == 0
        (line,) = [x for x in COMMANDS if "--out runs/stream" in x]
        argv = shlex.split(line, comments=True)[1:]
        small = {"--data": "planted-stream:600", "--epochs": "1"}
        assert main([small.get(before, word) for before, word in zip(["", *argv], argv, strict=False)]) == 0
    return folder


def test_the_demo_prints_what_is_promised(demo):
    low, high = re.search(r"\*\*(\d+) to (\d+) %\*\*", README).groups()
    result = json.loads((demo / "runs/demo/result.json").read_text())
    # A deviation over seeds is half a point; another machine's order of summation is another draw.
    assert int(low) - 1 <= 100 * result["test"]["accuracy"] <= int(high) + 1


@pytest.mark.parametrize("line", [x for x in COMMANDS if x.split()[1] in NEEDS_A_RUN])
def test_commands_on_the_demo(line, demo, monkeypatch):
    monkeypatch.chdir(demo)
    argv = shlex.split(line, comments=True)[1:]
    assert main(argv) == 0
    if "--to" in argv:
        assert Path(argv[argv.index("--to") + 1]).stat().st_size


@pytest.mark.parametrize("line", [x for x in COMMANDS if x.split()[1] == "generate"])
def test_a_graph_is_generated(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = shlex.split(line, comments=True)[1:]
    small = {"--nodes": "3000", "--edges": "30000", "--num-parts": "20"}
    argv = [small.get(before, word) for before, word in zip(["", *argv], argv, strict=False)]
    assert main(argv) == 0
    assert main(["info", argv[argv.index("--to") + 1], "--verify"]) == 0


@pytest.mark.parametrize("line", [x for x in COMMANDS if x.split()[1] in NEEDS_DATA[:3]])
def test_a_file_becomes_a_store(line, tmp_path, monkeypatch):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as parquet

    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    argv = shlex.split(line, comments=True)[1:]
    names = {"prepare-events": ("src", "dst"), "prepare-tasks": ("user", "item")}.get(argv[0], ("source", "target"))
    ends = {name: draw.integers(2000 if argv[0] != "prepare-tasks" else 500, size=20000) for name in names}
    if argv[0] == "prepare-tasks":
        ends["clicked"] = draw.integers(2, size=20000)
    if argv[0] == "prepare-events":
        ends["t"] = np.arange(20000)
    parquet.write_table(pa.table(ends), argv[1])
    assert main(argv) == 0
    assert main(["info", argv[argv.index("--to") + 1], "--verify"]) == 0
