"""The README's commands and Python blocks are run; what they print is what it says, numbers within 0.03."""

from __future__ import annotations

import contextlib
import io
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


@pytest.mark.parametrize("line", [x for b, _ in blocks("bash") for x in b.splitlines() if x.startswith("graphscale ")])
def test_commands_parse(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = shlex.split(line, comments=True)[1:]
    if "--resume" in argv or argv[0] in ("prepare", "predict", "export", "evaluate"):
        return  # they need a run or a file; tests/test_outputs.py and tests/laws/test_resume.py run them
    if argv[0] == "train":  # `show` resolves the same flags without training
        argv[0] = "show"
    if argv[0] in ("list", "show"):
        assert main(argv) == 0
        assert capsys.readouterr().out
