"""Memory with statistics of how each node's memory moves (PRES, Su, Zou, Wu; ICLR 2024, equations 7 and 9).

Per anchor the sum xi of changes and their number n; with ``spread`` also the sum psi of their squares, for draws from
the Gaussian. A node's anchor is itself, or with fewer anchors than nodes one that several share, by a hash: 4 (d + 1)
bytes an anchor, 4 d more with ``spread``, twice that with two components.

Settled here, where the paper and its code disagree:

* A change is what a node's memory became less what it was, once for every write that took something in (the paper's
  algorithm 2 subtracts the uncorrected state; its code adds all nodes' differences in every batch and never resets).
* ``rate`` divides it by the time it took, as equation 7 reads; ``increment`` does not, as in the code. Time is
  counted in typical gaps between updates (their median: they are spread over decades) and bounded on both sides, for
  many events share a moment.
* The mean of a mixture of two Gaussians is the mean of all changes: components make no difference to it. With two, a
  change joins the component whose mean is nearer, and the prediction is the heavier component's mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from graphscale import scratch
from graphscale.events import Events
from graphscale.kernels.corrections import expected, learned
from graphscale.kernels.normals import normals
from graphscale.kernels.temporal import TemporalCsr
from graphscale.step import Params
from graphscale.tables.memory import Memory

Form = Literal["increment", "rate"]
_SHORTEST, _LONGEST = 0.1, 10.0  # typical gaps


@dataclass(frozen=True)
class Prediction:
    """How changes are counted and foretold."""

    form: Form = "increment"
    components: int = 1
    anchors: int | None = None  # None: one a node
    spread: bool = False
    gap: float = 1.0  # typical time between a node's updates, for ``rate``


class Predictive(Memory):
    """A memory that also says where each node's memory is likely to be next.

    Args:
        prediction: how.
        others: as ``Memory``.
    """

    def __init__(self, *others: Any, prediction: Prediction, **more: Any) -> None:
        super().__init__(*others, **more)
        self.prediction = prediction
        rows, parts = min(prediction.anchors or self.num_rows, self.num_rows), prediction.components
        self.anchors = rows
        self._noted["anchor"] = torch.zeros(rows, dtype=torch.bool)
        self.columns["xi"] = scratch.zeros(rows, parts, self.dim, dtype=self.dtype)
        self.columns["count"] = torch.zeros(rows, parts)
        if prediction.spread:
            self.columns["psi"] = scratch.zeros(rows, parts, self.dim, dtype=self.dtype)

    def anchor(self, ids: Tensor) -> Tensor:
        """[k] the anchor of every node."""
        if self.anchors == self.num_rows:
            return ids
        return (ids * 2654435761 % 2**32) * self.anchors >> 32

    def parts(self, ids: Tensor) -> Params:
        """What ``Memory`` gives; ``ahead`` [k, d], the change to be expected of each node, and ``known`` [k] bool."""
        found = super().parts(ids)
        anchor = self.anchor(ids)
        at = anchor
        if self.prediction.components > 1:
            at = anchor * self.prediction.components + self.columns["count"][anchor].argmax(1)
        mean, known = expected(self._by_component("xi"), self.columns["count"].view(-1), at)
        if self.prediction.spread:
            count = self.columns["count"].view(-1)[at]
            square = self._by_component("psi")[at] / count.clamp(min=1)[:, None]
            # A node's draw follows from the node and its latest event: whatever is read beside it, on any rank.
            noise = normals(ids, self.columns["newest"][ids], self.dim)
            mean = mean + (square - mean * mean).clamp(min=0).sqrt() * noise
        if self.prediction.form == "rate":
            mean = mean * self._gaps(ids)[:, None]
        return {**found, "ahead": mean.to(self.device), "known": known.to(self.device)}

    def _by_component(self, name: str) -> Tensor:
        """[anchors x components, d] of a column."""
        return self.columns[name].view(-1, self.dim)

    def _gaps(self, ids: Tensor) -> Tensor:
        """[k] time that what is pending took since the last update, in typical gaps, bounded."""
        taken, newest = self.columns["taken"][ids], self.columns["newest"][ids]
        t = self.events.t
        passed = torch.where(taken < 0, 0, t[newest.clamp(min=0)] - t[taken.clamp(min=0)]).double()
        return (passed / self.prediction.gap).clamp(_SHORTEST, _LONGEST).float()

    def _learn(self, ids: Tensor, values: Tensor) -> None:
        how, xi, counts = self.prediction, self._by_component("xi"), self.columns["count"].view(-1)
        if how.form == "increment" and how.components == 1 and not how.spread:
            newest, taken, state = (self.columns[name] for name in ("newest", "taken", "state"))
            learned(newest, taken, state, ids, values, self.anchor(ids), xi, counts)
            return
        took = self.columns["newest"][ids] > self.columns["taken"][ids]
        ids, values = ids[took], values[took]
        change = values - self.columns["state"][ids]
        if how.form == "rate":
            change /= self._gaps(ids)[:, None]
        at = self.anchor(ids)
        if how.components > 1:
            at = at * how.components + self._nearest(at, change)
        xi.index_add_(0, at, change)
        counts.index_add_(0, at, torch.ones(at.numel()))
        if how.spread:
            self._by_component("psi").index_add_(0, at, change * change)

    def _nearest(self, anchor: Tensor, change: Tensor) -> Tensor:
        """The component of every change: the nearer mean; a component without any change is filled first."""
        count = self.columns["count"][anchor]
        mean = self.columns["xi"][anchor] / count.clamp(min=1)[..., None]
        far = (change[:, None] - mean).square().sum(2)
        return torch.where(count == 0, -1.0, far).argmin(1)

    def follow(self, events: Events, csr: TemporalCsr) -> None:
        """As ``Memory``; a new node has an anchor of its own where every node has."""
        own, grown = self.anchors == self.num_rows, events.num_nodes - self.num_rows
        super().follow(events, csr)
        if own and grown > 0:
            self.anchors = self.num_rows
            self._noted["anchor"] = torch.nn.functional.pad(self._noted["anchor"], (0, grown))
            for name in self.columns.keys() - self._by_node().keys():
                column = self.columns[name]
                self.columns[name] = torch.cat([column, column.new_zeros(grown, *column.shape[1:])])

    def _by_node(self) -> dict[str, Tensor]:
        return {name: column for name, column in self.columns.items() if name not in ("xi", "count", "psi")}

    def _keep(self, ids: Tensor) -> None:
        super()._keep(ids)
        own = self._by_node()
        others = {name: column for name, column in self.columns.items() if name not in own}
        self._note("anchor", self.anchor(ids).unique(), others)
