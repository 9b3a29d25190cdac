"""Memory with a mailbox a node (APAN, Wang et al. 2021): mails of a node's own events and of its neighbours'.

Every event is mailed by both of its ends: a mail holds their memories as they were when it was sent, and the event's
features, and goes to the end and to those it met recently. What comes to a node in one batch arrives as one mail, the
mean or the last. A mailbox keeps the latest ``slots`` mails. Unlike a TGN's message a mail is not used up: it counts
until newer ones take its place.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from graphscale.kernels.mail import delivered
from graphscale.kernels.temporal import between, recent
from graphscale.step import Params
from graphscale.tables.memory import Memory
from graphscale.tables.predictive import Predictive


class _Mails:
    """Mixed into a memory.

    Args:
        slots: mails a node keeps.
        neighbours: recent neighbours to which a node's mail goes as well.
        combine: of mails to one node in one batch; the last tells of the latest event, of its ends the larger number.
        others: as the memory's.
    """

    def __init__(
        self, *others: Any, slots: int = 10, neighbours: int = 10, combine: Literal["mean", "last"] = "mean",
        **more: Any,
    ) -> None:  # fmt: skip
        super().__init__(*others, **more)
        table: Any = self
        self.slots, self.neighbours, self.combine = slots, neighbours, combine
        self.width = 2 * table.dim + table.events.num_features
        table.columns |= {
            "mail": table._zeros(slots, self.width),
            "sent": torch.full((table.num_rows, slots), -1),  # number of the event that a mail tells of
            "arrived": torch.zeros(table.num_rows, dtype=torch.int64),  # mails so far: the next slot, round and round
        }

    def parts(self, ids: Tensor) -> Params:
        """``state`` [k, d], ``mail`` [k, S, M], ``there`` [k, S] bool, ``moment`` [k, S] of what a mail tells of.

        Where statistics are kept, what ``Predictive`` gives as well.
        """
        table: Any = self
        found: Params = super().parts(ids)  # type: ignore[misc]
        sent = table.columns["sent"].index_select(0, ids)
        moment = table.events.t[sent.clamp(min=0)]
        mails = {"mail": table.columns["mail"].index_select(0, ids), "there": sent >= 0, "moment": moment}
        return {**found, **{name: value.to(table.device) for name, value in mails.items()}}

    def write(self, ids: Tensor, values: Tensor, time: Tensor | None = None) -> None:
        """As ``Memory``; then the nodes' mails are delivered."""
        table: Any = self
        super().write(ids, values, time)  # type: ignore[misc]
        # Ascending on one rank and on many: of two mails that tell of one event the larger sender's is the last.
        ids = table.world.gather(ids.cpu()).unique()
        if not ids.numel():
            return
        taken, newest = table.columns["taken"][ids], table.columns["newest"][ids]
        place, event, other = between(table.csr, ids, taken + 1, newest + 1)  # by sender
        state, sender = table.columns["state"], ids[place]
        mail = [state.index_select(0, sender), state.index_select(0, other)]
        if table.events.feat is not None:
            mail.append(table.events.feat[event])
        near, _ = recent(table.csr, sender, event, self.neighbours)
        which, slot = (near >= 0).nonzero().t()
        to = torch.cat([sender, near[which, slot].long()])
        self._deliver(to, torch.cat(mail, dim=1), torch.cat([torch.arange(sender.numel()), which]), event)

    def _deliver(self, to: Tensor, mails: Tensor, which: Tensor, event: Tensor) -> None:
        """One mail for every node of ``to`` [m], made of mails ``which`` [m] that tell of ``event``."""
        table: Any = self
        nodes, group = to.unique(return_inverse=True)
        table._keep(nodes)
        mail, sent, arrived = (table.columns[name] for name in ("mail", "sent", "arrived"))
        delivered(nodes, group, which, event, mails, mail, sent, arrived, mean=self.combine == "mean")


class Mailbox(_Mails, Memory):
    """APAN's memory."""


class PredictiveMailbox(_Mails, Predictive):
    """APAN's memory with PRES's statistics."""
