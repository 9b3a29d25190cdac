"""What happens to histories between epochs: they are refreshed, where asked for, and their staleness is measured.

Both need what every propagation exactly gives. One pass over the whole graph finds it, and gives the logits
that score the epoch, where training sees the graph that is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphscale import rng
from graphscale.graph import Graph
from graphscale.nn import bounds
from graphscale.nn.exact import outputs
from graphscale.nn.history import columns
from graphscale.nn.stock import Feed, toy
from graphscale.tables.history import History
from graphscale.tables.resident import Resident
from graphscale.world import World


class Histories:
    """The end of an epoch (``Run.ends``).

    Args:
        graph: what is trained on, in the order of the table.
        table: the histories, propagation beside propagation.
        refresh: make them exact after every epoch, as PyGAS's evaluation does without saying so.
        sample: nodes on which errors are measured before an epoch is scored.
        bounded: whether the error bound is about these histories: of all propagations but the last, without LMC.
    """

    def __init__(
        self, model: nn.Module, feed: Feed, graph: Graph, table: History | Resident, widths: Sequence[int], *,
        device: torch.device, world: World, refresh: bool = False, sample: int = 0, seed: int = 0,
        bounded: bool = True,
    ) -> None:  # fmt: skip
        self.model, self.feed, self.graph, self.table, self.device = model, feed, graph, table, device
        self.world, self.refresh, self.places = world, refresh, columns(widths)
        self.bounded = bounded
        draw = rng.generator(rng.SAMPLE, seed)
        self.sample = torch.randperm(graph.num_nodes, generator=draw)[:sample].sort().values
        self._logits: Tensor | None = None

    def __call__(self, scored: bool) -> dict[str, float]:
        """``history_age``, in steps, of the rows read in this epoch; where it is scored, ``history_error/l`` too.

        An error is |history - exact| over |exact|, each summed over the sample, of the l-th propagation (from 1).
        ``history_bound``, for models that ``nn.bounds`` knows, is what its recursion makes of the sample's largest
        |history - exact| with k1 |N| = 1: what outputs may be off by, for means, and about so for GCN.
        """
        total, count = self.table.taken_ages()
        measures = {"history_age": total / max(1.0, count)}
        measured = scored and self.sample.numel() > 0 and bool(self.places)
        stale = self.table.peek(self.sample) if measured else None
        if not (self.refresh or (measured and self.world.leads)):
            return measures
        errors: dict[int, list[float]] = {}  # sums over the sample of |history - exact| and of |exact|
        largest: dict[int, float] = {}

        def seen(number: int, start: int, stop: int, rows: Tensor) -> None:
            if number >= len(self.places):
                return
            if stale is not None:
                a, b = torch.searchsorted(self.sample, torch.tensor([start, stop])).tolist()
                exact = rows[self.sample[a:b] - start].double()
                error = (stale[a:b, self.places[number]].double() - exact).norm(dim=1)
                sums = errors.setdefault(number, [0.0, 1e-300])
                sums[0], sums[1] = sums[0] + float(error.sum()), sums[1] + float(exact.norm(dim=1).sum())
                largest[number] = max(largest.get(number, 0.0), float(error.max()) if error.numel() else 0.0)
            if self.refresh:
                self.table.set_range(start, rows, self.places[number])

        logits = outputs(self.model, self.feed, self.graph, self.device, seen=seen).logits
        self._logits = logits if scored else None
        measures |= {f"history_error/{l + 1}": off / size for l, (off, size) in sorted(errors.items())}
        gains = bounds.gains(self.model, self.feed, *toy(self.model, self.graph, 9, 30)) if self.bounded else None
        if gains is not None and largest:
            last = bounds.deltas([largest[l] for l in sorted(largest)], gains[:-1])[-1]
            measures["history_bound"] = last * gains[-1]
        return measures

    def logits(self) -> Tensor | None:
        """Logits [N, C] of the pass that was just made, if one was; they are given once."""
        logits, self._logits = self._logits, None
        return logits
