"""Batches of a stream in the order of time, with all that is known of them before the memory is read.

b events of a batch, r root queries, n nodes whose memory is needed. A query is a node at a moment, given as the
number of events that it may see. With ``lag`` all queries of a batch see what came before the batch: nodes are
queried once however often they occur. With ``fresh`` an event sees the events before itself, those of its batch
too; their ends' memory is that of before the batch in either case. ``apart`` is ``lag`` in batches of one event, side
by side: no two events share a query, so a sum of their losses has the gradient of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from graphscale import rng
from graphscale.batches.negatives import Negatives
from graphscale.csr import Csr
from graphscale.events import Events
from graphscale.kernels.distinct import Distinct
from graphscale.kernels.temporal import TemporalCsr, recent, uniform
from graphscale.world import World

See = Literal["lag", "fresh", "apart"]
How = Literal["recent", "uniform"]
MEMORY = "memory"  # the table's name


@dataclass(frozen=True)
class Hop:
    """Sampled events of m queries, up to k each, the latest first: E in all."""

    block: Csr  # [m, q] row i: the other ends of query i's events, among the queries of the next hop
    rows: Csr  # [m, E] row i: the events of query i
    event: Tensor  # [E] int64
    age: Tensor  # [E] float32: time from the event to the query's moment
    feat: Tensor | None  # [E, F]

    def to(self, device: torch.device) -> Hop:
        """The same hop on a device; the numbers of events stay with the host."""
        feat = None if self.feat is None else self.feat.to(device)
        return Hop(self.block.to(device), self.rows.to(device), self.event, self.age.to(device), feat)


@dataclass(frozen=True)
class EventBatch:
    """Events and what their embeddings need. Law: nothing in it comes from after a query's moment but ``y``."""

    numbers: Tensor  # [b] int64: which events
    src: Tensor  # [b] root query of every event's source
    dst: Tensor  # [b]
    neg: Tensor  # [b, K]
    n_id: Tensor  # [n] int64: nodes whose memory is read
    place: Tensor  # [q] node, among n_id, of every query of the last hop; those of earlier hops come first
    hops: tuple[Hop, ...]
    idle: Tensor  # [r] float32: time since the latest event of a root before its moment; 0 where there is none
    touched: Tensor  # [p] ends of the events, among n_id
    newest: Tensor  # [p] int64: number of the latest event of each
    seed: int
    count: int
    now: Tensor  # [] moment at which memories are read: that of the whole batch's first event
    y: Tensor | None = None  # [b] states of the sources
    needs: Mapping[str, Tensor] = field(default_factory=dict)
    padding: bool = False

    @property
    def num_roots(self) -> int:
        """R."""
        return self.idle.numel()

    def to(self, device: torch.device) -> EventBatch:
        """The same batch on a device; ids of tables stay with the host."""
        if self.src.device == device:
            return self
        hops = tuple(hop.to(device) for hop in self.hops)
        moved = {
            name: getattr(self, name).to(device) for name in ("src", "dst", "neg", "place", "idle", "touched", "now")
        }
        return replace(self, **moved, hops=hops, y=None if self.y is None else self.y.to(device))


class _Stamps:
    """When a query is: up to E the number of events that it may see, its moment that of the first one it may not.

    Beyond E: a moment after all events. (node, stamp) is one number: node * span + stamp.
    """

    def __init__(self, events: Events, later: Tensor | None = None) -> None:
        self._t, self._last = events.t, events.num_events
        self._later = events.t[:0] if later is None else later.to(events.t.dtype)
        self.span = self._last + 1 + self._later.numel()

    def cuts(self, stamps: Tensor) -> Tensor:
        """[q] events that may be seen."""
        return stamps.clamp(max=self._last).contiguous()

    def moments(self, stamps: Tensor) -> Tensor:
        """[q] moments."""
        own = self._t[stamps.clamp(max=self._last - 1)]
        if not self._later.numel():
            return own
        return torch.where(stamps > self._last, self._later[(stamps - self._last - 1).clamp(min=0)], own)


class Sampler:
    """Makes batches of events.

    Args:
        events: the stream.
        csr: what of it may be seen: all, or the events of training.
        fanouts: k of every hop; none for models that look at memory alone.
        remembers: whether there is a memory to be read.
    """

    def __init__(
        self, events: Events, csr: TemporalCsr, fanouts: tuple[int, ...], *, see: See = "lag", how: How = "recent",
        remembers: bool = True,
    ) -> None:  # fmt: skip
        self.events, self.csr, self.fanouts, self.see, self.how = events, csr, fanouts, see, how
        self.remembers = remembers
        self._distinct = Distinct(events.num_nodes)

    def follow(self, events: Events, csr: TemporalCsr) -> None:
        """Go on with a stream of which this one is the beginning."""
        self.events, self.csr = events, csr
        self._distinct.follow(events.num_nodes)

    def batch(self, numbers: Tensor, first: int, negatives: Tensor, *, seed: int = 0) -> EventBatch:
        """The batch of some events.

        Args:
            numbers: [b] ascending, or t-batched.
            first: number of the whole batch's first event: what ``lag`` may see ends before it.
            negatives: [b, K] destinations.
            seed: of uniform samples and of the step.
        """
        ends = self.events.src[numbers].long(), self.events.dst[numbers].long()
        asked = torch.cat([*ends, negatives.reshape(-1)])
        if self.see == "lag":
            stamps = torch.full((1,), first)
        else:
            stamps = torch.cat([numbers, numbers, numbers.repeat_interleave(negatives.shape[1])])
        now = self.events.t[first]
        return self._made(asked, _Stamps(self.events), stamps, numbers, negatives.shape, now, seed=seed)

    def asked(self, src: Tensor, others: Tensor, t: Tensor, *, seed: int = 0) -> EventBatch:
        """The batch of no event, for scores of what may happen after all there is; mails are read at the first moment.

        Args:
            src: [b] nodes.
            others: [b, K] other ends, which take the place of negatives.
            t: [] or [b] moments, none before the last event.
        """
        moments, which = t.reshape(-1).unique(return_inverse=True)
        stamps = self.events.num_events + 1 + which  # beyond those that are numbers of events
        if t.dim():
            stamps = torch.cat([stamps, stamps, stamps.repeat_interleave(others.shape[1])])
        nodes = torch.cat([src, src, others.reshape(-1)])  # a place for destinations, as in any batch
        times = _Stamps(self.events, moments)
        none = torch.empty(0, dtype=torch.int64)
        return self._made(nodes, times, stamps, none, others.shape, moments.min().to(self.events.t.dtype), seed=seed)

    def _made(
        self, asked: Tensor, times: _Stamps, stamps: Tensor, numbers: Tensor, shape: torch.Size, now: Tensor, *,
        seed: int,
    ) -> EventBatch:  # fmt: skip
        b = shape[0]
        if stamps.numel() == 1:
            nodes, number = self._distinct(asked)
            stamps = stamps.expand(nodes.numel())
        else:
            span = times.span
            key, number = (asked * span + stamps).unique(return_inverse=True)
            nodes, stamps = key // span, key % span
        roots, hops, own = nodes.numel(), [], stamps
        for depth, k in enumerate(self.fanouts):
            hop, nodes, stamps = self._hop(nodes, stamps, times, k, seed, depth)
            hops.append(hop)
        idle = self._idle(nodes[:roots], own, times, hops)
        n_id, place = self._distinct(nodes)
        touched, newest = self._touched(numbers, n_id)
        label, needs = self.events.label, {MEMORY: n_id} if self.remembers else {}
        return EventBatch(
            numbers, number[:b], number[b : 2 * b], number[2 * b :].view(shape), n_id, place, tuple(hops), idle,
            touched, newest, seed, b, now, None if label is None else label[numbers], needs,
        )  # fmt: skip

    def _hop(
        self, nodes: Tensor, stamps: Tensor, times: _Stamps, k: int, seed: int, depth: int
    ) -> tuple[Hop, Tensor, Tensor]:  # fmt: skip
        """Events of the queries, and the queries of the next hop: these, and the other ends."""
        cuts = times.cuts(stamps)
        if self.how == "recent":
            neighbour, event = recent(self.csr, nodes, cuts, k)
        else:
            neighbour, event = uniform(self.csr, nodes, cuts, k, rng.derive(rng.SAMPLE, seed, depth))
        there = event >= 0
        count, number, other = there.sum(1), event[there], neighbour[there].long()
        age = (times.moments(stamps).repeat_interleave(count) - self.events.t[number]).float()
        feat = None if self.events.feat is None else self.events.feat[number]
        if self.see == "lag" and stamps.stride(0) == 0:  # of one moment: a node is one query
            wider, place = self._distinct(torch.cat([nodes, other]))
            place, later = place[nodes.numel() :], stamps[:1].expand(wider.numel())
        else:
            # Seen fresh the other end is as it was just before the event; else at the query's moment.
            theirs = number if self.see == "fresh" else stamps.repeat_interleave(count)
            wider, later, place = self._wider(nodes, stamps, other, theirs, times.span)
        indptr = torch.nn.functional.pad(count.cumsum(0), (1, 0)).int()
        block = Csr(indptr, place.int(), None, wider.numel())
        rows = Csr(indptr, torch.arange(number.numel(), dtype=torch.int32), None, number.numel())
        for matrix in (block, rows):
            matrix.transposed  # noqa: B018 - for the backward pass, made by the thread that makes batches
        return Hop(block, rows, number, age, feat), wider, later

    def _wider(
        self, nodes: Tensor, stamps: Tensor, more: Tensor, their: Tensor, span: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct queries, those given first in their order, and the places of the others."""
        keys, which = torch.cat([nodes * span + stamps, more * span + their]).unique(return_inverse=True)
        met = torch.full_like(keys, which.numel())
        order = met.scatter_reduce_(0, which, torch.arange(which.numel()), "amin").argsort()
        place = torch.empty_like(order)
        place[order] = torch.arange(order.numel())
        return keys[order] // span, keys[order] % span, place[which[nodes.numel() :]]

    def _idle(self, nodes: Tensor, stamps: Tensor, times: _Stamps, hops: list[Hop]) -> Tensor:
        if hops and self.how == "recent":
            first, none = hops[0].rows.indptr[:-1].long(), hops[0].rows.indptr.diff() == 0
            return torch.nn.functional.pad(hops[0].age, (0, 1))[first].masked_fill(none, 0.0)
        _, event = recent(self.csr, nodes, times.cuts(stamps), 1)
        there = event[:, 0] >= 0
        return torch.where(there, times.moments(stamps) - self.events.t[event[:, 0].clamp(min=0)], 0).float()

    def _touched(self, numbers: Tensor, n_id: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct ends of the events among ``n_id``, and the latest event of each."""
        ends = self.events.src[numbers].long(), self.events.dst[numbers].long()
        both, which = self._distinct(torch.cat(ends))
        newest = torch.zeros(both.numel(), dtype=torch.int64).scatter_reduce_(
            0, which, numbers.repeat(2), "amax", include_self=False
        )
        _, place = self._distinct(torch.cat([n_id, both]))
        return place[n_id.numel() :], newest


class StreamBatches:
    """The training events in the order of time, a whole batch dealt to the ranks in stretches.

    Args:
        sampler: makes batches.
        numbers: [m] events in the order of training.
        starts: [batches + 1] places where batches begin.
        negatives: of training; another draw every epoch.
        seed: of the run.
    """

    def __init__(
        self, sampler: Sampler, numbers: Tensor, starts: Tensor, negatives: Negatives, *, seed: int = 0,
        world: World | None = None,
    ) -> None:  # fmt: skip
        self.sampler, self.numbers, self.starts, self.negatives = sampler, numbers, starts, negatives
        self.seed, self.world = seed, world or World()
        self.last = -1  # index of the epoch that was made last

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.starts.numel() - 1

    def epoch(self, index: int, start: int = 0) -> Iterator[EventBatch]:
        """This rank's batches ``start``.. of an epoch; a rank without an event of a batch gets one that is padding."""
        self.last = index
        drawn = replace(self.negatives, seed=rng.derive(rng.SAMPLE, self.seed, index))
        for position in range(start, len(self)):
            yield self._batch(drawn, index, position)

    def _batch(self, negatives: Negatives, index: int, position: int) -> EventBatch:
        whole = self.numbers[int(self.starts[position]) : int(self.starts[position + 1])]
        own = whole.tensor_split(self.world.size)[self.world.rank]
        padding = own.numel() == 0
        if padding:
            own = whole[:1]
        events = self.sampler.events
        drawn = negatives.draw(own, events.src[own], events.dst[own])
        seed = rng.derive(rng.STEP, self.seed, index, position)
        batch = self.sampler.batch(own, int(whole.min()), drawn, seed=seed)
        return replace(batch, padding=True, count=0) if padding else batch
