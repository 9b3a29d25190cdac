"""Which sub-network holds which hidden units in a round: a function of (seed, round) alone, the same on every rank."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from graphscale import rng
from graphscale.errors import InputError
from graphscale.width.spec import Dims


@dataclass(frozen=True)
class Plan:
    """A round's blocks: dimension -> for every sub-network the units that it holds, ascending.

    Blocks of a dimension are disjoint and cover it, but for ``identity``, where every block is the whole dimension.
    """

    blocks: Mapping[str, tuple[Tensor, ...]]
    identity: bool = False

    def of(self, number: int) -> dict[str, Tensor]:
        """The units of a sub-network, by dimension."""
        return {dim: blocks[number] for dim, blocks in self.blocks.items()}

    def dims(self, number: int) -> dict[str, int]:
        """The widths of a sub-network."""
        return {dim: blocks[number].numel() for dim, blocks in self.blocks.items()}

    def digest(self) -> int:
        """A number that two ranks compare to know that they hold one plan."""
        crc = 0
        for dim in sorted(self.blocks):
            for block in self.blocks[dim]:
                crc = zlib.crc32(block.numpy().tobytes(), zlib.crc32(dim.encode(), crc))
        return crc


def deal(dims: Dims, num_subnets: int, *, seed: int, number: int, identity: bool = False) -> Plan:
    """The plan of round ``number``: every dimension shuffled by itself and dealt out like cards (GIST, subGCNs).

    Args:
        dims: full widths. Blocks of a width that ``num_subnets`` does not divide differ by one unit.
        identity: every sub-network holds everything, which makes rounds those of local SGD.

    Raises:
        InputError: where a dimension has fewer units than there are sub-networks.
    """
    blocks = {}
    for place, (dim, width) in enumerate(dims.items()):
        if identity:
            blocks[dim] = tuple(torch.arange(width) for _ in range(num_subnets))
            continue
        if width < num_subnets:
            raise InputError(
                f"{dim} has {width} units, which {num_subnets} sub-networks cannot share. Widen it, or give fewer"
                " --num-subnets."
            )
        order = torch.randperm(width, generator=rng.generator(rng.WIDTH, seed, number, place))
        blocks[dim] = tuple(order[i::num_subnets].sort().values for i in range(num_subnets))
    return Plan(blocks, identity)


def coverage(num_subnets: int, rounds: int) -> float:
    """Share of a hidden matrix that some round has trained: 1 - (1 - 1/m)^T, T rounds of m sub-networks."""
    return 1.0 - (1.0 - 1.0 / num_subnets) ** rounds


def rounds_for(num_subnets: int, share: float) -> int:
    """The least number of rounds that cover a share below 1."""
    rounds = 1
    while coverage(num_subnets, rounds) < share:
        rounds += 1
    return rounds
