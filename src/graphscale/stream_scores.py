"""Scores of a stream's validation and test events, in batches of a fixed size whatever training's were.

The memory goes on from where training ended through validation, and on through the test; then it is put back. AP and
AUC are means over batches of the events beside one negative each, as the literature has them, so they depend on the
size of a batch: that is why it is fixed. MRR and Hits@10 rank an event among all its negatives, ties in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphscale.batches.ahead import ahead
from graphscale.batches.negatives import Negatives
from graphscale.batches.stream import EventBatch, Sampler
from graphscale.metrics import names, ranking, score
from graphscale.nn.temporal import TemporalNet
from graphscale.objectives.link import scored, writes_of
from graphscale.run import Scores
from graphscale.tables.memory import Memory

LINKS = ("ap", "auc", "mrr", "hits@10")
Passes = Iterator[tuple[Tensor, tuple[Tensor, ...]]]  # numbers [b] of events, and ``objectives.link.scored`` of them


@dataclass
class LinkScores:
    """Means so far."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, pos: Tensor, neg: Tensor, suffix: str = "") -> None:
        """A batch: logits [b] of events and [b, K] of their negatives."""
        if not pos.numel():
            return
        ranked = ranking(torch.cat([pos, neg[:, 0]]), torch.cat([torch.ones_like(pos), torch.zeros_like(pos)]).long())
        self._mean("ap" + suffix, float(ranked["ap"]), 1)
        self._mean("auc" + suffix, float(ranked["auc"]), 1)
        rank = 1 + (neg > pos[:, None]).sum(1) + 0.5 * (neg == pos[:, None]).sum(1)
        rank[pos.isnan() | neg.isnan().any(1)] = torch.nan  # it is larger than none: it would come first
        self._mean("mrr" + suffix, float((1 / rank).sum()), pos.numel())
        self._mean("hits@10" + suffix, float((rank <= 10).where(~rank.isnan(), torch.nan).sum()), pos.numel())

    def _mean(self, name: str, total: float, count: int) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.counts[name] = self.counts.get(name, 0) + count

    def means(self, wanted: Sequence[str]) -> dict[str, float]:
        """Name -> mean; NaN where there was nothing to score."""
        return {name: self.sums.get(name, float("nan")) / max(1, self.counts.get(name, 0)) for name in wanted}


class StreamScores:
    """``Run.evaluate`` of links, or of states.

    Args:
        net: the network.
        table: its memory, as training left it; put back at the end.
        sampler: sees the whole stream.
        negatives: of evaluation, the same every time, by split.
        splits: name -> (first event, end), in the order of time.
        known: [N] bool, nodes that training has seen: events with another node are scored apart as well, ``_new``.
        batch: events a batch.
        states: classes of the sources' states, where they are foretold in place of links.
    """

    def __init__(
        self, net: TemporalNet, table: Memory | None, sampler: Sampler, negatives: Mapping[str, Negatives],
        splits: dict[str, tuple[int, int]], known: Tensor, *, batch: int = 200, device: torch.device | None = None,
        states: int = 0,
    ) -> None:  # fmt: skip
        self.net, self.table, self.sampler, self.negatives = net, table, sampler, negatives
        self.splits, self.known, self.size, self.device = splits, known, batch, device or torch.device("cpu")
        self.states = states
        self.names = names(states, multilabel=False) if states else (*LINKS, *(f"{name}_new" for name in LINKS))

    def __call__(self) -> Scores:
        """Split -> metric -> value."""
        if self.table is None:
            return self._all()
        with self.table.alone():
            return self._all()

    def _all(self) -> Scores:
        found = {}
        for split, (first, end) in self.splits.items():
            passes = self.passes(first, end, self.negatives[split])
            found[split] = self._states(first, end, passes) if self.states else self._links(passes)
        return found

    def _links(self, passes: Passes) -> dict[str, float]:
        events, means = self.sampler.events, LinkScores()
        for numbers, (pos, neg) in passes:
            means.add(pos, neg)
            new = ~(self.known[events.src[numbers].long()] & self.known[events.dst[numbers].long()])
            means.add(pos[new], neg[new], "_new")
        return means.means(self.names)

    def _states(self, first: int, end: int, passes: Passes) -> dict[str, float]:
        assert self.sampler.events.label is not None
        logits = torch.cat([logits for _, (logits,) in passes])
        return score(logits, self.sampler.events.label[first:end])

    @torch.no_grad()
    def passes(self, first: int, end: int, negatives: Negatives) -> Passes:
        """(Numbers [b], ``objectives.link.scored``) batch by batch; the memory goes along."""
        self.net.eval()
        for batch in ahead(self._batches(first, end, negatives), 2):
            moved = batch.to(self.device)
            parts = {} if self.table is None else self.table.parts(batch.n_id)
            found = self.net(parts, moved)
            logits = scored(self.net, found.roots, moved, states=self.states > 0)
            yield batch.numbers, tuple(part.float().cpu() for part in logits)
            if self.table is not None:
                for write in writes_of(moved, found).values():
                    self.table.write(*write)

    def _batches(self, first: int, end: int, negatives: Negatives) -> Iterator[EventBatch]:
        events = self.sampler.events
        for start in range(first, end, self.size):
            numbers = torch.arange(start, min(end, start + self.size))
            drawn = negatives.draw(numbers, events.src[numbers], events.dst[numbers])
            # A uniform sample follows from the moment as well, and in use no batch has a number.
            yield self.sampler.batch(numbers, start, drawn)
