"""Compiled loops over the records of tasks: words to padded arrays, ids to distinct rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_MIX = np.uint64(0x9E3779B97F4A7C15)
_LOW = 24  # bits of a place that hold the number, under those of the row: one access for both
MOST = 1 << _LOW  # numbers there can be


@njit(nogil=True, cache=True)
def shuffled(begins: Any, sizes: Any, seed: int) -> Any:
    """[R] an order of records: those of every task among themselves (Fisher and Yates), by numbers of SplitMix64."""
    order = np.arange(begins[-1] + sizes[-1] if len(begins) else 0)
    state = np.uint64(seed)
    for t in range(len(begins)):
        for i in range(sizes[t] - 1, 0, -1):
            state += _MIX
            z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            j = np.int64((z ^ (z >> np.uint64(31))) % np.uint64(i + 1))
            a, b = begins[t] + i, begins[t] + j
            order[a], order[b] = order[b], order[a]
    return order


@njit(nogil=True, cache=True)
def places(most: int) -> Any:
    """An empty table of places for up to ``most`` rows, with linear probing: row and number in one."""
    bits = 4
    while (1 << bits) < 2 * most:
        bits += 1
    return np.full(1 << bits, -1, dtype=np.int64)


@njit(nogil=True, cache=True)
def unpacked(
    words: Any, order: Any, begins: Any, shown: Any, asked: Any, skip: Any, width: int, firsts: Any, sizes: Any,
    y: Any, dense: Any, ids: Any, table: Any, found: Any, count: int,
) -> Any:  # fmt: skip
    """Fill a block of tasks, and number its ids in the order in which they are met.

    Args:
        words: [R, W] int32.
        order: [R] records; a task's are permuted among themselves.
        begins: [T] first record of a task in ``order``.
        shown: [T] records of its support that are taken, the last ones.
        asked: [T] queries, which follow the support.
        skip: [T] records of the support before those.
        width: largest support; queries begin at this place.
        firsts, sizes: [K] the first row and the rows of each slot's table.
        y, dense, ids: [T, n] of zeros, [T, n, D] of zeros, [T, n, K] of -1: what is filled.
        table: of ``places``.
        found: the rows so far, in the order of their numbers.
        count: how many.

    Returns:
        (how many there are now, slots that hold an id); (-1, 0) where an id is outside its table.
    """
    numbers, slots = dense.shape[2], ids.shape[2]
    mask, filled = len(table) - 1, 0
    bits = 0
    while (1 << bits) <= mask:
        bits += 1
    shift = np.uint64(64 - bits)
    for t in range(len(begins)):
        for j in range(shown[t] + asked[t]):
            at = order[begins[t] + skip[t] + j]
            place = j if j < shown[t] else width + j - shown[t]
            y[t, place] = words[at, 0]
            for k in range(numbers):
                dense[t, place, k] = words[at, 1 + k]
            for k in range(slots):
                v = words[at, 1 + numbers + k]
                if v < 0:
                    continue
                if v >= sizes[k]:
                    return -1, 0
                row = firsts[k] + v
                cell = np.int64((np.uint64(row) * _MIX) >> shift)
                held = table[cell]
                while held != -1 and held >> _LOW != row:
                    cell = (cell + 1) & mask
                    held = table[cell]
                if held == -1:
                    held = (row << _LOW) | count
                    table[cell] = held
                    found[count] = row
                    count += 1
                ids[t, place, k] = held & (MOST - 1)
                filled += 1
    return count, filled


@njit(nogil=True, cache=True)
def renumbered(numbers: Any, rank: Any) -> None:
    """Replace every number by its rank, in place; -1 stays."""
    for i in range(len(numbers)):
        if numbers[i] >= 0:
            numbers[i] = rank[numbers[i]]


@njit(nogil=True, cache=True)
def by_task(numbers: Any, count: int) -> Any:
    """Numbers [T, m] of a step as numbers within their task, in place, and what each task's stand for.

    Args:
        count: numbers there are in the step.

    Returns:
        [T, u] int64: numbers of the step that task t has, in the order in which they are met; 0 behind them.
    """
    tasks, m = numbers.shape
    met = np.full(count, -1, dtype=np.int64)  # the task that met a number last
    local = np.empty(count, dtype=np.int32)
    own = np.zeros((tasks, m), dtype=np.int64)
    most = 1
    for t in range(tasks):
        there = 0
        for i in range(m):
            v = numbers[t, i]
            if v < 0:
                continue
            if met[v] != t:
                met[v] = t
                local[v] = there
                own[t, there] = v
                there += 1
            numbers[t, i] = local[v]
        most = max(most, there)
    return own[:, :most].copy()
