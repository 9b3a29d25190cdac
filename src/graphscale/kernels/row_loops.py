"""Compiled loops over rows of embedding tables: first values, and descent on the rows that a step touched.

Rates are given in the rows' type: with a wider one a loop would widen every number, and run at a fraction of the speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

_A, _B, _C = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@njit(nogil=True, cache=True, parallel=True)
def uniform_rows(out: Any, first: int, scale: float, seed: int) -> None:
    """Fill rows ``first``.. of a table with numbers in (-scale, scale): a function of (seed, row, column) alone.

    SplitMix64 of the place (Steele, Lea, Flood; OOPSLA 2014), of which 24 bits are taken.
    """
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            z = np.uint64(seed) + _A * (np.uint64(first + i) * np.uint64(out.shape[1]) + np.uint64(j + 1))
            z = (z ^ (z >> np.uint64(30))) * _B
            z = (z ^ (z >> np.uint64(27))) * _C
            z ^= z >> np.uint64(31)
            out[i, j] = scale * (2.0 * (np.float64(z >> np.uint64(40)) + 0.5) / 16777216.0 - 1.0)


@njit(nogil=True, cache=True, parallel=True)
def taken(rows: Any, ids: Any, first: int, out: Any) -> None:
    """``out[i] = rows[ids[i] - first]``."""
    for i in prange(len(ids)):
        row = ids[i] - first
        for j in range(rows.shape[1]):
            out[i, j] = rows[row, j]


@njit(nogil=True, cache=True, parallel=True)
def summed(starts: Any, order: Any, values: Any, out: Any) -> None:
    """``out[g]``: the sum of ``values[order[i]]`` for i in ``starts[g]:starts[g + 1]``, in that order."""
    for g in prange(len(starts) - 1):
        for j in range(values.shape[1]):
            total = values[order[starts[g]], j]
            for i in range(starts[g] + 1, starts[g + 1]):
                total += values[order[i], j]
            out[g, j] = total


@njit(nogil=True, cache=True, parallel=True)
def sgd(rows: Any, ids: Any, gradient: Any, lr: float, decay: float) -> None:
    """``w -= lr (g + decay w)`` of rows ``ids``, which are distinct."""
    for i in prange(len(ids)):
        row = ids[i]
        for j in range(rows.shape[1]):
            rows[row, j] -= lr * (gradient[i, j] + decay * rows[row, j])


# The squares of a row may be added in any order, which is that of the machine's vectors.
@njit(nogil=True, cache=True, parallel=True, fastmath={"reassoc", "contract"})
def adagrad(rows: Any, squares: Any, ids: Any, gradient: Any, lr: float, decay: float, eps: float) -> None:
    """Row-wise Adagrad: ``s += mean(g^2)``, ``w -= lr g / (sqrt(s) + eps)``, a number ``s`` a row."""
    width, zero = rows.shape[1], np.zeros(1, rows.dtype)[0]
    for i in prange(len(ids)):
        row = ids[i]
        total = zero
        for j in range(width):
            g = gradient[i, j] + decay * rows[row, j]
            total += g * g
        squares[row] += total / width
        rate = lr / (np.sqrt(squares[row]) + eps)
        for j in range(width):
            rows[row, j] -= rate * (gradient[i, j] + decay * rows[row, j])


@njit(nogil=True, cache=True, parallel=True)
def adam(
    rows: Any, mean: Any, square: Any, ids: Any, gradient: Any, lr: float, decay: float, b1: float, b2: float,
    c1: float, c2: float, eps: float,
) -> None:  # fmt: skip
    """Lazy Adam: moments of the touched rows alone move; ``c1`` and ``c2`` are the corrections of their bias."""
    one = np.ones(1, rows.dtype)[0]
    for i in prange(len(ids)):
        row = ids[i]
        for j in range(rows.shape[1]):
            g = gradient[i, j] + decay * rows[row, j]
            m = b1 * mean[row, j] + (one - b1) * g
            v = b2 * square[row, j] + (one - b2) * g * g
            mean[row, j] = m
            square[row, j] = v
            rows[row, j] -= lr * (m / c1) / (np.sqrt(v / c2) + eps)
