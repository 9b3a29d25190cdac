"""Memory coherence mu of PRES (Su, Zou, Wu; ICLR 2024, definition 3, equation 4), measured.

Of an event with an earlier one of either end in its batch (a pending one, definition 2)

    mu(event) = <g(stale), g(fresh)> / |g(fresh)|^2

where g is the gradient of the event's loss with respect to the memories of its two ends. At 1 a step follows the
gradient that it would have had event by event; at 0 it knows nothing of it; below, it goes the other way. Settled
here, where the paper leaves it open, or where following it would cost a gradient a pair of events:

* *Fresh* is the memory of an end just before the event, with the earlier events of the batch taken in one by one. The
  paper's index is of the memory after the event, which would hold the answer to its loss.
* *Stale* is the memory of before the batch: what training reads, and the oldest of those over which equation 4 takes
  its minimum. Memories between the two are read by no step and are left out.
* All else is equal in both: other memories are of before the batch, neighbours and moments the event's own, so that
  sizes of batches are compared on the same events.
* The paper's mu is the minimum over events, which one event with a small gradient decides: ``least``, of the sample.
  ``low`` is what 19 of 20 events reach, and ``mu`` the mean over events weighted by |g(fresh)|^2: sum of
  <g(stale), g(fresh)> over sum of |g(fresh)|^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from graphscale import rng
from graphscale.batches.negatives import Negatives
from graphscale.batches.schedule import latest_earlier
from graphscale.batches.stream import EventBatch, Sampler
from graphscale.nn.memories import Remembered
from graphscale.nn.temporal import TemporalNet
from graphscale.objectives.link import loss_of, scored
from graphscale.tables.memory import Memory

SAMPLE = 1000  # events whose gradients are taken
_QUERIES = 40_000  # that they may make in all: 16 MB a size of batches at a width of 100


@dataclass(frozen=True)
class Coherence:
    """Of a sample of events in batches of one size."""

    mu: float  # weighted mean; all three are 1 where no event of the sample has a pending one
    low: float  # 5th percentile
    least: float
    count: int  # events of the sample with a pending one


@dataclass(frozen=True)
class Probe:
    """What measures coherence.

    Args:
        net: as it is; its mode is put back.
        table: its memory, as the events before those measured left it.
        sampler: of the whole stream, ``apart``.
        negatives: one an event.
        device: of the network.
        states: whether states are foretold in place of links.
        seed: of uniform neighbours.
    """

    net: TemporalNet
    table: Memory
    sampler: Sampler
    negatives: Negatives
    device: torch.device
    states: bool = False
    seed: int = 0

    def __call__(self, numbers: Tensor, sizes: Sequence[int]) -> dict[int, Coherence]:
        """Size -> coherence, of the same sample of events, evenly spaced.

        Writes the table: it goes on through the events. ``Memory.alone`` puts it back.

        Args:
            numbers: [m] ascending, the events that follow those that the table knows of.
            sizes: of batches, each beginning at the first event; the last batch may be smaller.
        """
        mode = self.net.training
        self.net.eval()
        try:
            return self._measured(numbers, sizes)
        finally:
            self.net.train(mode)

    def _measured(self, numbers: Tensor, sizes: Sequence[int]) -> dict[int, Coherence]:
        events, sample = self.sampler.events, self._sample(numbers.numel())
        chosen = numbers[sample]
        drawn = self.negatives.draw(chosen, events.src[chosen], events.dst[chosen])
        seed = rng.derive(rng.SAMPLE, self.seed)
        batch = self.sampler.batch(chosen, int(numbers[0]), drawn, seed=seed)
        before, fresh = self._replayed(numbers, sizes, sample, batch)
        earlier = latest_earlier(events.src[numbers], events.dst[numbers], events.num_nodes)[sample]
        moved, found = batch.to(self.device), {}
        for size in sizes:
            pending = earlier >= sample // size * size
            found[size] = self._compared(moved, before[size], fresh, pending)
        return found

    def _sample(self, count: int) -> Tensor:
        """[s] places of the events whose gradients are taken."""
        queries = 3 * prod(1 + k for k in self.sampler.fanouts)
        most = max(1, min(SAMPLE, _QUERIES // queries))
        return torch.arange(0, count, -(-count // most))

    @torch.no_grad()
    def _replayed(
        self, numbers: Tensor, sizes: Sequence[int], sample: Tensor, batch: EventBatch
    ) -> tuple[dict[int, Tensor], Tensor]:
        """(Size -> memories [q, d] of the sample's queries before the batch, [2, s, d] of its ends just before it)."""
        events, d = self.sampler.events, self.net.dim
        place_of = sample[_owners(batch)]  # [q] of a query's event, among ``numbers``
        before = {size: torch.empty(place_of.numel(), d, device=self.device) for size in sizes}
        fresh = torch.empty(2, sample.numel(), d, device=self.device)
        ends = torch.stack([events.src[numbers], events.dst[numbers]], dim=1).long()
        measured = {int(place): i for i, place in enumerate(sample)}
        for a, (number, both) in enumerate(zip(numbers, ends, strict=True)):
            for size in sizes:
                if a % size == 0:
                    asked = ((place_of >= a) & (place_of < a + size)).nonzero()[:, 0]
                    ids, which = batch.n_id[batch.place[asked]].unique(return_inverse=True)
                    before[size][asked] = self._memories(ids, number).seen.float()[which]
            ids = both if bool(both[0] != both[1]) else both[:1]
            memories = self._memories(ids, number)
            if a in measured:
                fresh[:, measured[a]] = memories.seen.float()
            self.table.write(ids, memories.kept, number.expand(ids.numel()))
        return before, fresh

    def _memories(self, ids: Tensor, number: Tensor) -> Remembered:
        """Of k nodes, with what is pending taken in, at the moment of an event."""
        now = self.sampler.events.t[number].to(self.device)
        return self.net.remembered(self.table.parts(ids), now)

    def _compared(self, batch: EventBatch, before: Tensor, fresh: Tensor, pending: Tensor) -> Coherence:
        stale, new = (self._gradients(batch, h) for h in (before, _with_ends(batch, before, fresh)))
        along, square = (stale * new).sum(1).cpu()[pending], new.square().sum(1).cpu()[pending]
        if not float(square.sum()) > 0:
            return Coherence(1.0, 1.0, 1.0, int(pending.sum()))
        ratio = (along / square)[square > 0]
        mean = float(along.sum() / square.sum())
        return Coherence(mean, float(ratio.quantile(0.05)), float(ratio.min()), int(pending.sum()))

    def _gradients(self, batch: EventBatch, h: Tensor) -> Tensor:
        """[s, 2 d] float64: of every event's loss, with respect to the memories of its ends."""
        h = h.clone().requires_grad_()
        logits = scored(self.net, self.net.embedded(h, batch), batch, states=self.states)
        (of,) = torch.autograd.grad(loss_of(logits, batch, states=self.states), h)  # leaves gradients of weights alone
        return torch.cat([of[batch.src], of[batch.dst]], dim=1).double()


def _with_ends(batch: EventBatch, before: Tensor, fresh: Tensor) -> Tensor:
    h = before.clone()
    h[batch.src], h[batch.dst] = fresh[0], fresh[1]
    return h


def _owners(batch: EventBatch) -> Tensor:
    """[q] the event, among the batch's, of every query of the last hop: apart, each has one."""
    owner = torch.empty(batch.num_roots, dtype=torch.int64)
    every = torch.arange(batch.numbers.numel())
    for root in (batch.src, batch.dst, *batch.neg.t()):
        owner[root] = every
    for hop in batch.hops:
        block = hop.block
        wider = torch.empty(block.num_cols, dtype=torch.int64)
        wider[: block.num_rows] = owner
        wider[block.indices.long()] = owner[block.row_of]
        owner = wider
    return owner
