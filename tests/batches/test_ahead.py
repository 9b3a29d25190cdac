from __future__ import annotations

import threading
import time

import pytest

from graphscale.batches.ahead import ahead


def running():
    return [t for t in threading.enumerate() if t.name == "graphscale-ahead"]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_same_items_in_the_same_order(depth):
    assert list(ahead(iter(range(50)), depth)) == list(range(50))
    assert not running()


def test_items_are_made_ahead_but_not_without_bound():
    made = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    stream = ahead(items(), 3)
    next(stream)
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(made) == 5  # one taken, three in the queue, one in the thread's hand
    stream.close()
    assert not running()


def test_an_error_surfaces_in_its_place():
    def items():
        yield 1
        yield 2
        raise ValueError("the third batch is damaged")

    got = []
    with pytest.raises(ValueError, match="third batch"):
        for item in ahead(items(), 2):
            got.append(item)
    assert got == [1, 2]
    assert not running()


def test_leaving_early_ends_the_thread():
    for item in ahead(iter(range(1000)), 2):
        if item == 3:
            break
    deadline = time.monotonic() + 5
    while running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running()
