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
from graphscale.kernels.temporal import TemporalCsr, _before, temporal_csr
from graphscale.kernels.threads import looped

Kind = Literal["random", "historical", "inductive"]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_TRIES = 16


@dataclass(frozen=True)
class Negatives:
    """Draws ``count`` destinations an event.

    ``random``: any candidate, evenly. ``historical``: one that the source met in training, before the event.
    ``inductive``: one that it met since training, before the event, and never in training (Poursafaei et al. 2022).
    Where a source met none of that kind, or 16 draws find none, the draw is random. In an undirected stream whose nodes
    may be both ends, whom a source met counts from either end.
    """

    csr: TemporalCsr  # whom sources met
    candidates: Tensor  # [c] int64 ascending
    kind: Kind = "random"
    count: int = 1
    seed: int = 0
    train_end: int = 0  # number of the first event after training
    exclude: bool = False  # whether the true destination is never drawn, where there is another candidate

    @staticmethod
    def of(
        events: Events, kind: Kind, count: int, *, seed: int, train_end: int, among: Tensor | int | None = None,
        exclude: bool = False,
    ) -> Negatives:  # fmt: skip
        """Draws among the destinations of some events; nodes without an event are none.

        Args:
            among: numbers of these events, or how many of the first ones; by default all. Training must draw from
                its own (as TGN's code does): from the whole stream's it would meet nodes that are yet to come, or
                that are kept from it, as negatives alone.
        """
        there, csr = events.met(among, "dst"), events.csr
        if events.directed and kind != "random":  # its CSR has whom a node was met by
            csr = temporal_csr(events.dst, events.src, events.num_nodes, directed=True)
        return Negatives(csr, there.nonzero()[:, 0], kind, count, seed, train_end, exclude)

    def draw(self, numbers: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """[b, count] int64 for events of these numbers, sources and destinations."""
        out = torch.empty(numbers.numel(), self.count, dtype=torch.int64)
        looped(
            _draw, self.csr.indptr, self.csr.neighbour, self.csr.event, numbers, src, dst, self.candidates,
            _KINDS[self.kind], self.train_end, np.uint64(self.seed), self.exclude, out,
        )  # fmt: skip
        return out


_KINDS = {"random": 0, "historical": 1, "inductive": 2}


@njit(parallel=True, nogil=True, cache=True)
def _draw(
    indptr: NDArray[Any], neighbours: NDArray[Any], events: NDArray[Any], numbers: NDArray[Any], src: NDArray[Any],
    dst: NDArray[Any], candidates: NDArray[Any], kind: int, train_end: int, seed: Any, exclude: bool,
    out: NDArray[Any],
) -> None:  # fmt: skip
    size = len(candidates)
    for i in prange(len(numbers)):
        first = lo = hi = indptr[src[i]]
        if kind == 1:
            hi = _before(events, lo, indptr[src[i] + 1], min(numbers[i], train_end))
        elif kind == 2:
            hi = _before(events, lo, indptr[src[i] + 1], numbers[i])
            lo = _before(events, lo, hi, train_end)
        state = mix(np.uint64(numbers[i]) * _GOLDEN + seed)
        for j in range(out.shape[1]):
            found, sound = dst[i], False
            for _ in range(_TRIES if hi > lo else 0):  # a source may have met the true destination alone
                state += _GOLDEN
                found = neighbours[lo + np.int64((mix(state) >> np.uint64(11)) % np.uint64(hi - lo))]
                sound = not exclude or found != dst[i]
                if sound and kind == 2:  # of training's pairs it is none
                    for at in range(first, lo):
                        if neighbours[at] == found:
                            sound = False
                            break
                if sound:
                    break
            if not sound:
                state += _GOLDEN
                found = _other(candidates, size, mix(state) >> np.uint64(11), dst[i], exclude)
            out[i, j] = found


@njit(nogil=True, cache=True)
def _other(candidates: NDArray[Any], size: int, word: Any, true: int, exclude: bool) -> int:
    """A candidate, evenly; where another one is asked for, of those that are not the true one."""
    if exclude and size > 1:
        place = np.searchsorted(candidates, true)
        if place < size and candidates[place] == true:
            at = np.int64(word % np.uint64(size - 1))
            return int(candidates[at + (at >= place)])
    return int(candidates[np.int64(word % np.uint64(size))])
