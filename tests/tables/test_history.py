from __future__ import annotations

import threading

import pytest
import torch

from graphscale.errors import InputError
from graphscale.tables.history import History
from graphscale.tables.resident import Resident, histories
from graphscale.testing import check_table
from graphscale.world import World

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("disk", [False, True])
def test_conformance(dtype, disk):
    check_table(lambda: History(8, 3, dtype=dtype, disk=disk))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_conformance_where_rows_lie_on_the_device(dtype):
    check_table(lambda: Resident(8, 3, dtype=dtype, device=CPU))


@pytest.mark.parametrize("ids", [[0, 1, 2], [5, 6, 1, 2, 9], list(range(0, 100, 3)), [7, 7, 3, 7], []])
def test_ranges_and_scattered_rows_are_written_alike(ids):
    table, expected = History(100, 2), torch.zeros(100, 2)
    for number in range(2):
        values = torch.randn(len(ids), 2)
        table.write(torch.tensor(ids, dtype=torch.int64), values)
        for i, row in zip(ids, values, strict=True):
            expected[i] = row
        assert torch.equal(table.rows, expected)
        assert set(table.written[ids].tolist()) <= {number}


def test_rows_that_a_write_overtakes_are_read_again():
    table, ids = History(50, 4), torch.tensor([3, 10, 4, 40])
    table.write(torch.arange(50), torch.randn(50, 4))
    table.prefetch(ids)
    table.write(torch.arange(2, 12), torch.randn(10, 4))
    table.write(torch.tensor([40]), torch.randn(1, 4))
    assert torch.equal(table.read(ids), table.rows[ids])


def test_a_thread_gathers_what_is_announced(monkeypatch):
    table, ids, seen = History(50, 4), torch.arange(10), []

    def gathered(table, ids, device):
        seen.append(threading.current_thread())
        return Now(table[ids])

    monkeypatch.setattr("graphscale.tables.history.gathered", gathered)
    table.prefetch(ids)
    table.read(ids)
    table.read(ids)  # nothing was announced this time
    assert [t is threading.main_thread() for t in seen] == [False, True]
    table.prefetch(ids)
    other = torch.arange(20, 30)
    assert torch.equal(table.read(other), table.rows[other])  # something else was announced


class Now:
    def __init__(self, rows):
        self.here = lambda: rows


def test_ages_are_counted_in_steps():
    table = History(10, 1)
    table.write(torch.arange(5), torch.ones(5, 1))
    table.write(torch.arange(5, 8), torch.ones(3, 1))
    table.set_range(8, torch.ones(1, 1), slice(0, 1))
    table.read(torch.tensor([0, 5, 8, 9]))  # two steps ago; one; computed with today's weights; never
    assert table.taken_ages() == (2 + 1 + 0 + 2, 4)
    table.peek(torch.tensor([0]))
    assert table.taken_ages() == (0, 0)


def test_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match="cannot fill"):
        History(8, 3).load_state_dict(History(8, 4).state_dict())


def test_rows_on_the_device_are_those_of_the_host():
    kept = [histories(place, 60, 4, dtype=torch.bfloat16, device=CPU) for place in ("ram", "device")]
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        ids = torch.randint(60, (30,), generator=draw)  # with duplicates, of which the last one counts
        values, rows = torch.randn(30, 4, generator=draw), torch.randn(7, 2, generator=draw)
        for table in kept:
            table.prefetch(ids)
            table.write(ids, values)
            table.set_range(11, rows, slice(1, 3))
        here, there = (table.read(ids.flip(0)) for table in kept)
        assert torch.equal(here, there) and torch.equal(kept[0].peek(ids), kept[1].peek(ids))
    here, there = (table.state_dict() for table in kept)
    assert here["ages"][0] > 0
    assert all(here[name].dtype == there[name].dtype and torch.equal(here[name], there[name]) for name in here)
    assert kept[0].taken_ages() == kept[1].taken_ages() and kept[1].taken_ages() == (0, 0)
    other = histories("device", 60, 4, dtype=torch.bfloat16, device=CPU)
    other.load_state_dict(here)
    assert torch.equal(other.rows, kept[0].rows) and other.writes == kept[0].writes


def test_a_device_holds_no_rows_of_other_ranks():
    with pytest.raises(InputError, match="2 processes share"):
        histories("device", 8, 3, dtype=torch.float32, device=CPU, world=World(0, 2))


def test_state_of_another_size_is_refused_on_the_device():
    small = histories("device", 8, 3, dtype=torch.float32, device=CPU)
    with pytest.raises(ValueError, match="cannot fill"):
        small.load_state_dict(History(8, 4).state_dict())
