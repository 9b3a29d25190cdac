"""What a run of sub-networks says before it trains: its rounds, what they cover, and the bytes that they move."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from graphscale.width.plan import coverage, deal, rounds_for
from graphscale.width.spec import MOMENTS, Spec

if TYPE_CHECKING:
    from graphscale.recipes.gist import GISTConfig

_ENOUGH = 0.99  # of every hidden matrix, or what is left at its random start is felt


def advice(spec: Spec, model: nn.Module, config: GISTConfig, steps: int, hosts: int) -> list[str]:
    """Rounds, coverage, bytes beside those of replicas; and the zeta that would cover the model.

    Args:
        spec: what is exchanged, Adam's moments included where they are carried.
        model: at full width, on meta.
        hosts: processes that share the sub-networks, not counting replicas.
    """
    m, rounds = config.num_subnets, math.ceil(steps / config.every)
    entries = {name: entry for name, entry in spec.entries.items() if not name.startswith(MOMENTS)}
    plan = deal(spec.dims, m, seed=0, number=0, identity=config.local_sgd)
    part, whole = (sum(entry.size(dims) for entry in entries.values()) for dims in (plan.dims(0), spec.dims))
    said = [f"{m} sub-networks of {part:,} of {whole:,} numbers ({100 * part / whole:.1f} %), {rounds:,} rounds"
            f" of {config.every} steps"]  # fmt: skip
    if (processes := hosts * config.replicas) > 1:
        own = config.replicas * round_bytes(spec, m, hosts, identity=config.local_sgd)
        own += config.every * step_bytes(spec, model, m, config.replicas)
        summed = config.every * step_bytes(spec, model, 1, processes)
        said[0] += (
            f". A round moves about {own / 2**20:,.1f} MiB between {processes} processes, where as many steps of as"
            f" many replicas of the whole would move {summed / 2**20:,.1f}"
        )
    if config.local_sgd or m == 1 or not _inner(spec):
        return said
    covered = coverage(m, rounds)
    said.append(f"rounds train {100 * covered:.1f} % of every hidden matrix")
    if covered < _ENOUGH:
        needed = rounds_for(m, _ENOUGH)
        best = steps // needed
        way = f"--every {best}" if best else f"at least {needed} steps (more --epochs or batches), with --every 1"
        said[-1] += f", and what is left stays at its random start when the model is scored: {way} would train 99 %"
    return said


def round_bytes(spec: Spec, num_subnets: int, hosts: int, *, identity: bool = False) -> float:
    """Bytes that a round moves among the hosts of all sub-networks: slices there and back, but what stays; means."""
    plan = deal(spec.dims, num_subnets, seed=0, number=0, identity=identity)
    split, shared = spec.split().values(), spec.shared().values()
    slices = sum(entry.size(plan.dims(i)) * entry.dtype.itemsize for i in range(num_subnets) for entry in split)
    means = 8 * sum(entry.size(spec.dims) for entry in shared)  # float64, summed over all hosts
    return 2 * slices * (hosts - 1) / hosts + 2 * (hosts - 1) * means


def step_bytes(spec: Spec, model: nn.Module, num_subnets: int, replicas: int) -> float:
    """Bytes that a step moves among replicas: every sub-network's gradients, which are summed; and its buffers.

    A sum of n bytes over k processes moves 2 (k - 1) n of them in all, as in a ring.
    """
    plan = deal(spec.dims, num_subnets, seed=0, number=0)
    sizes = [plan.dims(i) for i in range(num_subnets)]
    moved = 0.0
    for name, p in model.named_parameters():
        if p.requires_grad:  # with each tensor goes a number that says whether a process has a gradient of it
            moved += sum(2 * p.itemsize * (spec.entries[name].size(dims) + 1) for dims in sizes)
    for name, buffer in model.named_buffers():
        if name in spec.entries:
            moved += sum(buffer.itemsize * spec.entries[name].size(dims) for dims in sizes)
    return (replicas - 1) * moved


def _inner(spec: Spec) -> bool:
    """Whether a tensor lies between two hidden dimensions: only of those does a round train a part."""
    return any(sum(any(seg.dim for seg in axis) for axis in entry.axes) > 1 for entry in spec.entries.values())
