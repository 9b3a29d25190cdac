"""cos(w dt + b), the encoding of times (TGAT, Xu et al. 2020, equation 7), at the precision of its parameters.

A product of seconds and w in float32 is wrong by a tenth of a turn after a year, and libm's cosine is called a number
at a time for such arguments. Here turns are counted in float64, whole turns are dropped, and the rest is a polynomial,
which compiles to vectors: exact to 1e-15, and faster than float32 was.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from graphscale.kernels.threads import looped

Array = NDArray[Any]
_TURN = 0.5 / math.pi
# sin(pi r) = r S(r r) and cos(pi r) = C(r r) for |r| <= 1/2: Taylor's, whose next terms are below 1e-17.
_S = np.array([(-1) ** n * math.pi ** (2 * n + 1) / math.factorial(2 * n + 1) for n in range(11)])
_C = np.array([(-1) ** n * math.pi ** (2 * n) / math.factorial(2 * n) for n in range(12)])
_S0, _S1, _S2, _S3, _S4, _S5, _S6, _S7, _S8, _S9, _S10 = (float(c) for c in _S)
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11 = (float(c) for c in _C)
CHUNK = 64  # times of one partial sum, whatever the threads: sums do not depend on their number


@njit(inline="always", fastmath={"contract"})
def _half(turns: Any) -> tuple[Any, Any]:
    """(sin, cos) of half the angle of some turns."""
    r = turns - np.floor(turns + 0.5)
    x = r * r
    s = _S5 + x * (_S6 + x * (_S7 + x * (_S8 + x * (_S9 + x * _S10))))
    s = r * (_S0 + x * (_S1 + x * (_S2 + x * (_S3 + x * (_S4 + x * s)))))
    c = _C6 + x * (_C7 + x * (_C8 + x * (_C9 + x * (_C10 + x * _C11))))
    c = _C0 + x * (_C1 + x * (_C2 + x * (_C3 + x * (_C4 + x * (_C5 + x * c)))))
    return s, c


@njit(nogil=True, cache=True, fastmath={"contract"})
def wave(dt: Any, w: Array, b: Array, cos: Array) -> None:
    """cos[d] = cos(w[d] dt + b[d])."""
    for d in range(len(w)):
        s, _ = _half((np.float64(w[d]) * dt + np.float64(b[d])) * _TURN)
        cos[d] = 1.0 - 2.0 * s * s


@njit(nogil=True, cache=True, fastmath={"contract"})
def wave_and_slope(dt: Any, w: Array, b: Array, cos: Array, slope: Array) -> None:
    """``wave``, and -sin(w[d] dt + b[d])."""
    for d in range(len(w)):
        s, c = _half((np.float64(w[d]) * dt + np.float64(b[d])) * _TURN)
        cos[d], slope[d] = 1.0 - 2.0 * s * s, -2.0 * s * c


@njit(parallel=True, nogil=True, cache=True)
def _waves(dt: Array, w: Array, b: Array, out: Array) -> None:
    for i in prange(len(dt)):
        wave(dt[i], w, b, out[i])


@njit(parallel=True, nogil=True, cache=True)
def _waves_back(dt: Array, w: Array, b: Array, grad: Array, to_w: Array, to_b: Array) -> None:
    """Gradients to w and b [chunks, T], summed over the times of a chunk."""
    for chunk in prange(to_w.shape[0]):
        cos, slope = np.empty_like(w), np.empty_like(w)
        to_w[chunk], to_b[chunk] = 0, 0
        for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(dt))):
            wave_and_slope(dt[i], w, b, cos, slope)
            for d in range(len(w)):
                part = slope[d] * grad[i, d]
                to_w[chunk, d] += part * dt[i]
                to_b[chunk, d] += part


class _Waves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(dt, w, b)
        out = w.new_empty(dt.numel(), w.numel())
        looped(_waves, dt, w, b, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        dt, w, b = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            with torch.enable_grad():
                to_w, to_b = torch.autograd.grad(_plain(dt, w, b), (w, b), grad, create_graph=True)
                return None, to_w, to_b
        parts = w.new_empty(2, -(-dt.numel() // CHUNK), w.numel())
        looped(_waves_back, dt, w, b, grad.to(w.dtype).contiguous(), *parts)
        to_w, to_b = parts.sum(1)
        return None, to_w, to_b


def _plain(dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.cos(dt.double()[..., None] * w.double() + b.double()).to(w.dtype)


def waves(dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """[..., T]: cos(w dt + b).

    Args:
        dt: [...] times, constants.
        w, b: [T] of one type, which is the result's.
    """
    if dt.device.type != "cpu" or dt.numel() == 0 or w.dtype not in (torch.float32, torch.float64):
        return _plain(dt, w, b)
    out: Tensor = _Waves.apply(dt.reshape(-1).contiguous(), w, b)  # type: ignore[no-untyped-call]
    return out.view(*dt.shape, w.numel())
