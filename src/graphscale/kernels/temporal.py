"""Neighbours of nodes before a moment: a CSR by node and time, and samples of it.

Events are numbered in the order of time, so a moment is a number: ``cut`` c sees the events 0 .. c - 1. Searching for
numbers in place of times makes ties harmless, and one batch's cut is its first event where a batch must not see
itself. N nodes, E events, n queries, k neighbours a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from graphscale import scratch
from graphscale.kernels import temporal_torch
from graphscale.kernels.sampling import mix
from graphscale.kernels.tail import NONE, Tail
from graphscale.kernels.threads import looped

Ints = NDArray[Any]
_SMALL = 1 << 13  # numbers that one thread writes
_CHUNK = 512  # queries
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class TemporalCsr:
    """Every node's events in the order of time."""

    indptr: Tensor  # [N + 1] int64
    neighbour: Tensor  # [entries] the other end
    event: Tensor  # [entries] int64, ascending within a node
    tail: Tail | None = None  # what came since

    @property
    def num_nodes(self) -> int:
        """Nodes."""
        return self.indptr.numel() - 1

    @cached_property
    def arrays(self) -> tuple[Ints, Ints, Ints]:
        """``indptr``, ``neighbour``, ``event`` as compiled loops take them: a small batch is read in microseconds."""
        return self.indptr.numpy(), self.neighbour.numpy(), self.event.numpy()

    @cached_property
    def keys(self) -> Tensor:
        """[entries] int64, ascending: a node's entries by (node, event) as one number, for searches on any device."""
        count = self.indptr.diff()
        node = torch.repeat_interleave(torch.arange(self.num_nodes, device=count.device), count)
        return node * self._span + self.event

    @cached_property
    def _span(self) -> int:
        return int(self.event.max()) + 1 if self.event.numel() else 1


def temporal_csr(src: Tensor, dst: Tensor, num_nodes: int, *, directed: bool = False) -> TemporalCsr:
    """The CSR of a stream of events in the order of time.

    Args:
        src: [E] nodes.
        dst: [E] nodes.
        directed: a node's neighbours are the sources of its events alone; else both ends are one another's. An event
            of a node with itself counts once.
    """
    count = torch.zeros(num_nodes + 1, dtype=torch.int64)
    looped(_count, src, dst, directed, count)
    indptr = count.cumsum(0)
    entries = int(indptr[-1])
    neighbour, event = scratch.empty(entries, dtype=src.dtype), scratch.empty(entries, dtype=torch.int64)
    looped(_fill, src, dst, directed, indptr.clone(), neighbour, event)
    return TemporalCsr(indptr, neighbour, event)


def extended(csr: TemporalCsr, src: Tensor, dst: Tensor, num_nodes: int, first: int, directed: bool) -> TemporalCsr:
    """The CSR with later events, numbered from ``first``, behind every node's own: one pass of copies, no sort."""
    tail = temporal_csr(src, dst, num_nodes, directed=directed)
    old = torch.nn.functional.pad(csr.indptr, (0, num_nodes - csr.num_nodes), value=int(csr.indptr[-1]))
    indptr = old + tail.indptr
    entries, wide = int(indptr[-1]), torch.promote_types(csr.neighbour.dtype, src.dtype)
    neighbour, event = scratch.empty(entries, dtype=wide), scratch.empty(entries, dtype=torch.int64)
    arrays = (old, csr.neighbour, csr.event, tail.indptr, tail.neighbour, tail.event, first, indptr, neighbour, event)
    looped(_behind, *arrays)
    return TemporalCsr(indptr, neighbour, event)


@njit(parallel=True, nogil=True, cache=True)
def _behind(
    old: Ints, neighbours: Ints, events: Ints, tail: Ints, later: Ints, later_events: Ints, first: int,
    indptr: Ints, neighbour: Ints, event: Ints,
) -> None:  # fmt: skip
    for v in prange(len(indptr) - 1):
        at = indptr[v]
        for j in range(old[v], old[v + 1]):
            neighbour[at], event[at] = neighbours[j], events[j]
            at += 1
        for j in range(tail[v], tail[v + 1]):
            neighbour[at], event[at] = later[j], later_events[j] + first
            at += 1


@njit(nogil=True, cache=True)
def _count(src: Ints, dst: Ints, directed: bool, count: Ints) -> None:
    for e in range(len(src)):
        count[dst[e] + 1] += 1
        if not directed and src[e] != dst[e]:
            count[src[e] + 1] += 1


@njit(nogil=True, cache=True)
def _fill(src: Ints, dst: Ints, directed: bool, place: Ints, neighbour: Ints, event: Ints) -> None:
    for e in range(len(src)):
        at = place[dst[e]]
        neighbour[at], event[at] = src[e], e
        place[dst[e]] += 1
        if not directed and src[e] != dst[e]:
            at = place[src[e]]
            neighbour[at], event[at] = dst[e], e
            place[src[e]] += 1


def recent(csr: TemporalCsr, nodes: Tensor, cuts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(neighbours, events) [n, k] of each node's k latest events before its cut, the latest first; -1 beyond them.

    Args:
        nodes: [n].
        cuts: [n] int64: events numbered below are seen.
    """
    if nodes.device.type != "cpu":
        assert csr.tail is None, "a tail is read on the CPU"
        return temporal_torch.recent(csr, nodes, cuts, k)
    neighbour = torch.empty(nodes.numel(), k, dtype=csr.neighbour.dtype)
    event = torch.empty(nodes.numel(), k, dtype=torch.int64)
    # A few thousand numbers are written before other threads have woken up.
    arrays = (nodes, cuts, neighbour, event)
    tail = NONE if csr.tail is None else csr.tail.arrays
    if event.numel() <= _SMALL:
        _recent(*csr.arrays, *(array.numpy() for array in arrays), *tail)
    else:
        looped(_recent_in_chunks, *csr.arrays, *arrays, *tail)
    return neighbour, event


@njit(nogil=True, cache=True)
def _before(event: Ints, lo: int, hi: int, cut: int) -> int:
    """The first place in lo:hi whose event is not before the cut."""
    while lo < hi:
        middle = (lo + hi) // 2
        if event[middle] < cut:
            lo = middle + 1
        else:
            hi = middle
    return lo


@njit(nogil=True, cache=True)
def _recent(
    indptr: Ints, neighbours: Ints, events: Ints, nodes: Ints, cuts: Ints, neighbour: Ints, event: Ints,
    head: Ints, before: Ints, later: Ints, later_events: Ints,
) -> None:  # fmt: skip
    k = event.shape[1]
    for i in range(len(nodes)):
        v, have = nodes[i], 0
        if v < len(head):
            at = head[v]
            while at >= 0 and have < k:
                if later_events[at] < cuts[i]:
                    neighbour[i, have], event[i, have] = later[at], later_events[at]
                    have += 1
                at = before[at]
        if have < k and v < len(indptr) - 1:
            end = _before(events, indptr[v], indptr[v + 1], cuts[i])
            more = min(k - have, end - indptr[v])
            for j in range(more):  # a counted loop, which LLVM unrolls
                neighbour[i, have + j] = neighbours[end - 1 - j]
                event[i, have + j] = events[end - 1 - j]
            have += more
        for j in range(have, k):
            neighbour[i, j], event[i, j] = -1, -1


@njit(parallel=True, nogil=True, cache=True)
def _recent_in_chunks(
    indptr: Ints, neighbours: Ints, events: Ints, nodes: Ints, cuts: Ints, neighbour: Ints, event: Ints,
    head: Ints, before: Ints, later: Ints, later_events: Ints,
) -> None:  # fmt: skip
    tail = (head, before, later, later_events)
    for chunk in prange((len(nodes) + _CHUNK - 1) // _CHUNK):
        at, to = chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(nodes))
        _recent(indptr, neighbours, events, nodes[at:to], cuts[at:to], neighbour[at:to], event[at:to], *tail)


def uniform(csr: TemporalCsr, nodes: Tensor, cuts: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """(neighbours, events) [n, k] drawn without replacement of each node's events before its cut, the latest first.

    What is drawn follows from (seed, node, cut): it depends neither on the other queries nor on threads.
    """
    assert csr.tail is None, "any event of the past may be drawn: the tail must be merged first"
    if nodes.device.type != "cpu":
        return temporal_torch.uniform(csr, nodes, cuts, k, seed)
    neighbour = torch.empty(nodes.numel(), k, dtype=csr.neighbour.dtype)
    event = torch.empty(nodes.numel(), k, dtype=torch.int64)
    arrays = (csr.indptr, csr.neighbour, csr.event, nodes, cuts, np.uint64(seed), neighbour, event)
    looped(_uniform, *arrays)
    return neighbour, event


@njit(parallel=True, nogil=True, cache=True)
def _uniform(
    indptr: Ints, neighbours: Ints, events: Ints, nodes: Ints, cuts: Ints, seed: Any, neighbour: Ints, event: Ints
) -> None:  # fmt: skip
    k = event.shape[1]
    for i in prange(len(nodes)):
        v = nodes[i]
        lo = indptr[v]
        end = _before(events, lo, indptr[v + 1], cuts[i])
        there = end - lo
        have = min(k, there)
        state = mix(mix(np.uint64(v) * _GAMMA + seed) + np.uint64(cuts[i]))
        for j in range(have):
            place = end - 1 - j
            if there > k:  # Floyd: as in kernels.sampling
                state += _GAMMA
                top = there - k + j
                place = lo + np.int64((mix(state) >> np.uint64(11)) % np.uint64(top + 1))
                for s in range(j):
                    if event[i, s] == events[place]:
                        place = lo + top
                        break
            event[i, j] = events[place]
        if there > k:
            event[i, :have] = -np.sort(-event[i, :have])
        for j in range(have):  # events of a node are distinct, so an event has one place
            neighbour[i, j] = neighbours[_before(events, lo, end, event[i, j])]
        for j in range(have, k):
            neighbour[i, j], event[i, j] = -1, -1


def between(csr: TemporalCsr, nodes: Tensor, lows: Tensor, highs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(Place in nodes, event, neighbour) [m] of every event of each node numbered from its low to below its high.

    By node as given, and in the order of time.

    Args:
        nodes: [n].
        lows, highs: [n] int64.
    """
    tail = NONE if csr.tail is None else csr.tail.arrays
    start, count, later = (torch.empty(nodes.numel(), dtype=torch.int64) for _ in range(3))
    looped(_ranges, *csr.arrays, nodes, lows, highs, *tail, start, count, later)
    end = (count + later).cumsum(0)
    place, event, neighbour = (torch.empty(int(end[-1]) if nodes.numel() else 0, dtype=torch.int64) for _ in range(3))
    looped(_copied, *csr.arrays, nodes, highs, *tail, start, count, later, end, place, event, neighbour)
    return place, event, neighbour


@njit(parallel=True, nogil=True, cache=True)
def _ranges(
    indptr: Ints, neighbours: Ints, event: Ints, nodes: Ints, lows: Ints, highs: Ints, head: Ints, before: Ints,
    others: Ints, later_events: Ints, start: Ints, count: Ints, later: Ints,
) -> None:  # fmt: skip
    for i in prange(len(nodes)):
        v = nodes[i]
        start[i] = count[i] = later[i] = 0
        if v < len(indptr) - 1:
            lo = _before(event, indptr[v], indptr[v + 1], lows[i])
            start[i], count[i] = lo, _before(event, lo, indptr[v + 1], highs[i]) - lo
        at = head[v] if v < len(head) else -1
        while at >= 0 and later_events[at] >= lows[i]:
            later[i] += later_events[at] < highs[i]
            at = before[at]


@njit(parallel=True, nogil=True, cache=True)
def _copied(
    indptr: Ints, neighbours: Ints, events: Ints, nodes: Ints, highs: Ints, head: Ints, before: Ints, others: Ints,
    later_events: Ints, start: Ints, count: Ints, later: Ints, ends: Ints, place: Ints, event: Ints, neighbour: Ints,
) -> None:  # fmt: skip
    for i in prange(len(nodes)):
        first = ends[i] - count[i] - later[i]
        place[first : ends[i]] = i
        for j in range(count[i]):
            event[first + j], neighbour[first + j] = events[start[i] + j], neighbours[start[i] + j]
        at, to = head[nodes[i]] if later[i] else -1, ends[i] - 1
        while to >= first + count[i]:  # a tail has the latest first
            if later_events[at] < highs[i]:
                event[to], neighbour[to] = later_events[at], others[at]
                to -= 1
            at = before[at]
