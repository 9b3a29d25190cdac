from __future__ import annotations

import subprocess
import sys

import pytest

from graphscale import heap

FAULTS = """
import resource, torch
from graphscale import heap
kept = heap.keep_freed()
x = torch.ones(1 << 24)
def passes(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        y = x.relu()
        z = y.relu()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
passes(20)
print(int(kept), passes(8))
"""


def faults(**environment):
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=environment)
    return [int(part) for part in done.stdout.split()]


def test_freed_memory_serves_again():
    kept, many = faults()
    if not kept:
        pytest.skip("this C library gives memory back as it likes")
    left, more = faults(GRAPHSCALE_KEEP_FREED="0")
    assert not left
    assert many < more / 10


def test_it_may_be_left_as_it_is(monkeypatch):
    monkeypatch.setenv("GRAPHSCALE_KEEP_FREED", "0")
    assert heap.keep_freed() is False
