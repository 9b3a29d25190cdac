"""Sorting numbers below a bound by their digits: several times as fast as by comparison, and stable."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def ascending(keys: Any, top: int) -> Any:
    """[n] int32 the order in which numbers of 0 .. ``top`` ascend: by digits of 12 bits, the last one first."""
    n = len(keys)
    order, other = np.arange(n).astype(np.int32), np.empty(n, dtype=np.int32)
    now, following = keys.copy(), np.empty(n, dtype=np.int64)
    shift = 0
    while shift == 0 or top >> shift:
        ends = np.zeros(4097, dtype=np.int64)
        for i in range(n):
            ends[((now[i] >> shift) & 4095) + 1] += 1
        for d in range(4096):
            ends[d + 1] += ends[d]
        for i in range(n):
            d = (now[i] >> shift) & 4095
            at = ends[d]
            ends[d] = at + 1
            following[at], other[at] = now[i], order[i]
        now, following, order, other = following, now, other, order
        shift += 12
    return order
