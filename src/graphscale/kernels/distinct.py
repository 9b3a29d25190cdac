"""Distinct ids of a batch in one pass, by a table of places that is as large as all ids and is left clean."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor


class Distinct:
    """Numbers ids in the order in which they are first met.

    Args:
        num_ids: ids are 0 .. num_ids - 1. The table takes 4 bytes each; a batch costs what it touches.
    """

    def __init__(self, num_ids: int) -> None:
        self._place = np.full(num_ids, -1, dtype=np.int32)

    def follow(self, num_ids: int) -> None:
        """Take ids up to ``num_ids`` from now on."""
        if num_ids > len(self._place):
            self._place = np.full(num_ids, -1, dtype=np.int32)

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(distinct ids [u] in the order of their first places, [n] int64 the number of every id); -1 stays -1."""
        flat = ids.reshape(-1)
        first, number = _distinct(flat.numpy(), self._place)
        return torch.from_numpy(first), torch.from_numpy(number).view(ids.shape)


@njit(nogil=True, cache=True)
def _distinct(ids: NDArray[Any], place: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    first = np.empty(len(ids), dtype=np.int64)
    number = np.empty(len(ids), dtype=np.int64)
    found = 0
    for i in range(len(ids)):
        v = ids[i]
        if v < 0:
            number[i] = -1
            continue
        if place[v] < 0:
            place[v] = found
            first[found] = v
            found += 1
        number[i] = place[v]
    for j in range(found):
        place[first[j]] = -1
    return first[:found].copy(), number
