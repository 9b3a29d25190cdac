"""What a node remembers of its events (TGN, Rossi et al. 2020), and which of them it has not yet taken in.

Nothing is stored of a message: it is made of its event and of the ends' memories when it is taken in (*late*), or
the other end's memory is kept as it was when the message was sent (*snapshot*, as in the authors' code). A node's
events of its last batch are pending; they are taken in, once, when the node is written next:

| of node v        | is                                                                          |
|------------------|-----------------------------------------------------------------------------|
| state[v]         | memory after all events up to ``taken[v]``                                  |
| taken[v]         | number of the latest event taken in, -1 before the first: l_v is its time   |
| newest[v]        | number of the latest event of v; those in (taken, newest] are pending       |

Reading and writing cost what they touch, whatever the number of nodes. N nodes, d numbers of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from graphscale import scratch
from graphscale.events import Events
from graphscale.kernels.pending import pending
from graphscale.kernels.temporal import TemporalCsr, between
from graphscale.step import Params
from graphscale.world import World

When = Literal["late", "snapshot"]
Of = Literal["last", "mean"]


class Memory:
    """[N, d] zeros at first.

    Args:
        events: the stream; longer ones may take its place (``follow``).
        csr: what of it training sees, for nodes' own events.
        when: whether a message reads the other end's memory when it is taken in, or when it is sent.
        of: whether a node takes in the last of its pending events or the mean of all.
        dtype: of memories.
        disk: rows lie in a nameless file, which may be larger than memory.
        world: ranks that train the same table; every one holds all of it, and what one writes all write.
        device: where what is read goes.
    """

    learns = False

    def __init__(
        self, events: Events, csr: TemporalCsr, dim: int, *, when: When = "late", of: Of = "last", disk: bool = False,
        dtype: torch.dtype = torch.float32, world: World | None = None, device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self.events, self.csr, self.num_rows, self.dim, self.when, self.of = (
            events,
            csr,
            events.num_nodes,
            dim,
            when,
            of,
        )
        self.world, self.device, self.disk = world or World(), device or torch.device("cpu"), disk
        self.dtype = dtype
        self.columns: dict[str, Tensor] = {
            "state": self._zeros(dim),
            "taken": torch.full((self.num_rows,), -1),
            "newest": torch.full((self.num_rows,), -1),
        }
        if when == "snapshot":
            self.columns["other"] = self._zeros(dim)
        self._journal: list[tuple[str, Tensor, dict[str, Tensor]]] | None = None
        # Which rows are in the journal since the latest mark, by what they are of.
        self._noted = {"node": torch.zeros(self.num_rows, dtype=torch.bool)}

    def _zeros(self, *shape: int) -> Tensor:
        make = scratch.zeros_on_disk if self.disk else scratch.zeros
        return make(self.num_rows, *shape, dtype=self.dtype)

    def read(self, ids: Tensor) -> Tensor:
        """[k, d] memories, without what is pending."""
        return self.columns["state"].index_select(0, ids).to(self.device)

    def parts(self, ids: Tensor) -> Params:
        """What a step needs of nodes ``ids`` [k].

        Returns:
            ``state`` [k, d]; of the m messages: ``of`` [m] place in ids, ascending, ``other`` [m, d] memory of the
            other end, ``elapsed`` [m] float32 time since the node's memory was of, ``feat`` [m, F] of the event.
        """
        of, event, neighbour, elapsed = self._pending(ids)
        state = self.columns["state"]
        if self.when == "snapshot":
            other = self.columns["other"].index_select(0, ids[of])
        else:
            other = state.index_select(0, neighbour)
        found = {"state": state.index_select(0, ids), "of": of, "other": other, "elapsed": elapsed}
        if self.events.feat is not None:
            found["feat"] = self.events.feat[event]
        return {name: value.to(self.device) for name, value in found.items()}

    def _pending(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(Place in ids, event, other end, elapsed) of every message, by node and time.

        Before its first event a node's memory is of the beginning of time: the message says that nothing elapsed.
        """
        newest, taken, events = self.columns["newest"], self.columns["taken"], self.events
        if self.of == "last":
            return pending(ids, newest, taken, events.src, events.dst, events.t)
        since = taken[ids]
        of, event, neighbour = between(self.csr, ids, since + 1, newest[ids] + 1)
        since = since[of]
        elapsed = events.t[event] - events.t[torch.where(since < 0, event, since)]
        return of, event, neighbour, elapsed.float()

    def write(self, ids: Tensor, values: Tensor, time: Tensor | None = None) -> None:
        """Nodes ``ids`` took in what was pending and are now ``values``; their latest events are ``time``.

        Of what several ranks write of a node, the one with the latest event stands. Collective.
        """
        assert time is not None or ids.numel() == 0
        newest = torch.empty(0, dtype=torch.int64) if time is None else time.cpu()
        ids, values = ids.cpu(), values.detach().to(self.dtype).cpu()
        if self.world.size > 1:
            ids, values, newest = (self.world.gather(part) for part in (ids, values, newest))
            order = torch.argsort(newest, stable=True)
            order = order[torch.argsort(ids[order], stable=True)]
            last = torch.ones(order.numel(), dtype=torch.bool)
            last[:-1] = ids[order].diff() != 0
            order = order[last]
            ids, values, newest = ids[order], values[order], newest[order]
        if ids.numel() == 0:
            return
        self._keep(ids)
        self._learn(ids, values)
        self.columns["state"].index_copy_(0, ids, values)
        self.columns["taken"][ids] = self.columns["newest"][ids]
        self.columns["newest"][ids] = newest
        if self.when == "snapshot":
            _, _, neighbour, _ = self._pending(ids)
            self.columns["other"].index_copy_(0, ids, self.columns["state"][neighbour])

    def _learn(self, ids: Tensor, values: Tensor) -> None:
        """What a table that predicts makes of the change, before it is written."""

    def reset(self) -> None:
        """Forget everything: the beginning of an epoch."""
        for name, column in self.columns.items():
            column.fill_(self._blank(name))

    def follow(self, events: Events, csr: TemporalCsr) -> None:
        """Go on with a stream of which this one is the beginning, or see more of it; new nodes remember nothing."""
        grown = events.num_nodes - self.num_rows
        self.events, self.csr, self.num_rows = events, csr, events.num_nodes
        if grown > 0:
            self._noted["node"] = torch.nn.functional.pad(self._noted["node"], (0, grown))
            for name, column in self._by_node().items():
                longer = (scratch.zeros_on_disk if self.disk else scratch.zeros)(
                    self.num_rows, *column.shape[1:], dtype=column.dtype
                )
                longer[:-grown], longer[-grown:] = column, self._blank(name)
                self.columns[name] = longer

    @staticmethod
    def _blank(name: str) -> int:
        """What a column holds of a node without an event."""
        return -1 if name in ("taken", "newest", "sent") else 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, this rank writes by itself, and at the end everything is as it was: for scoring."""
        world, self.world = self.world, World()
        mark = self.snapshot()
        try:
            yield
        finally:
            self.restore(mark)
            self.world = world

    def prefetch(self, ids: Tensor) -> None:
        """Nothing: rows must wait for the writes of the batch before."""

    def flush(self) -> None:
        """Nothing to do: a write is complete when it returns."""

    def snapshot(self) -> object:
        """A mark; from here on what is overwritten is kept, once, so that going back costs what was touched."""
        self._journal = [] if self._journal is None else self._journal
        self._forget()
        return len(self._journal)

    def _forget(self) -> None:
        """Rows may be kept once more: those before the latest mark are older."""
        for kind, ids, _ in self._journal or ():
            self._noted[kind][ids] = False

    def restore(self, mark: object) -> None:
        """The table as it was at the mark; marks made since are gone."""
        assert isinstance(mark, int) and self._journal is not None
        self._forget()
        for _, ids, rows in reversed(self._journal[mark:]):
            for name, old in rows.items():
                self.columns[name][ids] = old
        del self._journal[mark:]
        if mark == 0:
            self._journal = None

    def _keep(self, ids: Tensor) -> None:
        """Rows of nodes that are about to change."""
        self._note("node", ids, self._by_node())

    def _note(self, kind: str, ids: Tensor, columns: dict[str, Tensor]) -> None:
        """Keep rows that are not kept yet."""
        if self._journal is None:
            return
        noted = self._noted[kind]
        ids = ids[~noted[ids]]
        noted[ids] = True
        if ids.numel():
            self._journal.append((kind, ids, {name: column[ids] for name, column in columns.items()}))

    def _by_node(self) -> dict[str, Tensor]:
        """The columns with a row a node."""
        return self.columns

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, and nothing that is not its own."""
        return dict(self.columns)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The reverse of ``state_dict``.

        Raises:
            ValueError: where it is of another stream or configuration.
        """
        shapes = {name: list(column.shape) for name, column in self.columns.items()}
        found: dict[str, Any] = {name: list(column.shape) for name, column in state.items()}
        if shapes != found:
            raise ValueError(f"a memory of {found} cannot fill one of {shapes}.")
        for name, column in self.columns.items():
            column.copy_(state[name])
