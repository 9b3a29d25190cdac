"""What the end of an epoch over a stream records: pending events, gamma, and the memory's coherence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from graphscale.batches.stream import StreamBatches
from graphscale.events import Events
from graphscale.nn.memories import Correction
from graphscale.nn.temporal import TemporalNet
from graphscale.stream_coherence import Coherence


class Monitors:
    """The end of an epoch: gamma, pending events and, every so many epochs, the memory's coherence.

    Args:
        net: the network.
        batches: of training.
        coherence: measures it, changing nothing; None where it is not asked for.
        every: epochs between two measurements; the last one is measured in any case.
        epochs: in all.
        leads: whether this rank's measures are recorded.
    """

    def __init__(
        self, net: TemporalNet, batches: StreamBatches, coherence: Callable[[], Coherence] | None = None, *,
        every: int = 0, epochs: int = 0, leads: bool = True,
    ) -> None:  # fmt: skip
        self.net, self.batches, self.coherence, self.every, self.epochs = net, batches, coherence, every, epochs
        self.leads = leads
        self._share: float | None = None

    def __call__(self, scored: bool) -> dict[str, float]:
        """``pending``, the share of ends with an earlier event of theirs in the batch; ``gamma``, where memories are
        corrected; ``coherence_mu``, ``_low`` and ``_least`` (``stream_coherence``) where they are measured.
        """
        if self._share is None:
            self._share = pending_share(self.batches.sampler.events, self.batches.numbers, self.batches.starts)
        measures = {"pending": self._share}
        if isinstance(self.net.correction, Correction):
            measures["gamma"] = float(torch.as_tensor(self.net.correction.gamma).detach())
        epoch = self.batches.last + 1
        if self.coherence is not None and self.leads and (epoch % self.every == 0 or epoch == self.epochs):
            found = self.coherence()
            measures |= {"coherence_mu": found.mu, "coherence_low": found.low, "coherence_least": found.least}
        return measures


def pending_share(events: Events, numbers: Tensor, starts: Tensor) -> float:
    """Share of the ends of events that have an earlier event of theirs in the same batch (PRES, definition 2).

    Args:
        numbers: [m] events in the order of training.
        starts: [batches + 1] places where batches begin.
    """
    last = np.full(events.num_nodes, -1, dtype=np.int32)  # the batch in which a node was met last
    arrays = (events.src.numpy(), events.dst.numpy(), numbers.numpy(), starts.numpy(), last)
    return float(_pending_ends(*arrays) / max(1, 2 * numbers.numel()))


@njit(nogil=True, cache=True)
def _pending_ends(src: Any, dst: Any, numbers: Any, starts: Any, last: Any) -> int:
    pending = 0
    for batch in range(len(starts) - 1):
        for i in range(starts[batch], starts[batch + 1]):
            u, v = src[numbers[i]], dst[numbers[i]]
            pending += (last[u] == batch) + (last[v] == batch)  # before either is marked: they may be one node
            last[u] = last[v] = batch
    return pending
