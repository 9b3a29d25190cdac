"""What of a stream training sees, validation and test: splits by time, and nodes that are kept from training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from graphscale import rng
from graphscale.data import streams
from graphscale.errors import InputError
from graphscale.events import Events
from graphscale.kernels.temporal import TemporalCsr, temporal_csr

if TYPE_CHECKING:
    from graphscale.recipes.pres import PRESConfig

_GAPS = 1 << 22  # events of nodes that a median is taken of


@dataclass(frozen=True)
class StreamViews:
    """A stream with its splits, and what of it training sees."""

    events: Events
    numbers: Tensor  # [m] events of training, ascending
    val: int  # number of the first validation event
    test: int
    known: Tensor  # [N] bool: nodes that training sees

    @property
    def splits(self) -> dict[str, tuple[int, int]]:
        """Name -> (first event, end)."""
        return {"val": (self.val, self.test), "test": (self.test, self.events.num_events)}

    def csr(self, numbers: Tensor, *, directed: bool) -> TemporalCsr:
        """Every node's events among some, by their numbers in the whole stream; there may be later ones behind."""
        if numbers.numel() and int(numbers[-1]) == numbers.numel() - 1:
            return self.first(numbers.numel(), directed=directed)
        return self.alone(numbers, directed=directed)

    def alone(self, numbers: Tensor, *, directed: bool) -> TemporalCsr:
        """As ``csr``, without an event of any other number: later ones may be put behind."""
        events = self.events
        part = temporal_csr(events.src[numbers], events.dst[numbers], events.num_nodes, directed=directed)
        return TemporalCsr(part.indptr, part.neighbour, numbers[part.event])

    def first(self, end: int, *, directed: bool) -> TemporalCsr:
        """Every node's events among the first ``end``, which are all that a query in their time may see."""
        events = self.events
        if directed == events.directed:
            return events.csr
        return temporal_csr(events.src[:end], events.dst[:end], events.num_nodes, directed=directed)

    @cached_property
    def trained(self) -> TemporalCsr:
        """Every node's events of training, as its neighbours see them."""
        return self.csr(self.numbers, directed=self.events.directed)

    def lived(self) -> TemporalCsr:
        """What nodes take in, from either end: events of training, and those after it."""
        end = self.events.num_events
        if self.numbers.numel() == self.val:  # no node is kept from training
            return self.first(end, directed=False)
        return self.csr(torch.cat([self.numbers, torch.arange(self.val, end)]), directed=False)

    def seen(self, *, neighbours: bool) -> TemporalCsr:
        """What evaluation looks at: neighbours of the whole stream; without any, what nodes took in (JODIE's time)."""
        if not neighbours:
            return self.lived()
        return self.first(self.events.num_events, directed=self.events.directed)

    @cached_property
    def gaps(self) -> tuple[float, float]:
        """Mean and deviation of the time between two events of a node, in training alone."""
        csr, end = self.trained, int(self.numbers[-1]) + 1
        count, mean, square = _spread_of_gaps(csr.indptr.numpy(), csr.event.numpy(), self.events.t.numpy(), end)
        return (mean, (square / (count - 1)) ** 0.5) if count > 1 else (1.0, 1.0)

    def update_gap(self, numbers: Tensor, starts: Tensor) -> float:
        """The median time between two updates of a node's memory in training, of those that take any.

        Args:
            numbers: [m] events in the order of training.
            starts: [batches + 1] where batches begin among them.
        """
        batch_of = torch.full((self.events.num_events,), -1, dtype=torch.int32)
        batch_of[numbers] = torch.repeat_interleave(torch.arange(len(starts) - 1, dtype=torch.int32), starts.diff())
        csr = self.csr(self.numbers, directed=False)
        stride = max(1, csr.event.numel() // _GAPS)
        found = _update_gaps(csr.indptr.numpy(), csr.event.numpy(), self.events.t.numpy(), batch_of.numpy(), stride)
        return float(np.median(found)) if len(found) else max(self.gaps[0], 1e-9)


def read(config: PRESConfig) -> StreamViews:
    """The stream and its splits by time; with ``--new`` a share of nodes is kept from training.

    Raises:
        InputError: where there is no such stream, or nothing is left to train on.
    """
    neighbours = bool(config.fanouts())
    events = streams.load(config.data, directed=config.directed if neighbours else None)
    if events.directed and not neighbours:  # whoever looks at memories alone counts a node's events from either end
        events = replace(events, directed=False, kept={})
    val, test = events.split(config.val, config.test)
    numbers = torch.arange(val)
    if config.new:
        hidden = _hidden(events, val, config.new)
        numbers = numbers[~(hidden[events.src[:val].long()] | hidden[events.dst[:val].long()])]
        if not numbers.numel():
            raise InputError(f"--new {config.new} leaves no event to train on. Keep fewer nodes from training.")
    return StreamViews(events, numbers, val, test, events.met(numbers, "src", "dst"))


def _hidden(events: Events, val: int, share: float) -> Tensor:
    """[N] bool: nodes that training must not see, a share of those that validation and test meet."""
    later = torch.cat([events.src[val:], events.dst[val:]]).unique().long()
    order = torch.randperm(later.numel(), generator=rng.generator(rng.DATA, 0))  # the same for all seeds
    hidden = torch.zeros(events.num_nodes, dtype=torch.bool)
    hidden[later[order[: round(share * later.numel())]]] = True
    return hidden


@njit(nogil=True, cache=True)
def _update_gaps(indptr: Any, event: Any, t: Any, batch_of: Any, stride: int) -> Any:
    """Of every ``stride``-th node: times from its last event of a batch to that of its next one, above 0."""
    room = 0
    for v in range(0, len(indptr) - 1, stride):
        room += indptr[v + 1] - indptr[v]
    found, count = np.empty(room), 0
    for v in range(0, len(indptr) - 1, stride):
        last = -1
        for at in range(indptr[v], indptr[v + 1]):
            e = event[at]
            if batch_of[e] < 0:
                continue
            ends = at + 1 == indptr[v + 1] or batch_of[event[at + 1]] != batch_of[e]
            if ends:
                if last >= 0 and t[e] > t[last]:
                    found[count] = float(t[e] - t[last])
                    count += 1
                last = e
    return found[:count]


@njit(nogil=True, cache=True)
def _spread_of_gaps(indptr: Any, event: Any, t: Any, end: int) -> tuple[int, float, float]:
    """(Number of gaps, their mean, the sum of squares about it), by Welford's recurrence."""
    count, mean, square = 0, 0.0, 0.0
    for v in range(len(indptr) - 1):
        for at in range(indptr[v] + 1, indptr[v + 1]):
            if event[at] >= end:
                break
            gap = float(t[event[at]] - t[event[at - 1]])
            count += 1
            off = gap - mean
            mean += off / count
            square += off * (gap - mean)
    return count, mean, square
