"""Compiled loops over the records of tasks: words to padded arrays, ids to distinct rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_MIX = np.uint64(0x9E3779B97F4A7C15)


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
def unpacked(
    words: Any, order: Any, begins: Any, shown: Any, asked: Any, skip: Any, dense: int, slots: int, firsts: Any,
    sizes: Any, stride: int, rows: int, width: int,
) -> Any:  # fmt: skip
    """Labels [T, n], dense numbers [T, n, D] and rows [T, n, K] of the tasks' support, then of their queries.

    Args:
        words: [R, W] int32.
        order: [R] records; a task's are permuted among themselves.
        begins: [T] first record of a task in ``order``.
        shown: [T] records of its support that are taken, the last ones.
        asked: [T] queries, which follow the support.
        skip: [T] records of the support before those.
        width: largest support; queries begin at this place.

    Returns:
        ids outside their table are -2 and make the caller refuse the records.
    """
    tasks = len(begins)
    n = width + (asked.max() if tasks else 0)
    y = np.zeros((tasks, n), dtype=np.int32)
    numbers = np.zeros((tasks, n, dense), dtype=np.int32)
    row = np.full((tasks, n, slots), -1, dtype=np.int64)
    for t in range(tasks):
        for j in range(shown[t] + asked[t]):
            at = order[begins[t] + skip[t] + j]
            place = j if j < shown[t] else width + j - shown[t]
            y[t, place] = words[at, 0]
            for k in range(dense):
                numbers[t, place, k] = words[at, 1 + k]
            for k in range(slots):
                v = words[at, 1 + dense + k]
                if v >= sizes[k]:
                    row[t, place, k] = -2
                elif v >= 0:
                    row[t, place, k] = (firsts[k] + v) * stride % rows
    return y, numbers, row


@njit(nogil=True, cache=True)
def distinct_rows(rows: Any) -> Any:
    """(distinct rows [u] in the order in which they are met, [m] int32 the number of each); below 0 it is -1.

    A table of places with linear probing, twice as large as what may be met.
    """
    m = len(rows)
    bits = 4
    while (1 << bits) < 2 * m:
        bits += 1
    mask = (1 << bits) - 1
    shift = np.uint64(64 - bits)
    key = np.full(mask + 1, -1, dtype=np.int64)
    number = np.empty(mask + 1, dtype=np.int32)
    found = np.empty(m, dtype=np.int64)
    out = np.empty(m, dtype=np.int32)
    count = 0
    for i in range(m):
        v = rows[i]
        if v < 0:
            out[i] = -1
            continue
        place = np.int64((np.uint64(v) * _MIX) >> shift)
        while key[place] != v and key[place] != -1:
            place = (place + 1) & mask
        if key[place] == -1:
            key[place] = v
            number[place] = count
            found[count] = v
            count += 1
        out[i] = number[place]
    return found[:count].copy(), out


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
