"""Degree-corrected planted communities (Karrer and Newman 2011): who they are, and the law of their edges.

A node draws edges by a weight from a power law, and an edge stays inside its community with a given
probability. Every block of edges follows from (seed, block) alone. N nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphscale import rng
from graphscale.errors import InputError

_SAMPLE = 1 << 20  # draws from which chances are estimated: to about a thousandth
_MOST_DRAWS = 20  # per edge; where it takes more, communities are nearly complete


@dataclass(frozen=True, kw_only=True)
class Like:
    """What is to be generated; the defaults are Amazon2M's sizes (Cluster-GCN, table 3)."""

    nodes: int = 2_449_029
    edges: int = 61_859_140  # undirected, all different, no loops
    features: int = 100
    classes: int = 47
    community: int = 400  # mean nodes of a community
    inside: float = 0.8  # probability that an edge stays inside its community
    exponent: float = 2.8  # of the power law of expected degrees
    noise: float = 1.0  # standard deviation of every feature; class means lie 1 apart
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("nodes", 100), ("edges", 1), ("features", 1), ("classes", 2), ("community", 2)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: at least {least} is needed. Give more.")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: seeds are 0, 1, ... Give another.")
        if not 0 <= self.inside <= 1 or not self.exponent > 2 or not self.noise >= 0:
            raise InputError("--inside lies in [0, 1], --exponent is above 2, --noise is not negative. Change them.")


@dataclass(frozen=True)
class Plan:
    """Where nodes stand, what they expect, and the edges that follow."""

    like: Like
    label: np.ndarray  # [N] int64
    place: np.ndarray  # [N] int32 where a node stands in the order of communities
    node: np.ndarray  # [N] int32 the reverse
    bound: np.ndarray  # [communities + 1] places
    community: np.ndarray  # [N] int32 community of every place
    mass: np.ndarray  # [N + 1] expected degrees, accumulated over places

    @staticmethod
    def of(like: Like) -> Plan:
        """Communities, labels and expected degrees of all nodes, from the seed."""
        draw = np.random.default_rng(rng.derive(rng.DATA, like.seed, 0))
        communities = max(like.classes, like.nodes // like.community)
        # Sizes of communities differ as well: shares from a gamma law.
        share = draw.gamma(2.0, size=communities)
        bound = np.zeros(communities + 1, dtype=np.int64)
        bound[1:] = np.round(np.cumsum(share) / share.sum() * like.nodes)
        community = np.repeat(np.arange(communities, dtype=np.int32), np.diff(bound))
        weight = draw.random(like.nodes) ** (-1 / (like.exponent - 1))  # Pareto from 1
        np.minimum(weight, np.sqrt(like.nodes), out=weight)  # above it, a pair would be drawn again and again
        node = draw.permutation(like.nodes).astype(np.int32)  # ids tell nothing
        place = np.empty_like(node)
        place[node] = np.arange(like.nodes, dtype=np.int32)
        label = (community % like.classes).astype(np.int64)[place]
        mass = np.zeros(like.nodes + 1)
        np.cumsum(weight, out=mass[1:])
        return Plan(like, label, place, node, bound, community, mass)

    def generator(self, *key: int) -> np.random.Generator:
        """A stream of its own for a key."""
        return np.random.default_rng(rng.derive(rng.DATA, self.like.seed, *key))

    def places(self, count: int, *key: int) -> tuple[np.ndarray, np.ndarray]:
        """Places (source, target) of ``count`` draws of the stream of a key, loops among them."""
        draw = self.generator(*key)
        last = self.like.nodes - 1
        source = np.searchsorted(self.mass, draw.random(count) * self.mass[-1], side="right") - 1
        source = np.minimum(source, last)
        home = self.community[source]
        near = draw.random(count) < self.like.inside
        lo = np.where(near, self.mass[self.bound[home]], 0.0)
        hi = np.where(near, self.mass[self.bound[home + 1]], self.mass[-1])
        target = np.searchsorted(self.mass, lo + draw.random(count) * (hi - lo), side="right") - 1
        return source, np.minimum(target, last)

    def edges(self, block: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, target) nodes of a block's draws, loops left out."""
        source, target = self.places(count, 1, block)
        keep = source != target
        return self.node[source[keep]].astype(np.int64), self.node[target[keep]].astype(np.int64)

    def draws(self, distinct: float) -> int:
        """How many draws are expected to give so many distinct edges.

        A pair of chance p is among m draws with probability 1 - (1 - p)^m. The sum over all pairs is estimated
        from a sample of draws, each of which stands for 1 / p pairs.

        Raises:
            InputError: where the communities do not have so many pairs within reach.
        """
        source, target = self.places(_SAMPLE, 4)
        pair = source != target
        never = np.log1p(-self._chance(source[pair], target[pair]))
        weight = 1 / (-np.expm1(never) * len(source))

        def expected(draws: float) -> float:
            return float((-np.expm1(draws * never) * weight).sum())

        low, high = distinct, _MOST_DRAWS * distinct
        if expected(high) < distinct:
            raise InputError(
                f"--edges {self.like.edges:,} among {self.like.nodes:,} nodes: {_MOST_DRAWS} times as many draws would"
                f" give about {expected(high):,.0f} different ones. Ask for fewer, or for larger communities."
            )
        while high - low > 1:
            middle = (low + high) / 2
            low, high = (middle, high) if expected(middle) < distinct else (low, middle)
        return int(np.ceil(high))

    def _chance(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """[k] probability that a draw gives the pair, in one direction or the other."""
        weight, home = np.diff(self.mass), self.community[source]
        within = self.mass[self.bound[home + 1]] - self.mass[self.bound[home]]
        near = np.where(home == self.community[target], self.like.inside / within, 0.0)
        far = (1 - self.like.inside) / self.mass[-1]
        chance: np.ndarray = 2 * weight[source] * weight[target] / self.mass[-1] * (near + far)
        return chance
