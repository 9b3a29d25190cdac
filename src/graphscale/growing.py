"""A stream that grows at its end, and the neighbours that are known of it at every moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from graphscale import scratch
from graphscale.events import Events
from graphscale.kernels.tail import Tail
from graphscale.kernels.temporal import TemporalCsr, extended

_LEAST, _SHARE = 1 << 14, 0.25  # entries of a tail that are never merged; of the CSR's, that are
_COLUMNS = ("src", "dst", "t", "feat", "label")


class Growing:
    """Events in arrays with room, which are read while they grow: what is appended costs what it is.

    Args:
        events: the stream so far; its arrays may be memory-mapped and are copied once, when the first event comes.
        csrs: name -> (CSR of the stream so far, whether it is directed): each grows along.
        merged: merge after every addition, for samplers that may read any event of the past.
    """

    def __init__(self, events: Events, csrs: Mapping[str, tuple[TemporalCsr, bool]], *, merged: bool = False) -> None:
        self.events = events
        self.csrs = {name: csr for name, (csr, _) in csrs.items()}
        self._directed = {name: directed for name, (_, directed) in csrs.items()}
        self._least, self._share = (0, 0.0) if merged else (_LEAST, _SHARE)
        self._merged_to = dict.fromkeys(self.csrs, events.num_events)
        self._room: dict[str, Tensor] = {}

    def append(self, later: Events) -> Events:
        """The stream with later events at its end.

        Nodes without an event may follow the last one: their number grows by a quarter where it grows, so that
        tables with a row a node do too. A bipartite stream grows by destinations; new sources need numbers below
        ``num_src``, for which ``Events.roomier`` leaves room.

        Raises:
            InputError: where they begin before the stream ends, or are of another kind.
        """
        old, first = self.events, self.events.num_events
        old.demand_follows(later)
        nodes = old.num_nodes
        if later.num_nodes > nodes:
            nodes = max(later.num_nodes, nodes + nodes // 4)
        grown: dict[str, Any] = {}
        for name in _COLUMNS:
            rows, more = getattr(old, name), getattr(later, name)
            if rows is not None:
                room = self._room_for(name, rows, first + later.num_events)
                room[first : first + later.num_events] = more.to(room.dtype)
                grown[name] = room[: first + later.num_events]
        self.events = replace(old, num_nodes=nodes, kept={}, **grown)
        for name, csr in self.csrs.items():
            self.csrs[name] = self._longer(name, csr, later, first)
        return self.events

    def _room_for(self, name: str, rows: Tensor, needed: int) -> Tensor:
        room = self._room.get(name)
        if room is None or room.shape[0] < needed:
            held = needed + needed // 4
            room = scratch.empty(held, *rows.shape[1:], dtype=rows.dtype)
            room[: rows.shape[0]] = rows
            self._room[name] = room
        return room

    def _longer(self, name: str, csr: TemporalCsr, later: Events, first: int) -> TemporalCsr:
        directed, nodes = self._directed[name], self.events.num_nodes
        tail = csr.tail or Tail(nodes, directed=directed)
        tail.append(later.src, later.dst, first, nodes)
        if tail.size <= max(self._least, self._share * csr.event.numel()):
            return replace(csr, tail=tail)
        since, self._merged_to[name] = self._merged_to[name], self.events.num_events
        events = self.events
        return extended(replace(csr, tail=None), events.src[since:], events.dst[since:], nodes, since, directed)
