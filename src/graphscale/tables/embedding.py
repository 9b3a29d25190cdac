"""Rows that are learned, in ranges over ranks: what a step needs is fetched once, its gradients go back once.

N ranks, U distinct rows that a rank's step needs, of which a share of (N - 1) / N lies with others; D numbers a row of
b bytes. All tables of a model are one space of rows (``tasks.Layout``), so one exchange serves them all, support and
query together.

| of a rank, to other ranks | bytes                   |
|---------------------------|-------------------------|
| how many ids              | 8 (N - 1)               |
| ids                       | 8 U (N - 1) / N         |
| rows                      | b D U (N - 1) / N       |
| their gradients           | b D U (N - 1) / N       |

The owner remembers which ids each rank asked for, so gradients travel without ids. It adds up what several ranks send
for a row, and descends. Adagrad and SGD then do what their dense forms do; Adam is lazy: what is not
touched rests.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from graphscale import rng, scratch
from graphscale.errors import InputError
from graphscale.kernels import row_loops
from graphscale.kernels.sorting import ascending
from graphscale.kernels.threads import looped
from graphscale.world import World

Kind = Literal["adagrad", "sgd", "adam"]


@dataclass(frozen=True)
class Descent:
    """How rows descend.

    Args:
        decay: L2 penalty on the rows that a step touches.
        betas, eps: Adam's; Adagrad takes eps alone.
    """

    kind: Kind = "adagrad"
    lr: float = 0.01
    decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass
class Traffic:
    """What went to other ranks in bytes, and seconds."""

    counts: int = 0
    ids: int = 0
    rows: int = 0
    gradients: int = 0
    exchange: float = 0.0  # seconds in exchanges, waiting for others among them
    update: float = 0.0  # seconds of gathering and descending
    lookups: int = field(default=0)  # distinct ids asked for


class _Asked(NamedTuple):
    """A fetch, as its gradients will retrace it."""

    ids: Tensor  # the very tensor that was asked by
    order: Tensor | None  # [U] by owner; None where they are in order
    counts: list[int]  # ids for every rank
    theirs: Tensor  # ids that ranks asked for here
    arrived: list[int]  # how many each asked for


class Embedding:
    """[num_rows, dim] learned rows; ``write`` takes gradients.

    The first values are uniform in (-scale, scale), a function of (seed, row), so of no number of ranks.

    Args:
        disk: rows and what the optimiser keeps lie in nameless files (``scratch``), which may be larger than memory.
        world: the ranks that share the rows.
        device: where what is read goes.
    """

    learns = True

    def __init__(
        self, num_rows: int, dim: int, *, descent: Descent | None = None, scale: float = 0.01, seed: int = 0,
        dtype: torch.dtype = torch.float32, disk: bool = False, world: World | None = None,
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self.num_rows, self.dim, self.world = num_rows, dim, world or World()
        self.descent, self.device = descent or Descent(), device or torch.device("cpu")
        self.share = -(-num_rows // self.world.size)  # rows a rank, as torch.chunk cuts
        self.first = min(num_rows, self.share * self.world.rank)
        own = min(self.share, num_rows - self.first)
        make = scratch.zeros_on_disk if disk else scratch.zeros
        self.rows = make(own, dim, dtype=dtype)  # those of this rank
        self.kept: dict[str, Tensor] = {}  # of the optimiser: [own] or [own, D]
        if self.descent.kind == "adagrad":
            self.kept["squares"] = make(own, dtype=dtype)
        elif self.descent.kind == "adam":
            self.kept |= {"mean": make(own, dim, dtype=dtype), "square": make(own, dim, dtype=dtype)}
        self.steps = 0  # writes so far
        self.traffic = Traffic()
        self._asked: _Asked | None = None
        if scale:
            looped(row_loops.uniform_rows, self.rows, self.first, scale, rng.derive(rng.INIT, seed, 1))

    def read(self, ids: Tensor) -> Tensor:
        """[len(ids), dim] copies of the rows, on the table's device. Collective over several ranks."""
        host, world = ids.cpu(), self.world
        self.traffic.lookups += host.numel()
        if world.size == 1:
            self._asked = _Asked(ids, None, [host.numel()], host, [host.numel()])
            return self._taken(host).to(self.device)
        order, counts = self._by_owner(host)
        began = time.perf_counter()
        theirs, arrived = world.exchange(host if order is None else host[order], counts)
        self.traffic.exchange += time.perf_counter() - began
        self._asked = _Asked(ids, order, counts, theirs, arrived)
        own = self._taken(theirs)
        began = time.perf_counter()
        rows, _ = world.exchange(own, arrived, counts)
        self.traffic.exchange += time.perf_counter() - began
        self.traffic.counts += 8 * (world.size - 1)
        self.traffic.ids += self._abroad(counts) * host.element_size()
        self.traffic.rows += self._abroad(arrived) * own[:0].element_size() * self.dim
        if order is not None:
            rows = torch.empty_like(rows).index_copy_(0, order, rows)
        return rows.to(self.device)

    def write(self, ids: Tensor, values: Tensor, time: Tensor | None = None) -> None:
        """Descend rows ``ids`` along the sum of gradients ``values``; ``time`` has no meaning here.

        Where every rank writes what it read last, by the very tensor, gradients travel alone; else with their ids.
        """
        values = values.detach().to(self.rows.dtype).cpu()
        asked = self._asked
        if self.world.size == 1:
            self._descend(ids.cpu(), values)
            return
        again = asked is not None and ids is asked.ids
        resting = not ids.numel() and (asked is None or not asked.ids.numel())
        if asked is not None and not self.world.total(not (again or resting)):
            own, theirs = self._sent_back(asked, values), asked.theirs
        else:
            theirs, own = self._sent_anew(ids.cpu(), values)
        self._descend(theirs, own)

    def _sent_back(self, asked: _Asked, values: Tensor) -> Tensor:
        """Gradients of what ranks asked for here; collective."""
        began = time.perf_counter()
        own, _ = self.world.exchange(
            values if asked.order is None else values[asked.order], asked.counts, asked.arrived
        )
        self.traffic.exchange += time.perf_counter() - began
        self.traffic.gradients += self._abroad(asked.counts) * values[:0].element_size() * self.dim
        return own

    def _sent_anew(self, ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Ids of this rank that ranks write, and their gradients; collective."""
        order, counts = self._by_owner(ids)
        if order is not None:
            ids, values = ids[order], values[order]
        began = time.perf_counter()
        theirs, arrived = self.world.exchange(ids, counts)
        own, _ = self.world.exchange(values, counts, arrived)
        self.traffic.exchange += time.perf_counter() - began
        self.traffic.counts += 8 * (self.world.size - 1)
        self.traffic.ids += self._abroad(counts) * ids.element_size()
        self.traffic.gradients += self._abroad(counts) * values[:0].element_size() * self.dim
        return theirs, own

    def prefetch(self, ids: Tensor) -> None:
        """Nothing: a fetch is an exchange, and the rows of the next step are those after this one's."""

    def flush(self) -> None:
        """Nothing to do: a write is complete when it returns."""

    def snapshot(self) -> object:
        """A copy of what this rank holds."""
        return {name: value.clone() for name, value in self.held().items()}, self.steps

    def restore(self, mark: object) -> None:
        """The rows as they were."""
        assert isinstance(mark, tuple)
        for name, value in self.held().items():
            value.copy_(mark[0][name])
        self.steps, self._asked = mark[1], None

    def held(self) -> dict[str, Tensor]:
        """What this rank holds, by name: rows, and what the optimiser keeps of them."""
        return {"rows": self.rows, **self.kept}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the whole tables of ``held``."""
        return {name: (self.num_rows, *value.shape[1:]) for name, value in self.held().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """All of a table of one rank; several ranks save their parts side by side (``sync.sharded``).

        Raises:
            RuntimeError: over several ranks.
        """
        if self.world.size > 1:
            raise RuntimeError("no rank holds the whole table: save held() of every rank.")
        return {**self.held(), "steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Rows of a whole table, of which this rank takes its own.

        Raises:
            ValueError: where the shapes or the optimisers differ.
        """
        if set(state) != {*self.held(), "steps"} or list(state["rows"].shape) != [self.num_rows, self.dim]:
            raise ValueError(f"a table of {list(state['rows'].shape)} cannot fill {[self.num_rows, self.dim]}.")
        own = slice(self.first, self.first + self.rows.shape[0])
        for name, value in self.held().items():
            value.copy_(state[name][own])
        self.steps, self._asked = int(state["steps"]), None

    def _taken(self, ids: Tensor) -> Tensor:
        began = time.perf_counter()
        out = torch.empty(ids.numel(), self.dim, dtype=self.rows.dtype)
        if ids.numel():
            looped(row_loops.taken, self.rows, ids, self.first, out)
        self.traffic.update += time.perf_counter() - began
        return out

    def _by_owner(self, ids: Tensor) -> tuple[Tensor | None, list[int]]:
        """An order of ``ids`` by the rank that holds them, where they are not in it, and how many each one holds."""
        if ids.numel() < 2 or bool((ids.diff() > 0).all()):
            ends = torch.searchsorted(ids, torch.arange(1, self.world.size) * self.share)
            return None, torch.diff(ends, prepend=ends.new_zeros(1), append=ends.new_tensor([ids.numel()])).tolist()
        owner = ids // self.share
        return owner.argsort(stable=True), owner.bincount(minlength=self.world.size).tolist()

    def _abroad(self, counts: list[int]) -> int:
        """Those of other ranks."""
        return sum(counts) - counts[self.world.rank]

    def _descend(self, ids: Tensor, values: Tensor) -> None:
        """One step of the optimiser on the rows of this rank."""
        self.steps += 1
        if not ids.numel():
            return
        began = time.perf_counter()
        ids, values = _united(ids - self.first, values, self.rows.shape[0])
        how = self.descent
        kind = self.rows.numpy().dtype.type
        step: tuple[Any, ...] = (ids, values, kind(how.lr), kind(how.decay))
        if how.kind == "sgd":
            looped(row_loops.sgd, self.rows, *step)
        elif how.kind == "adagrad":
            looped(row_loops.adagrad, self.rows, self.kept["squares"], *step, kind(how.eps))
        else:
            b1, b2 = how.betas
            bias = map(kind, (b1, b2, 1 - b1**self.steps, 1 - b2**self.steps, how.eps))
            looped(row_loops.adam, self.rows, self.kept["mean"], self.kept["square"], *step, *bias)
        self.traffic.update += time.perf_counter() - began


def _united(ids: Tensor, values: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Ascending distinct ids, and the sums of their values in the order of ranks."""
    if ids.numel() < 2 or bool((ids.diff() > 0).all()):
        return ids, values.contiguous()
    order = torch.from_numpy(ascending(ids.numpy(), num_rows - 1)).long()
    ids = ids[order]
    first = torch.ones(ids.numel(), dtype=torch.bool)
    first[1:] = ids[1:] != ids[:-1]
    starts = torch.cat([first.nonzero().flatten(), torch.tensor([ids.numel()])])
    out = torch.empty(starts.numel() - 1, values.shape[1], dtype=values.dtype)
    looped(row_loops.summed, starts, order, values.contiguous(), out)
    return ids[first], out


def demand_rows(num_rows: int, dim: int) -> None:
    """Refuse a table without rows or columns.

    Raises:
        InputError: naming the number.
    """
    if num_rows < 1 or dim < 1:
        raise InputError(
            f"a table of {num_rows} x {dim} holds nothing. Give the data fields of ids, and --dim above 0."
        )
