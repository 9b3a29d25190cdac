"""The gates of a GRU as one pass over rows: what autograd makes of their parts is five times as many.

Elsewhere than on a CPU the formula stands as autograd takes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphscale.kernels.loops import exp
from graphscale.kernels.shared import wide_of
from graphscale.kernels.threads import looped

Array = NDArray[Any]


def gated(told: Tensor, mine: Tensor, state: Tensor) -> Tensor:
    """[u, d]: (1 - z) n + z state with r, z = sigmoid(told + mine) and n = tanh(told_n + mine_n + r mine_held).

    Sums of shorter floats are taken, and given, in float32 on a CPU.

    Args:
        told: [u, 3 d] what a message adds to r, z and n.
        mine: [u, 4 d] what the state adds to r, z, n, and to n where r lets it.
        state: [u, d], a constant.
    """
    rows, d = state.shape
    if told.shape != (rows, 3 * d) or mine.shape != (rows, 4 * d):  # a compiled loop does not look
        raise ValueError(f"told {list(told.shape)} and mine {list(mine.shape)} of states {list(state.shape)}")
    if told.device.type == "cpu":
        out: Tensor = _Gates.apply(*(wide_of(x) for x in (told, mine, state)))  # type: ignore[no-untyped-call]
        return out
    reset, update = (told[:, : 2 * d] + mine[:, : 2 * d]).sigmoid().split(d, dim=1)
    fresh = torch.tanh(told[:, 2 * d :] + mine[:, 2 * d : 3 * d] + reset * mine[:, 3 * d :])
    return torch.lerp(fresh, state.to(fresh.dtype), update)


class _Gates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, told: Tensor, mine: Tensor, state: Tensor) -> Tensor:
        out, gates = torch.empty_like(state), torch.empty_like(told)  # r, z and n
        looped(_forward, told, mine, state, gates, out)
        ctx.save_for_backward(gates, mine, state)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gates, mine, state = ctx.saved_tensors
        to_told, to_mine = torch.empty_like(gates), torch.empty_like(mine)
        looped(_backward, grad.contiguous(), gates, mine, state, to_told, to_mine)
        return to_told, to_mine, None


@njit(parallel=True, nogil=True, cache=True, fastmath={"contract"})
def _forward(told: Array, mine: Array, state: Array, gates: Array, out: Array) -> None:
    d, one, two = state.shape[1], state.dtype.type(1), state.dtype.type(2)
    for i in prange(len(state)):
        sums, gate = np.empty(3 * d, dtype=state.dtype), gates[i]
        for j in range(2 * d):  # exp is of what is below 0: a sigmoid is e / (1 + e) there, and its complement above
            sums[j] = told[i, j] + mine[i, j]
            gate[j] = -abs(sums[j])
        exp(gate[: 2 * d])
        for j in range(2 * d):
            gate[j] = (one if sums[j] >= 0 else gate[j]) / (one + gate[j])
        for j in range(2 * d, 3 * d):
            sums[j] = told[i, j] + mine[i, j] + gate[j - 2 * d] * mine[i, j + d]
            gate[j] = -two * abs(sums[j])
        exp(gate[2 * d :])
        for j in range(d):
            e = gate[2 * d + j]
            fresh = (one - e) / (one + e)
            fresh = fresh if sums[2 * d + j] >= 0 else -fresh
            gate[2 * d + j] = fresh
            out[i, j] = fresh + gate[d + j] * (state[i, j] - fresh)


@njit(parallel=True, nogil=True, cache=True, fastmath={"contract"})
def _backward(grad: Array, gates: Array, mine: Array, state: Array, to_told: Array, to_mine: Array) -> None:
    d, one = state.shape[1], state.dtype.type(1)
    for i in prange(len(state)):
        for j in range(d):
            reset, update, fresh = gates[i, j], gates[i, d + j], gates[i, 2 * d + j]
            to_sum = grad[i, j] * (one - update) * (one - fresh * fresh)
            to_reset = to_sum * mine[i, 3 * d + j] * reset * (one - reset)
            to_update = grad[i, j] * (state[i, j] - fresh) * update * (one - update)
            to_told[i, j] = to_mine[i, j] = to_reset
            to_told[i, d + j] = to_mine[i, d + j] = to_update
            to_told[i, 2 * d + j] = to_mine[i, 2 * d + j] = to_sum
            to_mine[i, 3 * d + j] = to_sum * reset
