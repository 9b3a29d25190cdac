from __future__ import annotations

import mmap
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from graphscale import __version__, probe

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no count of anonymous memory")


@contextmanager
def pages(size):
    """Written memory that goes back to the system at once, whatever the C library keeps (``heap``)."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        for start in range(0, size, mmap.PAGESIZE):
            held[start] = 1
        yield


@linux
def test_anonymous_memory_counts_what_is_allocated_and_not_mapped_files(tmp_path):
    before = probe.anon_mb()
    with pages(80_000_000):
        assert probe.anon_mb() - before == pytest.approx(80, abs=8)
    path = tmp_path / "file"
    np.save(path.with_suffix(".npy"), np.ones(5_000_000))
    before = probe.anon_mb()
    mapped = np.load(path.with_suffix(".npy"), mmap_mode="r")
    assert mapped.sum() == 5_000_000
    assert probe.anon_mb() - before < 8  # its 40 MB are the file's


@linux
def test_the_peak_is_seen_after_it_has_gone():
    with probe.PeakMemory(interval=0.001) as memory:
        start = probe.anon_mb()
        with pages(80_000_000):
            threading.Event().wait(0.1)
    assert memory.peak_mb - start > 70
    assert probe.anon_mb() - start < 40


@linux
def test_the_watch_ends_with_its_block():
    before = threading.active_count()
    counts = []

    def fails():
        with probe.PeakMemory():
            counts.append(threading.active_count())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert counts == [before + 1]
    assert threading.active_count() == before


def test_a_system_without_the_count(monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "_STATUS", tmp_path / "none")
    assert probe.anon_mb() is None
    with probe.PeakMemory() as memory:
        pass
    assert memory.peak_mb is None


def test_versions():
    found = probe.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"] == torch.__version__
    assert found["graphscale"] == __version__
    assert {"torch-geometric", "numpy", "numba", "pymetis", "torchmetrics", "machine"} <= set(found)


def test_commit_is_that_of_the_source_or_none():
    commit = probe.commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{12,40}\+?", commit)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A source tree with this package in a repository of its own; gives (git, path of the module)."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    module = tmp_path / "src" / "probe.py"
    module.parent.mkdir()
    module.write_text("x = 1\n")

    def git(*arguments: str) -> str:
        who = (
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@x",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "core.hooksPath=/dev/null",
        )
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    monkeypatch.setattr(probe, "__file__", str(module))
    return git, module


def test_commit_of_a_repository(source):
    git, module = source
    assert probe.commit() is None  # not committed yet: that is no commit's source
    git("add", ".")
    git("commit", "-qm", "first")
    head = git("rev-parse", "--short=12", "HEAD")
    assert probe.commit() == head
    module.write_text("x = 2\n")
    assert probe.commit() == f"{head}+"


def test_commit_of_a_package_installed_inside_another_repository(source):
    # An environment inside a user's own repository: that repository's commit says nothing of this package.
    git, module = source
    (module.parent / "theirs.py").write_text("y = 1\n")
    git("add", "src/theirs.py")
    git("commit", "-qm", "theirs")
    assert probe.commit() is None


def test_commit_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert probe.commit() is None
