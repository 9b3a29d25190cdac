"""Subgraphs of a step's points, and the first layer's input: what ``batches.tasks`` hands to a network.

T tasks, n points a task, C centres a point, L layers; R_l rows of level l over all tasks; U distinct nodes; F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphscale import rng
from graphscale.csr import Csr
from graphscale.graph import take_rows
from graphscale.kernels.aggregate import gather_sum
from graphscale.kernels.distinct import Distinct
from graphscale.kernels.ego import Finder, Levels
from graphscale.kernels.ego_walk import Rules
from graphscale.kernels.sparse_linear import sparse_linear
from graphscale.kernels.stacked import Ptr

_GRAM_BYTES = 1 << 27  # most bytes that products of all pairs of nodes' features may take, once for a run


@dataclass(frozen=True)
class Side:
    """Support or query of T tasks."""

    hops: tuple[Csr, ...]  # A_2 .. A_L: [R_l, R_(l-1)]
    ptr: tuple[Ptr, ...]  # rows of level 1 .. L by task
    centres: int  # C: rows of level L are T n C
    rows: Tensor | None  # [R_1, F] A_1 X
    lift: Csr | None  # [R_1, U] A_1
    gram: tuple[Tensor, ...]  # T x [R_1 of the task, R_1 of its support]; none where nothing adapts through them
    size: Tensor  # [T n] nodes of every subgraph

    def to(self, device: torch.device) -> Side:
        """The same side on ``device``."""
        return replace(
            self,
            hops=tuple(hop.to(device) for hop in self.hops),
            rows=None if self.rows is None else self.rows.to(device),
            lift=None if self.lift is None else self.lift.to(device),
            gram=tuple(block.to(device) for block in self.gram),
        )


@dataclass(frozen=True)
class Inputs:
    """What both sides of a step share."""

    x: Tensor | Csr | None  # [U, F], where the first layer is lifted

    def to(self, device: torch.device) -> Inputs:
        """The same on ``device``."""
        return self if self.x is None else Inputs(self.x.to(device))


class Subgraphs:
    """Makes both sides of a step.

    Args:
        adj: the graph; its values are not used: weights are GCN's within a subgraph.
        x: [N, F] features; None feeds a node's degree within the subgraph, F = 1 (the authors' synthetic graphs).
        rules: what a subgraph is.
        adapts: whether the first layer's weights adapt, so that its input is needed in the form of ``gram`` too.
        seed: of the nodes that a subgraph over the cap keeps.
        resample: draw them anew every epoch; else every point keeps its own throughout (the authors' way).
        lift: whether to lift the first layer; by default where that is cheaper.
        threads: that look for subgraphs.
    """

    def __init__(
        self, adj: Csr, x: Tensor | Csr | None, rules: Rules, *, adapts: bool = True, seed: int = 0,
        resample: bool = False, lift: bool | None = None, threads: int = 1,
    ) -> None:  # fmt: skip
        self.adj, self.x, self.rules, self.adapts = adj, x, rules, adapts
        self.seed, self.resample, self._asked = seed, resample, lift
        self._find = Finder(adj.indptr.numpy(), adj.indices.numpy(), rules, threads=threads)
        self._distinct = Distinct(adj.num_rows)
        self._gram: Tensor | None = None

    @property
    def num_features(self) -> int:
        """F."""
        return 1 if self.x is None else self.x.num_cols if isinstance(self.x, Csr) else self.x.shape[1]

    def __call__(self, support: Tensor, query: Tensor, epoch: int = 0) -> tuple[Side, Side, Inputs]:
        """Both sides of ``support`` [T, n, C] and ``query`` [T, m, C], rows of the graph."""
        near, far = (self._levels(points, epoch) for points in (support, query))
        if not self._lifts(int(near.rows[1, -1]) / support.shape[0]):
            return self._side(near, support, self._rows(near)), self._side(far, query, self._rows(far)), Inputs(None)
        node, number = self._distinct(torch.from_numpy(np.concatenate([near.node, far.node])))
        x = take_rows(self.x, node)
        assert x is not None
        lifts = [
            _matrix(levels, 0, column, node.numel())
            for levels, column in zip((near, far), number.split([len(near.node), len(far.node)]), strict=True)
        ]
        sides = [self._side(levels, points, None) for levels, points in ((near, support), (far, query))]
        grams: list[tuple[Tensor, ...]] = [(), ()]
        if self.adapts:
            grams = self._grams(lifts, [side.ptr[0] for side in sides], node, x)
        first, second = (replace(s, lift=a, gram=g) for s, a, g in zip(sides, lifts, grams, strict=True))
        return first, second, Inputs(x)

    def _levels(self, points: Tensor, epoch: int) -> Levels:
        flat = points.flatten(0, 1)  # [T n, C]
        return self._find(flat.numpy(), point_seeds(flat, self.seed, epoch if self.resample else 0))

    def _lifts(self, rows: float) -> bool:
        if self.x is None or self._asked is not None:
            return self.x is not None and bool(self._asked)
        return self.num_features > 2 * rows

    def _side(self, levels: Levels, points: Tensor, rows: Tensor | None) -> Side:
        _, count, centres = points.shape
        hops = tuple(_matrix(levels, l) for l in range(1, self.rules.layers))
        ends = levels.rows[1:, ::count]  # [L, T + 1]
        ptr = tuple(tuple(row.tolist()) for row in ends)
        return Side(hops, ptr, centres, rows, None, (), torch.from_numpy(levels.size))

    def _rows(self, levels: Levels) -> Tensor:
        """[R_1, F] A_1 X."""
        if self.x is None:
            return gather_sum(_matrix(levels, 0), torch.from_numpy(levels.degree)[:, None])
        if isinstance(self.x, Csr):
            node, number = self._distinct(torch.from_numpy(levels.node))
            return gather_sum(_matrix(levels, 0, number, node.numel()), self.x.take(node).dense())
        return gather_sum(_matrix(levels, 0, torch.from_numpy(levels.node), self.adj.num_rows), self.x)

    def _grams(
        self, lifts: Sequence[Csr], ptrs: Sequence[Ptr], node: Tensor, x: Tensor | Csr
    ) -> list[tuple[Tensor, ...]]:
        """For either side T blocks of X_1 X_1s^T."""
        near, known = lifts[0], self._products()
        spans = list(pairwise(ptrs[0]))
        if known is None:
            met = [self._against(near.rows(a, b), x) for a, b in spans]
        else:
            held = Csr(near.indptr, node[near.indices.long()].to(near.indices.dtype), near.values, known.shape[0])
            all_met = gather_sum(held, known)[:, node]  # [R_1 of the support, U]
            met = [all_met[a:b].t().contiguous() for a, b in spans]
        return [
            tuple(gather_sum(lift.rows(a, b), m) for (a, b), m in zip(pairwise(ptr), met, strict=True))
            for lift, ptr in zip(lifts, ptrs, strict=True)
        ]

    def _against(self, lift: Csr, x: Tensor | Csr) -> Tensor:
        """[U, r]: features of all nodes times those of r rows of the first layer."""
        if isinstance(x, Csr):
            own = lift.indices.unique()
            place = torch.zeros(lift.num_cols, dtype=lift.indices.dtype)
            place[own.long()] = torch.arange(own.numel(), dtype=place.dtype)
            few = Csr(lift.indptr, place[lift.indices.long()], lift.values, own.numel())
            return sparse_linear(x, gather_sum(few, x.take(own.long()).dense()))
        return x @ gather_sum(lift, x).t()

    def _products(self) -> Tensor | None:
        """[N, N] X X^T, where the graph is small: once for a run."""
        if self.adj.num_rows**2 * 4 > _GRAM_BYTES or self.x is None:
            return None
        if self._gram is None:
            x = self.x.dense() if isinstance(self.x, Csr) else self.x
            self._gram = x @ x.t()
        return self._gram


def point_seeds(points: Tensor, seed: int, epoch: int) -> Any:
    """[P] uint64: what decides the subgraph of every point [P, C]; a pair is the same point in either order."""
    key = np.uint64(rng.derive(rng.SAMPLE, seed, epoch))
    ends = np.sort(points.numpy().astype(np.uint64), axis=1) + np.uint64(1)
    with np.errstate(over="ignore"):  # rows lie below 2^32: no two pairs have the same number
        number = ends[:, 0] + (ends[:, -1] << np.uint64(32)) * np.uint64(ends.shape[1] - 1)
        return key + number * np.uint64(0x9E3779B97F4A7C15)


def _matrix(levels: Levels, number: int, column: Tensor | None = None, num_cols: int | None = None) -> Csr:
    """A_(number + 1), its columns renamed by ``column`` [R_number] where that is given."""
    indices = torch.from_numpy(levels.indices[number])
    if column is not None:
        indices = column[indices.long()]
        indices = indices.to(torch.int32) if num_cols is not None and num_cols < 2**31 else indices
    cols = int(levels.rows[number, -1]) if num_cols is None else num_cols
    return Csr(torch.from_numpy(levels.indptr[number]), indices, torch.from_numpy(levels.values[number]), cols)
