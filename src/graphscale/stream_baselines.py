"""What needs no training, and every network over a stream must beat: EdgeBank and popularity.

Scores of all validation and test events beside the same negatives as a network's, seen in the same batches: an event
is judged by what came before its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from graphscale.batches.negatives import Negatives
from graphscale.events import Events
from graphscale.run import Scores
from graphscale.stream_scores import LINKS, LinkScores


@dataclass(frozen=True)
class EdgeBank:
    """1 for a pair that has met before, 0 for any other (Poursafaei et al., NeurIPS 2022).

    Args:
        window: only meetings of so long ago count; None for any.
    """

    window: float | None = None

    def scores(self, events: Events, src: Tensor, dst: Tensor, cuts: Tensor) -> Tensor:
        """[m] of pairs, given the number of events that each may see."""
        span = events.num_nodes
        keys, pair = (events.src.long() * span + events.dst.long()).unique(return_inverse=True)
        met = (pair * events.num_events + torch.arange(events.num_events)).sort().values  # by pair, then time
        asked = src.long() * span + dst.long()
        at = torch.searchsorted(keys, asked).clamp(max=keys.numel() - 1)
        known = keys[at] == asked
        place = torch.searchsorted(met, at * events.num_events + cuts) - 1  # the pair's last event before the cut
        last = met[place.clamp(min=0)]
        seen = known & (place >= 0) & (last // events.num_events == at)
        if self.window is not None:
            ago = events.t[cuts.clamp(max=events.num_events - 1)] - events.t[last % events.num_events]
            seen &= ago <= self.window
        out: Tensor = seen.float()
        return out


@dataclass(frozen=True)
class PopTrack:
    """How often a destination was met of late: a count that a batch multiplies by ``decay`` (Daniluk, Dabrowski 2023).

    Args:
        decay: of a count, a batch.
        batch: events a batch.
    """

    decay: float = 0.95
    batch: int = 200

    def scores(self, events: Events, src: Tensor, dst: Tensor, cuts: Tensor) -> Tensor:
        """[m] of pairs with cuts at batches' ends, ascending."""
        count = torch.zeros(events.num_nodes, dtype=torch.float64)
        since = torch.zeros(events.num_nodes, dtype=torch.int64)  # batch that the count is of: it decays when looked at
        out, done, number = torch.zeros(dst.numel(), dtype=torch.float64), 0, 0
        ends, sizes = cuts.unique_consecutive(return_counts=True)
        start = 0
        for cut, size in zip(ends.tolist(), sizes.tolist(), strict=True):
            while done < cut:
                stop = min(cut, done + self.batch)
                nodes, times = events.dst[done:stop].long().unique(return_counts=True)
                count[nodes] = count[nodes] * self.decay ** (number - since[nodes]).double() + times
                since[nodes] = number
                done, number = stop, number + 1
            asked = dst[start : start + size].long()
            out[start : start + size] = count[asked] * self.decay ** (number - since[asked]).double()
            start += size
        return out


def baseline(
    method: EdgeBank | PopTrack, events: Events, splits: dict[str, tuple[int, int]],
    negatives: Mapping[str, Negatives], known: Tensor, *, batch: int = 200,
) -> Scores:  # fmt: skip
    """Split -> metric -> value, as ``stream_scores.StreamScores`` gives of a network."""
    found = {}
    for split, (first, end) in splits.items():
        numbers = torch.arange(first, end)
        cuts = first + (numbers - first) // batch * batch
        drawn = negatives[split].draw(numbers, events.src[numbers], events.dst[numbers])
        src = events.src[numbers].long()[:, None].expand(-1, 1 + drawn.shape[1])
        dst = torch.cat([events.dst[numbers].long()[:, None], drawn], dim=1)
        wide = cuts[:, None].expand_as(dst)
        logits = method.scores(events, src.reshape(-1), dst.reshape(-1), wide.reshape(-1)).view(dst.shape)
        new = ~(known[events.src[numbers].long()] & known[events.dst[numbers].long()])
        means = LinkScores()
        for start in range(0, numbers.numel(), batch):
            rows = logits[start : start + batch]
            means.add(rows[:, 0], rows[:, 1:])
            some = new[start : start + batch]
            means.add(rows[some, 0], rows[some, 1:], "_new")
        found[split] = means.means((*LINKS, *(f"{name}_new" for name in LINKS)))
    return found
