"""Every example runs, stays short, and gets the accuracy that it is there to show."""

from __future__ import annotations

import importlib
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
AT_LEAST = {"plain_loop": 0.91, "own_model": 0.92, "compose": 0.95, "histories": 0.9}


ELSEWHERE = {"ray_tasks"}  # needs an engine that is not installed here: tests/data/test_ray_example.py stands in for it


def test_all_examples_are_listed():
    assert {p.stem for p in FOLDER.glob("*.py")} == set(AT_LEAST) | ELSEWHERE


@pytest.mark.parametrize("name", AT_LEAST)
def test_example(name, monkeypatch, tmp_path):
    path = FOLDER / f"{name}.py"
    assert len(path.read_text().splitlines()) < 60
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    assert runpy.run_path(str(path))["main"]() >= AT_LEAST[name]
