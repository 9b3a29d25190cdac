"""Destinations that did not happen, for every event: each draw follows from (seed, event), whatever the batch.

No set of all pairs is made: what a source met is looked up in its own events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from graphscale.events import Events
from graphscale.kernels.sampling import mix
from graphscale.kernels.temporal import TemporalCsr, _before
from graphscale.kernels.threads import looped

Kind = Literal["random", "historical", "inductive"]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_TRIES = 8


@dataclass(frozen=True)
class Negatives:
    """Draws ``count`` destinations an event.

    ``random``: any destination, evenly. ``historical``: one that the source met in training, before the event.
    ``inductive``: one that it met since training, before the event. Where a source met none of that kind the draw
    is random. In a stream whose nodes may be both ends, whom a source met counts from either end.
    """

    csr: TemporalCsr
    candidates: Tensor | range  # destinations: a range, or [c] ids
    kind: Kind = "random"
    count: int = 1
    seed: int = 0
    train_end: int = 0  # number of the first event after training
    exclude: bool = False  # whether the true destination is drawn again, up to eight times

    @staticmethod
    def of(events: Events, kind: Kind, count: int, *, seed: int, train_end: int, exclude: bool = False) -> Negatives:
        """Draws among the destinations of a stream: all of that kind of node, or those that occur as such."""
        found: Tensor | range = range(events.num_src, events.num_nodes)
        if not events.bipartite:
            found = torch.from_numpy(np.unique(events.dst.numpy()))
        return Negatives(events.csr, found, kind, count, seed, train_end, exclude)

    def draw(self, numbers: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """[b, count] int64 for events of these numbers, sources and destinations."""
        out = torch.empty(numbers.numel(), self.count, dtype=torch.int64)
        listed = torch.empty(0, dtype=torch.int64) if isinstance(self.candidates, range) else self.candidates.long()
        first, size = (
            (self.candidates.start, len(self.candidates)) if isinstance(self.candidates, range) else (0, len(listed))
        )
        looped(
            _draw, self.csr.indptr, self.csr.neighbour, self.csr.event, numbers, src, dst, listed, first, size,
            _KINDS[self.kind], self.train_end, np.uint64(self.seed), self.exclude, out,
        )  # fmt: skip
        return out


_KINDS = {"random": 0, "historical": 1, "inductive": 2}


@njit(parallel=True, nogil=True, cache=True)
def _draw(
    indptr: NDArray[Any], neighbours: NDArray[Any], events: NDArray[Any], numbers: NDArray[Any], src: NDArray[Any],
    dst: NDArray[Any], listed: NDArray[Any], first: int, size: int, kind: int, train_end: int, seed: Any,
    exclude: bool, out: NDArray[Any],
) -> None:  # fmt: skip
    for i in prange(len(numbers)):
        lo = hi = indptr[src[i]]
        if kind == 1:
            hi = _before(events, lo, indptr[src[i] + 1], min(numbers[i], train_end))
        elif kind == 2:
            hi = _before(events, lo, indptr[src[i] + 1], numbers[i])
            lo = _before(events, lo, hi, train_end)
        state = mix(np.uint64(numbers[i]) * _GOLDEN + seed)
        for j in range(out.shape[1]):
            for attempt in range(_TRIES):
                state += _GOLDEN
                word = mix(state) >> np.uint64(11)
                if hi > lo and attempt < _TRIES // 2:  # a source may have met the true destination alone
                    found = np.int64(neighbours[lo + np.int64(word % np.uint64(hi - lo))])
                else:
                    at = np.int64(word % np.uint64(size))
                    found = listed[at] if len(listed) else first + at
                out[i, j] = found
                if not exclude or found != dst[i]:
                    break
