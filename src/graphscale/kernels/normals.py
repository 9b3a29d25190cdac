"""Normal numbers that follow from a key: the same for a row whatever rows are drawn beside it, on any rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from graphscale.kernels.sampling import mix
from graphscale.kernels.threads import looped

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_UNIT = 2.0**-53


def normals(keys: Tensor, moments: Tensor, width: int) -> Tensor:
    """[k, width] float32, standard normal; row i follows from ``keys[i]`` and ``moments[i]`` alone.

    Args:
        keys, moments: [k] int64.
    """
    out = torch.empty(keys.numel(), width)
    looped(_normals, keys, moments, out)
    return out


@njit(parallel=True, nogil=True, cache=True)
def _normals(keys: NDArray[Any], moments: NDArray[Any], out: NDArray[Any]) -> None:
    for i in prange(len(keys)):
        state = mix(mix(np.uint64(keys[i]) * _GAMMA) + np.uint64(moments[i]))
        for j in range(0, out.shape[1], 2):  # Box and Muller's pairs
            state += _GAMMA
            radius = np.sqrt(-2.0 * np.log((np.float64(mix(state) >> np.uint64(11)) + 1.0) * _UNIT))
            state += _GAMMA
            angle = 2.0 * np.pi * np.float64(mix(state) >> np.uint64(11)) * _UNIT
            out[i, j] = radius * np.cos(angle)
            if j + 1 < out.shape[1]:
                out[i, j + 1] = radius * np.sin(angle)
