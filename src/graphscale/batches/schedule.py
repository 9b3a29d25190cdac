"""Where a stream is cut into batches: by count, by time, by dependence, or into JODIE's t-batches.

Every function takes the numbers [m] of the events in question, ascending, and gives the places [batches + 1] in
them at which batches begin; t-batches, which take events out of their order, also give that order.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from graphscale.errors import InputError
from graphscale.events import Events

Cut = Literal["count", "window", "capped", "tbatch"]


def by_count(num_events: int, size: int) -> Tensor:
    """Batches of ``size`` events, the last one smaller."""
    return torch.cat([torch.arange(0, num_events, size), torch.tensor([num_events])])


def by_window(t: Tensor, width: float) -> Tensor:
    """Batches of the events of a stretch of time; stretches without any are left out.

    Args:
        t: [m] moments.
        width: of a stretch, in the unit of time; the first one begins at the first event.
    """
    width = min(width, float(t[-1] - t[0]) + 1)  # a stretch that holds all
    number = ((t - t[0]) / width).floor() if t.is_floating_point() else (t - t[0]) // _whole(width)
    starts = torch.cat([torch.ones(1, dtype=torch.bool), number.diff() > 0]).nonzero()[:, 0]
    return torch.cat([starts, torch.tensor([t.numel()])])


def _whole(width: float) -> int:
    if width != int(width):
        raise InputError(f"--window {width}: times are whole numbers here, and so must the window be. Round it.")
    return int(width)


def by_dependence(src: Tensor, dst: Tensor, num_nodes: int, size: int, share: float) -> Tensor:
    """Batches of at most ``size`` events in which at most a share of the ends has met an earlier event of the batch.

    A batch ends before the event that would exceed it: such pending events are what parallel processing gets wrong.
    """
    starts = _capped(src.numpy(), dst.numpy(), np.full(num_nodes, -1, dtype=np.int64), size, share)
    return torch.from_numpy(starts)


@njit(nogil=True, cache=True)
def _capped(
    src: NDArray[Any], dst: NDArray[Any], batch_of: NDArray[Any], size: int, share: float
) -> NDArray[Any]:  # fmt: skip
    starts = [0]
    pending, start, floor = np.int64(0), 0, 16  # below so many events a share says little
    for e in range(len(src)):
        met = np.int64(batch_of[src[e]] == len(starts)) + np.int64(batch_of[dst[e]] == len(starts))
        inside = e - start
        if inside >= size or (inside >= min(floor, size) and pending + met > share * 2 * (inside + 1)):
            starts.append(e)
            start, pending, met = e, np.int64(0), np.int64(0)
        pending += met
        batch_of[src[e]] = len(starts)
        batch_of[dst[e]] = len(starts)
    starts.append(len(src))
    return np.array(starts)


def latest_earlier(src: Tensor, dst: Tensor, num_nodes: int) -> Tensor:
    """[m] place of the latest earlier event that shares an end with each, -1 where there is none.

    An event has a pending one (PRES, definition 2) in a batch that begins there or before.
    """
    return torch.from_numpy(_earlier(src.numpy(), dst.numpy(), np.full(num_nodes, -1, dtype=np.int64)))


@njit(nogil=True, cache=True)
def _earlier(src: NDArray[Any], dst: NDArray[Any], last: NDArray[Any]) -> NDArray[Any]:
    earlier = np.empty(len(src), dtype=np.int64)
    for e in range(len(src)):
        earlier[e] = max(last[src[e]], last[dst[e]])
        last[src[e]] = last[dst[e]] = e
    return earlier


def by_node(src: Tensor, dst: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """JODIE's t-batches: (order [m], starts): a node occurs once a batch, and its events in their order.

    An event's batch is the one after the last batch of either end.
    """
    number = torch.from_numpy(_levels(src.numpy(), dst.numpy(), np.full(num_nodes, -1, dtype=np.int64)))
    order = number.argsort(stable=True)
    counts = torch.bincount(number)
    return order, torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


@njit(nogil=True, cache=True)
def _levels(src: NDArray[Any], dst: NDArray[Any], last: NDArray[Any]) -> NDArray[Any]:
    level = np.empty(len(src), dtype=np.int64)
    for e in range(len(src)):
        level[e] = max(last[src[e]], last[dst[e]]) + 1
        last[src[e]] = last[dst[e]] = level[e]
    return level


def scheduled(
    events: Events, numbers: Tensor, *, cut: Cut, size: int, window: float = 0.0, share: float = 0.2
) -> tuple[Tensor, Tensor]:
    """(Numbers of events in the order of training, starts of batches among them).

    Args:
        numbers: [m] ascending, the events to be trained on.
        size: of a batch, for count and capped.
        window: of time, for window.
        share: of ends that may be pending, for capped.
    """
    if cut == "count":
        return numbers, by_count(numbers.numel(), size)
    src, dst = events.src[numbers], events.dst[numbers]
    if cut == "tbatch":
        order, starts = by_node(src, dst, events.num_nodes)
        return numbers[order], starts
    if cut == "window":
        return numbers, by_window(events.t[numbers], window)
    return numbers, by_dependence(src, dst, events.num_nodes, size, share)
