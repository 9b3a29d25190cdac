"""Dropout that follows from a number drawn of torch's generator, and keeps nothing for its backward pass.

Whether a number stays is a hash of its place and of the draw: computed by all threads, the same on any
number of them, and once more in the backward pass. torch draws one number after the other on a CPU, which
took more than half of a forward pass; elsewhere its own dropout is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from graphscale.kernels.threads import looped

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_BLOCK = 1 << 14


@njit(inline="always")
def mixed(z: Any) -> Any:
    """A bijection of 32-bit words without visible structure (lowbias32, Wellons 2018)."""
    z = np.uint32((z ^ (z >> np.uint32(16))) * np.uint32(0x7FEB352D))  # numba widens products to 64 bits
    z = np.uint32((z ^ (z >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(z ^ (z >> np.uint32(16)))


@njit(nogil=True, cache=True)
def _kept_of(bits: NDArray[Any], first: Any, second: Any, below: Any, out: NDArray[Any]) -> None:
    nothing = bits.dtype.type(0)
    for i in range(len(bits)):
        z = mixed(np.uint32(mixed(np.uint32(np.uint32(i) + first)) ^ second))
        out[i] = bits[i] if z >= below else nothing


@njit(parallel=True, nogil=True, cache=True)
def _kept(bits: NDArray[Any], key: NDArray[Any], below: Any, out: NDArray[Any]) -> None:
    """out[i] = bits[i] where the hash of (key, i) is ``below`` or more, else 0."""
    for block in prange((len(bits) + _BLOCK - 1) // _BLOCK):
        start = block * _BLOCK
        stop = min(start + _BLOCK, len(bits))
        # Places beyond 2^32 do not repeat the first ones. A loop over a plain array is what compiles to vectors.
        first = np.uint32(key[0] + np.uint32(start) + mixed(np.uint32(start >> 32)))
        _kept_of(bits[start:stop], first, key[1], below, out[start:stop])


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, key: Tensor) -> Tensor:
        ctx.p, ctx.key = p, key
        below = threshold(p)
        x = x.contiguous()
        out = torch.empty_like(x)
        word = _BITS[x.element_size()]
        looped(_kept, x.view(word).view(-1), key.numpy().view(np.uint32), np.uint32(below), out.view(word).view(-1))
        return out.mul_(1 / (1 - below / 2**32))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        out: Tensor = _Dropout.apply(grad, ctx.p, ctx.key)  # type: ignore[no-untyped-call]
        return out, None, None


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """X with every number zeroed with probability p, and the others divided by 1 - p.

    Args:
        x: of any shape and float type.
        p: in [0, 1).
        training: False gives x itself.

    Returns:
        A tensor like x, differentiable to any order. Random by torch's generator of the CPU, where x lies there.
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or x.numel() == 0 or threshold(p) >= 2**32:
        return F.dropout(x, p, training)
    out: Tensor = _Dropout.apply(x, p, key_of())  # type: ignore[no-untyped-call]
    return out


def key_of() -> Tensor:
    """[1] int64, a draw of torch's generator of the CPU: 63 bits, and a sign bit that is 0."""
    return torch.empty(1, dtype=torch.int64).random_()


def threshold(p: float) -> int:
    """The 32-bit hash below which a number is dropped with probability p."""
    return round(p * 2**32)
