"""Batches of a stream in the order of time, with all that is known of them before the memory is read.

b events of a batch, r root queries, n nodes whose memory is needed. A query is a node at a moment, given as the
number of events that it may see. With ``lag`` all queries of a batch see what came before the batch: nodes are
queried once however often they occur. With ``fresh`` an event sees the events before itself, those of its batch
too; their ends' memory is that of before the batch in either case.
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

See = Literal["lag", "fresh"]
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
    pending: int  # ends that have an earlier event of theirs in the whole batch, of all ranks
    seed: int
    count: int
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
        moved = {name: getattr(self, name).to(device) for name in ("src", "dst", "neg", "place", "idle", "touched")}
        return replace(self, **moved, hops=hops, y=None if self.y is None else self.y.to(device))


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

    def batch(self, numbers: Tensor, first: int, negatives: Tensor, *, pending: int = 0, seed: int = 0) -> EventBatch:
        """The batch of some events.

        Args:
            numbers: [b] ascending, or t-batched.
            first: number of the whole batch's first event: what ``lag`` may see ends before it.
            negatives: [b, K] destinations.
            pending: of the whole batch.
            seed: of uniform samples and of the step.
        """
        ends = self.events.src[numbers].long(), self.events.dst[numbers].long()
        asked = torch.cat([*ends, negatives.reshape(-1)])
        b = numbers.numel()
        if self.see == "lag":
            cut = torch.full((1,), first)
            nodes, number = self._distinct(asked)
            cuts = cut.expand(nodes.numel()).contiguous()
        else:
            own = torch.cat([numbers, numbers, numbers.repeat_interleave(negatives.shape[1])])
            nodes, cuts, number = self._pairs(asked, own)
        roots, hops = nodes.numel(), []
        for depth, k in enumerate(self.fanouts):
            hop, nodes, cuts = self._hop(nodes, cuts, k, seed, depth)
            hops.append(hop)
        idle = self._idle(nodes[:roots], cuts[:roots], hops)
        n_id, place = self._distinct(nodes)
        touched, newest = self._touched(ends, numbers, n_id)
        label, needs = self.events.label, {MEMORY: n_id} if self.remembers else {}
        return EventBatch(
            numbers, number[:b], number[b : 2 * b], number[2 * b :].view(negatives.shape), n_id, place, tuple(hops),
            idle, touched, newest, pending, seed, b, None if label is None else label[numbers], needs,
        )  # fmt: skip

    def _pairs(self, nodes: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct (node, cut) in ascending order, and which one each is."""
        span = self.events.num_events + 1
        key, number = (nodes * span + cuts).unique(return_inverse=True)
        return key // span, key % span, number

    def _hop(
        self, nodes: Tensor, cuts: Tensor, k: int, seed: int, depth: int
    ) -> tuple[Hop, Tensor, Tensor]:  # fmt: skip
        """Events of the queries, and the queries of the next hop: these, and the other ends at the same moments."""
        if self.how == "recent":
            neighbour, event = recent(self.csr, nodes, cuts, k)
        else:
            neighbour, event = uniform(self.csr, nodes, cuts, k, rng.derive(rng.SAMPLE, seed, depth))
        there = event >= 0
        count, number = there.sum(1), event[there]
        age = (self._moments(cuts).repeat_interleave(count) - self.events.t[number]).float()
        feat = None if self.events.feat is None else self.events.feat[number]
        if self.see == "lag":
            wider, place = self._distinct(torch.cat([nodes, neighbour[there].long()]))
            place = place[nodes.numel() :]
            moments = cuts[:1].expand(wider.numel()).contiguous()
        else:
            # The other end is seen as it was just before the event.
            wider, moments, place = self._wider(nodes, cuts, neighbour[there].long(), number)
        indptr = torch.nn.functional.pad(count.cumsum(0), (1, 0)).int()
        block = Csr(indptr, place.int(), None, wider.numel())
        rows = Csr(indptr, torch.arange(number.numel(), dtype=torch.int32), None, number.numel())
        for matrix in (block, rows):
            matrix.transposed  # noqa: B018 - for the backward pass, made by the thread that makes batches
        return Hop(block, rows, number, age, feat), wider, moments

    def _wider(self, nodes: Tensor, cuts: Tensor, more: Tensor, their: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct queries, those given first in their order, and the places of the others."""
        span = self.events.num_events + 1
        keys, which = torch.cat([nodes * span + cuts, more * span + their]).unique(return_inverse=True)
        met = torch.full_like(keys, which.numel())
        order = met.scatter_reduce_(0, which, torch.arange(which.numel()), "amin").argsort()
        place = torch.empty_like(order)
        place[order] = torch.arange(order.numel())
        return keys[order] // span, keys[order] % span, place[which[nodes.numel() :]]

    def _moments(self, cuts: Tensor) -> Tensor:
        """The moment of a query: that of the first event that it may not see."""
        last = self.events.num_events - 1
        return self.events.t[cuts.clamp(max=last)]

    def _idle(self, nodes: Tensor, cuts: Tensor, hops: list[Hop]) -> Tensor:
        if hops and self.how == "recent":
            first, none = hops[0].rows.indptr[:-1].long(), hops[0].rows.indptr.diff() == 0
            return torch.nn.functional.pad(hops[0].age, (0, 1))[first].masked_fill(none, 0.0)
        _, event = recent(self.csr, nodes, cuts, 1)
        there = event[:, 0] >= 0
        return torch.where(there, self._moments(cuts) - self.events.t[event[:, 0].clamp(min=0)], 0).float()

    def _touched(self, ends: tuple[Tensor, Tensor], numbers: Tensor, n_id: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct ends among ``n_id``, and the latest event of each."""
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

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.starts.numel() - 1

    def epoch(self, index: int, start: int = 0) -> Iterator[EventBatch]:
        """This rank's batches ``start``.. of an epoch; a rank without an event of a batch gets one that is padding."""
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
        src, dst = events.src[whole], events.dst[whole]
        pending = 2 * whole.numel() - torch.cat([src, dst]).unique().numel()
        drawn = negatives.draw(own, events.src[own], events.dst[own])
        seed = rng.derive(rng.STEP, self.seed, index, position)
        batch = self.sampler.batch(own, int(whole.min()), drawn, pending=pending, seed=seed)
        return replace(batch, padding=True, count=0) if padding else batch
