from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from graphscale import probe, scratch
from graphscale.errors import InputError


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Everything goes to files, blocks are of a few numbers."""
    monkeypatch.setattr(scratch, "_IN_MEMORY", 0)
    monkeypatch.setattr(scratch, "_BLOCK", 10)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.int64, torch.bool])
def test_an_array_of_a_file_is_an_array(tiny, dtype):
    value = torch.arange(35).view(5, 7).to(dtype)
    array = scratch.empty(5, 7, dtype=dtype)
    array.copy_(value)
    assert array.is_contiguous() and torch.equal(array, value)
    assert scratch.empty(0, 3, dtype=dtype).shape == (0, 3)
    assert list(tiny.iterdir()) == []  # the file has no name: nothing is left however the process ends


def test_rows_are_taken_in_blocks(tiny):
    index = torch.tensor([3, 3, 0, 4, 1])
    for rows in (torch.randn(5, 4), torch.randn(5), torch.arange(5) % 2 == 0, torch.randn(5, 20), torch.randn(5, 2, 2)):
        assert torch.equal(scratch.taken(rows, index), rows[index])
        assert scratch.taken(rows, index[:0]).shape == (0, *rows.shape[1:])


@pytest.mark.parametrize(("rows", "width"), [(0, 3), (1, 100), (7, 3), (30, 1), (5, 0)])
def test_blocks_cover_all_rows_once(tiny, rows, width):
    covered = [i for some in scratch.blocks(rows, width) for i in range(some.start, some.stop)]
    assert covered == list(range(rows))


# In a process of its own: one that has trained hands out what was freed before (``heap``).
LARGE = """
import torch
from graphscale import probe, scratch
before = probe.anon_mb()
array = scratch.empty(300, 1 << 20)  # 1.2 GB
array[:100] = 1.0
assert probe.anon_mb() - before < 50, "a large array is anonymous memory"
small = scratch.empty(64, 1 << 20, dtype=torch.int8)
small.fill_(1)
assert probe.anon_mb() - before > 60, "a small array is none"
"""


@pytest.mark.skipif(probe.anon_mb() is None, reason="this system does not count anonymous memory")
def test_large_arrays_are_no_anonymous_memory():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system does not reserve room in a file")
def test_a_full_disk_is_said_before_anything_is_written(tiny):
    with pytest.raises(InputError, match=r"no file of .* MB could be made for work in .*TMPDIR"):
        scratch.empty(1 << 50, dtype=torch.int8)


def test_the_folder_is_the_users_choice_or_on_a_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert scratch.folder() == str(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no writable folder"):
        scratch.folder()
    monkeypatch.delenv("TMPDIR")
    if os.access("/var/tmp", os.W_OK):
        assert scratch.folder() == "/var/tmp"


@pytest.mark.parametrize("rows", [0, 3, 20_000])  # small, and large enough for large pages
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_zeros_in_memory_are_zeros_that_can_be_written(rows, dtype, monkeypatch):
    monkeypatch.setattr(scratch, "_LARGE", 1 << 16)
    array = scratch.zeros(rows, 7, dtype=dtype)
    assert array.shape == (rows, 7) and array.dtype == dtype and array.is_contiguous() and not array.any()
    array[rows // 2 :] = 1
    assert int(array.long().sum()) == 7 * (rows - rows // 2)


def test_a_table_without_memory_is_refused(monkeypatch):
    def none(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(scratch.mmap, "mmap", none)
    with pytest.raises(InputError, match="4,295 MB .* on disk"):
        scratch.zeros(1 << 30)


def test_large_zeros_cost_nothing_before_they_are_written():
    code = """
from graphscale import probe, scratch
before = probe.anon_mb()
array = scratch.zeros(1 << 20, 256)  # 1 GB
assert probe.anon_mb() - before < 50, "untouched"
array[: 1 << 18] = 1.0
assert 200 < probe.anon_mb() - before < 400, "what was written is memory"
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
