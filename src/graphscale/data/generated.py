"""Graphs like the large ones of the papers, of any size, made in blocks on disk.

Degree-corrected planted communities (Karrer and Newman 2011): a node draws edges by a weight from a
power law, and an edge stays inside its community with a given probability. Every block of edges and of
features follows from (seed, block) alone, so a stream of them can be run through twice and memory stays
proportional to the number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphscale import rng
from graphscale.data.compress import Chunk, compress
from graphscale.errors import InputError
from graphscale.graph import Graph, described
from graphscale.mapped import mapped

_BLOCK = 1 << 20  # edges, or numbers of features, a block


@dataclass(frozen=True, kw_only=True)
class Like:
    """What is to be generated; the defaults are Amazon2M's sizes (Cluster-GCN, table 3)."""

    nodes: int = 2_449_029
    edges: int = 61_859_140  # undirected, before the few that are drawn twice merge
    features: int = 100
    classes: int = 47
    community: int = 400  # mean nodes of a community
    inside: float = 0.8  # probability that an edge stays inside its community
    exponent: float = 2.8  # of the power law of expected degrees
    noise: float = 3.0  # standard deviations of a feature, in units of the distance of class means
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("nodes", 100), ("edges", 1), ("features", 1), ("classes", 2), ("community", 2)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: at least {least} is needed. Give more.")
        if not 0 <= self.inside <= 1 or not self.exponent > 2 or not self.noise >= 0:
            raise InputError("--inside lies in [0, 1], --exponent is above 2, --noise is not negative. Change them.")


def generated(like: Like, work: Path) -> Graph:
    """The graph, its edges and features in files in ``work``; 60 % train, 20 % validation, 20 % test nodes."""
    plan = _Plan.of(like)

    def entries() -> Iterator[Chunk]:
        for block in range(-(-like.edges // _BLOCK)):
            source, target = plan.edges(block, min(_BLOCK, like.edges - block * _BLOCK))
            yield source, target, None
            yield target, source, None

    adj, _ = compress(entries, like.nodes, False, work)
    # Both directions of every edge were placed: no need to look.
    adj = replace(adj, symmetric=True)
    kind = plan.generator(3).random(like.nodes)
    masks = {
        "train": torch.from_numpy(kind < 0.6),
        "val": torch.from_numpy((kind >= 0.6) & (kind < 0.8)),
        "test": torch.from_numpy(kind >= 0.8),
    }
    y = torch.from_numpy(plan.label)
    return described(adj, x=plan.features(work / "x.npy"), y=y, masks=masks)


@dataclass(frozen=True)
class _Plan:
    like: Like
    label: np.ndarray  # [N] int64
    place: np.ndarray  # [N] int32 where a node stands in the order of communities
    node: np.ndarray  # [N] int32 the reverse
    bound: np.ndarray  # [communities + 1] places
    community: np.ndarray  # [N] int32 community of every place
    mass: np.ndarray  # [N + 1] expected degrees, accumulated over places

    @staticmethod
    def of(like: Like) -> _Plan:
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
        return _Plan(like, label, place, node, bound, community, mass)

    def generator(self, *key: int) -> np.random.Generator:
        """A stream of its own for a key."""
        return np.random.default_rng(rng.derive(rng.DATA, self.like.seed, *key))

    def edges(self, block: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, target) of a block's edges; no loops."""
        draw = self.generator(1, block)
        last = self.like.nodes - 1
        source = np.searchsorted(self.mass, draw.random(count) * self.mass[-1], side="right") - 1
        source = np.minimum(source, last)
        home = self.community[source]
        near = draw.random(count) < self.like.inside
        lo = np.where(near, self.mass[self.bound[home]], 0.0)
        hi = np.where(near, self.mass[self.bound[home + 1]], self.mass[-1])
        target = np.searchsorted(self.mass, lo + draw.random(count) * (hi - lo), side="right") - 1
        target = np.minimum(target, last)
        keep = source != target
        return self.node[source[keep]].astype(np.int64), self.node[target[keep]].astype(np.int64)

    def features(self, file: Path) -> Tensor:
        """[N, F] means of classes under noise, written in blocks."""
        like = self.like
        means = self.generator(2).standard_normal((like.classes, like.features), dtype=np.float32)
        x = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(like.nodes, like.features))
        step = max(1, _BLOCK // like.features)
        for start in range(0, like.nodes, step):
            label = self.label[start : start + step]
            noise = self.generator(2, start).standard_normal((len(label), like.features), dtype=np.float32)
            x[start : start + step] = means[label] + np.float32(like.noise) * noise
        x.flush()
        del x
        return mapped(file)
