"""Disjoint sub-networks, trained apart for a while, put back, and dealt anew (GIST, Wolfe et al. 2021).

| in the paper                                  | here                       |
|-----------------------------------------------|----------------------------|
| subGCNs(m), a random partition a layer        | ``width.plan.deal``        |
| Theta^(i), the slice of a sub-network         | ``width.shards``           |
| zeta local iterations                         | ``every``                  |
| a new optimiser every round (released code)   | ``carry=False``            |
| subAgg, the output bias averaged              | ``Shards.aggregate``       |

All sub-networks see the same batches in the same order, as in the released code; that, and plans that follow from
(seed, round), make the result the same on any number of processes. The identity plan is local SGD.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphscale import rng, sharding
from graphscale.batch import Batch
from graphscale.errors import InputError
from graphscale.step import Objective, Outcome, Params, Slot
from graphscale.sync.buckets import Buckets
from graphscale.width.plan import Plan, coverage, deal
from graphscale.width.shards import Shards, State
from graphscale.width.spec import COUNT, MOMENTS, Build
from graphscale.world import World


class Subnets:
    """Slots are this rank's sub-networks; after every ``every`` steps they are put back and dealt anew.

    Args:
        build: makes a module of any widths.
        shards: the model at full width; with ``carry``, its optimiser's state beside it (``width.store``).
        num_subnets: m. Sub-network i lives on rank i mod (ranks of the shards).
        every: zeta, steps a round.
        slot_of: a module's optimiser and objective.
        seed: of the plans.
        everybody: all ranks.
        replicas: the ranks that train the same sub-networks on other batches.
        carry: keep the optimiser's state through the rounds; else every round begins with a fresh one.
        identity: every sub-network is the whole model: local SGD.
        clip: largest norm of a sub-network's gradient.
        drops: steps after which the learning rate is a tenth.
    """

    def __init__(
        self, build: Build, shards: Shards, *, num_subnets: int, every: int, slot_of: Callable[[nn.Module], Slot],
        seed: int = 0, everybody: World | None = None, replicas: World | None = None, carry: bool = False,
        identity: bool = False, clip: float | None = None, drops: Sequence[int] = (),
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self.shards, self.num_subnets, self.every, self.seed = shards, num_subnets, every, seed
        self.replicas, self.carry, self.identity, self.clip = replicas or World(), carry, identity, clip
        self.world, self.drops, self.step = everybody or World(), tuple(drops), 0
        self.plan, self._merged = self._plan(0), True
        self._agree()
        self.hosts = list(shards.hosted(num_subnets))
        self._slots: dict[int, Slot] = {}
        self._buckets: dict[int, Buckets] = {}
        self._told = 0  # bytes of buffers that replicas have got
        for i in self.hosts:
            module = build(self.plan.dims(i)).to(device or torch.device("cpu"))
            slot = slot_of(module)
            self._slots[i] = slot if identity or i == 0 else replace(slot, objective=_apart(slot.objective, i))
            if self.replicas.size > 1:
                trained = [p for p in module.parameters() if p.requires_grad]
                self._buckets[i] = Buckets(trained, self.replicas)
        self._rates = {i: [g["lr"] for g in slot.optimiser.param_groups] for i, slot in self._slots.items()}
        self._begin()

    def _plan(self, number: int) -> Plan:
        return deal(self.shards.spec.dims, self.num_subnets, seed=self.seed, number=number, identity=self.identity)

    def _agree(self) -> None:
        """All ranks must hold one plan: slices of two would be put back over one another."""
        how = repr((self.num_subnets, self.every, self.carry, self.identity, self.step, self.shards.spec))
        own = zlib.crc32(how.encode(), self.plan.digest())
        if self.world.totals(float(own)) != (float(own) * self.world.size,):
            raise InputError(
                "ranks hold different plans of the sub-networks. Start all of them with the same seed and settings, and"
                " the same versions of graphscale and torch."
            )

    @property
    def round(self) -> int:
        """The round in progress, from 0."""
        return self.step // self.every

    def slots(self) -> Sequence[Slot]:
        """The sub-networks that this rank trains, in turn."""
        return list(self._slots.values())

    def reduce(self, slot: Slot, count: int) -> int:
        """Sum gradients over the replicas of a sub-network, divide by the reduced count, clip."""
        number = next(i for i, own in self._slots.items() if own is slot)
        if number in self._buckets:
            self._buckets[number].finish()
        total = self.replicas.total(count)
        parameters = list(slot.params().values())
        gradients = [p.grad for p in parameters if p.grad is not None]
        if total > 0 and gradients:
            torch._foreach_div_(gradients, float(total))
            if self.clip is not None:
                nn.utils.clip_grad_norm_(parameters, self.clip)
        return total

    def finish(self, step: int) -> None:
        """End the round where it is complete: put the sub-networks back, deal, and begin the next one."""
        if self.replicas.size > 1:
            for slot in self._slots.values():
                for _, buffer in slot.module.named_buffers():
                    self.replicas.first(buffer)
                    self._told += 0 if self.replicas.leads else buffer.nbytes
        self.step, self._merged = step + 1, False
        if self.step % self.every == 0:
            self.merge()
            self.plan = self._plan(self.round)
            self._begin()
        self._schedule()

    def merge(self) -> None:
        """Put the sub-networks back as they are, in mid-round too; their training is not touched. Collective."""
        if not self._merged:
            self.shards.aggregate(self.plan, self.num_subnets, {i: self._held(i) for i in self.hosts})
            self._merged = True

    def measures(self) -> dict[str, float]:
        """Rounds so far, and the share of every hidden matrix that they have trained."""
        rounds = -(-self.step // self.every)
        return {"round": float(rounds), "coverage": 1.0 if self.identity else coverage(self.num_subnets, rounds)}

    def whole(self, into: Mapping[str, Tensor]) -> None:
        """Fill the first rank's tensors with the full width; collective. Those of other ranks are as they were."""
        if self.replicas.rank == 0:
            self.shards.whole(list(into), into if self.world.leads else None)

    def sent(self) -> int:
        """Bytes that this rank and the others have exchanged for it, so far: slices, gradients, buffers."""
        return self.shards.sent + self._told + sum(buckets.sent for buckets in self._buckets.values())

    def _begin(self) -> None:
        for slot in self._slots.values():  # before the exchange, whose buffers take their place
            slot.optimiser.zero_grad(set_to_none=True)
            slot.optimiser.state.clear()
        states = self.shards.dispatch(self.plan, self.num_subnets)
        for i, slot in self._slots.items():
            self._take(slot, states[i])
        self._schedule()

    def _schedule(self) -> None:
        factor = 0.1 ** sum(self.step >= drop for drop in self.drops)
        for i, slot in self._slots.items():
            for group, rate in zip(slot.optimiser.param_groups, self._rates[i], strict=True):
                group["lr"] = rate * factor

    @torch.no_grad()
    def _take(self, slot: Slot, state: State) -> None:
        own = slot.module.state_dict()
        for name, tensor in own.items():
            tensor.copy_(state[name])
        if self.carry and float(state[COUNT]) > 0:
            for name, p in slot.params().items():
                moments = {key: state[f"{key}.{name}"].to(p, copy=True) for key in MOMENTS}
                slot.optimiser.state[p] = {"step": state[COUNT].clone().to(p.device), **moments}

    def _held(self, number: int) -> dict[str, Tensor]:
        """A sub-network's state by the names of the shards."""
        slot = self._slots[number]
        held: dict[str, Tensor] = dict(slot.module.state_dict())
        if self.carry:
            kept = {name: slot.optimiser.state.get(p, {}) for name, p in slot.params().items()}
            params = dict(slot.module.named_parameters())
            for key in MOMENTS:
                held |= {f"{key}.{n}": found.get(key, torch.zeros_like(params[n])) for n, found in kept.items()}
            steps = [float(found["step"]) for found in kept.values() if found]
            held[COUNT] = torch.tensor(max(steps, default=0.0))
        return held

    def state(self) -> list[Any]:
        """Nothing: the first rank does not hold it all (``save``)."""
        return []

    def restore(self, state: list[Any]) -> None:
        """Nothing to restore from the file itself."""

    def _parts(self) -> dict[str, Tensor]:
        """This rank's part of a checkpoint: its shards, and its sub-networks in mid-round, each by its number."""
        world, parts = self.shards.world, dict[str, Tensor]()
        for name, rows in self.shards.own.items():
            parts[f"model.{name}"] = sharding.part(rows, self.shards.spec.entries[name].shape, world, self.world)
        parts |= {f"model.{name}": tensor for name, tensor in self.shards.shared.items()}
        parts["step"] = torch.tensor(self.step)
        for i in self.hosts:
            slot = self._slots[i]
            parts |= {f"subnet.{i}.{name}": tensor for name, tensor in slot.module.state_dict().items()}
            for name, p in slot.params().items():
                kept = slot.optimiser.state.get(p, {})
                for key in MOMENTS:
                    parts[f"subnet.{i}.{key}.{name}"] = kept.get(key, torch.zeros_like(p)).detach()
                parts[f"subnet.{i}.{COUNT}.{name}"] = torch.as_tensor(kept.get("step", 0.0), dtype=torch.float32)
        return parts

    def save(self, folder: Path) -> None:
        """Write every rank's part, the full width as it would be scored."""
        self.merge()
        sharding.save(self._parts(), folder, self.world)

    def load(self, folder: Path) -> None:
        """Read this rank's part of what any number of ranks wrote.

        Raises:
            RuntimeError: where it is of another model or damaged.
        """
        parts = self._parts()
        sharding.load(parts, folder, self.world)
        self.step = int(parts["step"])
        self.plan, self._merged = self._plan(self.round), False
        self._agree()
        for i in self.hosts:
            slot = self._slots[i]
            slot.module.load_state_dict({n: parts[f"subnet.{i}.{n}"] for n in slot.module.state_dict()})
            slot.optimiser.state.clear()
            for name, p in slot.params().items():
                if float(parts[f"subnet.{i}.{COUNT}.{name}"]) > 0:
                    slot.optimiser.state[p] = {
                        "step": parts[f"subnet.{i}.{COUNT}.{name}"].clone().to(p.device),
                        **{key: parts[f"subnet.{i}.{key}.{name}"].clone() for key in MOMENTS},
                    }
        self._schedule()


def _apart(objective: Objective[Batch], number: int) -> Objective[Batch]:
    """The objective of a sub-network whose dropout is its own: all of them see a batch, each drops other units."""

    def apart(params: Params, batch: Batch) -> Outcome:
        return objective(params, replace(batch, seed=rng.derive(rng.WIDTH, batch.seed, number)))

    return apart
