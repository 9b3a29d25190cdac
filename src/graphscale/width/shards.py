"""A model at full width, its rows spread over ranks; sub-networks are cut out of it and put back.

Every rank holds a stretch of axis 0 of every tensor that is cut, and all of those that are shared. A round begins
with one ``all_to_all_single`` (rows go to the ranks that train them) and ends with one (they come back): no
rank ever needs the whole model, and none is a hub. Sub-network i lives on rank i mod W.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor

from graphscale.width.plan import Plan
from graphscale.width.spec import Entry, Spec
from graphscale.world import World

State = dict[str, Tensor]


class Shards:
    """This rank's part of the state of a model.

    Args:
        spec: the tensors at full width.
        world: ranks that share the model.
        rows: name -> (first row, end) -> those rows, for tensors that are cut; the whole of the others.
        device: where they lie: CUDA tensors travel by NCCL.
    """

    def __init__(
        self, spec: Spec, world: World, rows: Callable[[str, int, int], Tensor], device: torch.device | None = None
    ) -> None:
        self.spec, self.world = spec, world
        self.device = device or torch.device("cpu")
        self.own = {
            name: rows(name, *self.bounds(entry, world.rank)).to(self.device) for name, entry in spec.split().items()
        }
        self.shared = {
            name: rows(name, 0, entry.shape[0] if entry.shape else 1) for name, entry in spec.shared().items()
        }
        self.sent = 0  # bytes to other ranks, so far
        self.packed = 0  # bytes handed over, to this rank too

    def bounds(self, entry: Entry, rank: int) -> tuple[int, int]:
        """The rows of a rank: as many as of every other, the last ones fewer (``torch.chunk``)."""
        each = -(-entry.shape[0] // self.world.size)
        return min(entry.shape[0], rank * each), min(entry.shape[0], (rank + 1) * each)

    def hosted(self, num_subnets: int, rank: int | None = None) -> range:
        """The sub-networks of a rank, by default this one."""
        return range(self.world.rank if rank is None else rank, num_subnets, self.world.size)

    def dispatch(self, plan: Plan, num_subnets: int) -> dict[int, State]:
        """The states of this rank's sub-networks, to be read: what is not cut lies in the shards still. Collective."""
        parts: dict[int, dict[str, list[Tensor]]] = {i: {} for i in self.hosted(num_subnets)}
        for names in self._by_type():
            cuts = {i: self._places(plan, i, names) for i in range(num_subnets)}
            outgoing = [
                [self._cut(self.own[name], cuts[i][name], self._within(name, cuts[i][name][0], self.world.rank))
                 for i in self.hosted(num_subnets, rank) for name in names]
                for rank in range(self.world.size)
            ]  # fmt: skip
            shapes = [
                [(i, name, (self._count(name, cuts[i][name][0], rank), *(p.numel() for p in cuts[i][name][1:])))
                 for i in self.hosted(num_subnets) for name in names]
                for rank in range(self.world.size)
            ]  # fmt: skip
            for i, name, part in self._exchanged(outgoing, shapes, self.own[names[0]].dtype):
                parts[i].setdefault(name, []).append(part)
        return {
            i: {
                **{name: rows[0] if len(rows) == 1 else torch.cat(rows) for name, rows in found.items()},
                **{n: t.clone() for n, t in self.shared.items()},
            }
            for i, found in parts.items()
        }

    @torch.no_grad()
    def aggregate(self, plan: Plan, num_subnets: int, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Put the sub-networks back: rows that one trained are overwritten, what several trained is averaged.

        Args:
            states: of the sub-networks that this rank hosts; collective.
        """
        mine = list(self.hosted(num_subnets))
        for names in self._by_type():
            cuts = {i: self._places(plan, i, names) for i in range(num_subnets)}
            outgoing = []
            for rank in range(self.world.size):
                parts = []
                for i in mine:
                    for name in names:
                        at = cuts[i][name][0]
                        first = int(torch.searchsorted(at, self.bounds(self.spec.entries[name], rank)[0]))
                        rows = states[i][name].detach()[first : first + self._count(name, at, rank)]
                        parts.append(rows.to(self.device))
                outgoing.append(parts)
            shapes = [
                [(i, name, (self._count(name, cuts[i][name][0], self.world.rank),
                            *(p.numel() for p in cuts[i][name][1:])))
                 for i in self.hosted(num_subnets, rank) for name in names]
                for rank in range(self.world.size)
            ]  # fmt: skip
            # Of integers and booleans too the mean is taken, rounded.
            totals = {
                name: torch.zeros_like(self.own[name], dtype=_summed(self.own[name].dtype))
                for name in (names if plan.identity else ())
            }
            for i, name, part in self._exchanged(outgoing, shapes, self.own[names[0]].dtype):
                if plan.identity:
                    totals[name] += part
                else:
                    self._put(
                        self.own[name], cuts[i][name], self._within(name, cuts[i][name][0], self.world.rank), part
                    )
            for name, total in totals.items():
                mean = total / num_subnets
                self.own[name].copy_(mean if self.own[name].is_floating_point() else mean.round())
        self._average(states, num_subnets)

    def _average(self, states: Mapping[int, Mapping[str, Tensor]], num_subnets: int) -> None:
        """What is in no dimension, such as the last bias: the mean over all sub-networks."""
        names = list(self.shared)
        if not names:
            return
        flat = torch.zeros(sum(self.shared[name].numel() for name in names), dtype=torch.float64)
        for state in states.values():
            flat += torch.cat([state[name].detach().reshape(-1).double().cpu() for name in names])
        if self.world.size > 1:
            self.sent += 2 * flat.nbytes * (self.world.size - 1) // self.world.size  # as in a ring
        self.world.sum_(flat)
        flat /= num_subnets
        start = 0
        for name in names:
            tensor = self.shared[name]
            mean = flat[start : start + tensor.numel()].view(tensor.shape)
            tensor.copy_(mean if tensor.is_floating_point() else mean.round())
            start += tensor.numel()

    def whole(self, names: Collection[str], into: Mapping[str, Tensor] | None) -> None:
        """Fill the first rank's full tensors of these names; collective. Other ranks give None."""
        for name, entry in self.spec.split().items():
            if name not in names:
                continue
            counts = [b - a for a, b in (self.bounds(entry, rank) for rank in range(self.world.size))]
            if into is None:
                self.world.at_first(self.own[name], self.own[name], counts)
                continue
            target = into[name]
            if target.device.type == "cpu" and target.dtype == self.own[name].dtype and target.is_contiguous():
                self.world.at_first(self.own[name], target.detach(), counts)
            else:
                kept = self.own[name].new_empty(entry.shape)
                target.copy_(self.world.at_first(self.own[name], kept, counts))
        if into is not None:
            for name in self.shared.keys() & set(names):
                into[name].copy_(self.shared[name])

    def _by_type(self) -> list[list[str]]:
        """The names of the tensors that are cut, those of a type together: an exchange has one type."""
        groups: dict[torch.dtype, list[str]] = {}
        for name, tensor in self.own.items():
            groups.setdefault(tensor.dtype, []).append(name)
        return list(groups.values())

    def _places(self, plan: Plan, number: int, names: list[str]) -> dict[str, list[Tensor]]:
        chosen = plan.of(number)
        return {name: self.spec.entries[name].places(self.spec.dims, chosen) for name in names}

    def _within(self, name: str, at: Tensor, rank: int) -> Tensor:
        """Positions among a rank's rows, of those of ``at`` (ascending) that it holds."""
        lo, hi = self.bounds(self.spec.entries[name], rank)
        a, b = torch.searchsorted(at, torch.tensor([lo, hi])).tolist()
        return at[a:b] - lo

    def _count(self, name: str, at: Tensor, rank: int) -> int:
        return self._within(name, at, rank).numel()

    def _cut(self, rows: Tensor, places: list[Tensor], first: Tensor) -> Tensor:
        for axis, at in enumerate([first, *places[1:]]):
            if at.numel() != rows.shape[axis]:
                rows = rows.index_select(axis, at.to(rows.device))
        return rows

    def _put(self, rows: Tensor, places: list[Tensor], first: Tensor, part: Tensor) -> None:
        """Write a part over what lies at its places."""
        axes = [at.to(rows.device) for at in (first, *places[1:])]
        cut = [axis for axis, at in enumerate(axes) if at.numel() != rows.shape[axis]] or [0]
        if len(cut) == 1:  # whole rows, or whole columns, are moved as such
            rows.index_copy_(cut[0], axes[cut[0]], part)
            return
        rows[tuple(at.view(*(-1 if i == axis else 1 for i in range(len(axes)))) for axis, at in enumerate(axes))] = part

    def _exchanged(
        self, outgoing: list[list[Tensor]], shapes: list[list[tuple[int, str, tuple[int, ...]]]], dtype: torch.dtype
    ) -> Iterator[tuple[int, str, Tensor]]:
        """One exchange: what the ranks sent, part by part, in the order of ranks."""
        counts = [sum(part.numel() for part in parts) for parts in outgoing]
        size, here = dtype.itemsize, self.world.rank
        self.packed += size * sum(counts)
        self.sent += size * (sum(counts) - counts[here])
        expected = [sum(math.prod(shape) for *_, shape in parts) for parts in shapes]
        counts[here] = expected[here] = 0  # what stays is not copied to and fro
        leaving = [part.reshape(-1) for rank, parts in enumerate(outgoing) if rank != here for part in parts]
        got, _ = self.world.exchange(
            torch.cat([torch.empty(0, dtype=dtype, device=self.device), *leaving]), counts, expected
        )
        start = 0
        for rank, parts in enumerate(shapes):
            for place, (number, name, shape) in enumerate(parts):
                if rank == here:
                    yield number, name, outgoing[here][place].view(shape)
                    continue
                stop = start + math.prod(shape)
                yield number, name, got[start:stop].view(shape)
                start = stop


def _summed(dtype: torch.dtype) -> torch.dtype:
    """The type in which copies are added up."""
    return dtype if dtype.is_floating_point else torch.float64
