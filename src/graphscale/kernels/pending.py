"""What nodes have yet to take in, in one pass: a node's numbers lie far apart in memory and are waited for together."""

from __future__ import annotations

from typing import Any

import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from graphscale.kernels.threads import looped

Array = NDArray[Any]
_CHUNK = 512  # nodes that one thread looks at


def pending(
    ids: Tensor, newest: Tensor, taken: Tensor, src: Tensor, dst: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The latest event of every node of which it is not taken in yet.

    Args:
        ids: [k] nodes.
        newest, taken: [N] number of a node's latest event, and of the latest one taken in, -1 where there is none.
        src, dst, t: [E] the stream.

    Returns:
        Of the m nodes that have one: place in ``ids``, ascending; the event; its other end; float32 time from the event
        that was taken in last, 0 where none was.
    """
    of, event, other = (torch.empty(ids.numel(), dtype=torch.int64) for _ in range(3))
    elapsed = torch.empty(ids.numel())
    arrays = (ids, newest, taken, src, dst, t, event, other, elapsed)
    if ids.numel() <= _CHUNK:  # read before another thread has woken up
        _found(*(array.numpy() for array in arrays))
    else:
        looped(_found_in_chunks, *arrays)
    m = _closed(of.numpy(), event.numpy(), other.numpy(), elapsed.numpy())
    return of[:m], event[:m], other[:m], elapsed[:m]


@njit(nogil=True, cache=True)
def _found(
    ids: Array, newest: Array, taken: Array, src: Array, dst: Array, t: Array, event: Array, other: Array,
    elapsed: Array,
) -> None:  # fmt: skip
    for i in range(len(ids)):
        v = ids[i]
        e, before = newest[v], taken[v]
        event[i] = -1
        if e > before:
            event[i] = e
            other[i] = src[e] if dst[e] == v else dst[e]
            elapsed[i] = t[e] - t[before] if before >= 0 else 0


@njit(parallel=True, nogil=True, cache=True)
def _found_in_chunks(
    ids: Array, newest: Array, taken: Array, src: Array, dst: Array, t: Array, event: Array, other: Array,
    elapsed: Array,
) -> None:  # fmt: skip
    for chunk in prange((len(ids) + _CHUNK - 1) // _CHUNK):
        some = slice(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(ids)))
        _found(ids[some], newest, taken, src, dst, t, event[some], other[some], elapsed[some])


@njit(nogil=True, cache=True)
def _closed(of: Array, event: Array, other: Array, elapsed: Array) -> int:
    """Those with an event, side by side; how many."""
    m = 0
    for i in range(len(event)):
        if event[i] >= 0:
            of[m], event[m], other[m], elapsed[m] = i, event[i], other[i], elapsed[i]
            m += 1
    return m
