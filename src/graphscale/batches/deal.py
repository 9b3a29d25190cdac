"""What every order of seeing a graph shares: features are there, and groups are dealt out to ranks in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from graphscale import rng
from graphscale.csr import Csr
from graphscale.errors import InputError
from graphscale.graph import Graph
from graphscale.world import World


def demand_features(graph: Graph) -> Tensor | Csr:
    """The features of a graph that is to be cut into batches.

    Raises:
        InputError: where it has none.
    """
    if graph.x is None:
        raise InputError("batches need features; the graph has none. Make some with degree_features(graph).")
    return graph.x


class Hand(NamedTuple):
    """One step of one rank."""

    group: int  # which group of the epoch's global order
    seed: int  # of the step
    padding: bool  # the groups had run out: this one only keeps ranks in step


def steps(groups: int, world: World) -> int:
    """Steps of an epoch, the same on every rank."""
    return -(-groups // world.size)


def dealt(groups: int, world: World, seed: int, epoch: int, start: int) -> Iterator[Hand]:
    """This rank's steps ``start``.. of an epoch of ``groups`` groups, dealt out in turn."""
    for step in range(start, steps(groups, world)):
        place = step * world.size + world.rank
        yield Hand(place % groups, rng.derive(rng.STEP, seed, epoch, place), place >= groups)
