"""The tasks of a meta-learning step as one batch: support and query of T episodes, subgraph by subgraph.

What a step needs of a graph is constant within its episodes, so it is made here, ahead of the step: frontiers
(``kernels.ego``), and the first layer's input in one of two forms.

- ``rows``: A_1 X [R_1, F]. Every task then multiplies it with its own weights, F x H.
- ``lift``: A_1 on the step's distinct nodes, with their features. Descending on L from W_0 keeps the first weights in
  the span of the support's rows, W_k = W_0 + X_1^T C_k, so A_1 X W_k = (A_1 X W_0) + K C_k with K = X_1q X_1s^T. The
  inner loop then never touches a feature: it meets as many columns as the support has rows. Exact, to either order.

T tasks, W ways, n = W K or W Q points a task of a side, C centres a point, U distinct nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from graphscale import rng
from graphscale.batches.deal import dealt, steps
from graphscale.batches.episodes import Drawn, Pools
from graphscale.batches.subgraphs import Inputs, Side
from graphscale.batches.whole import WholeSide
from graphscale.world import World


class Maker(Protocol):
    """Makes both sides of a step: ``Subgraphs``, or ``WholeSubgraphs``."""

    def __call__(
        self, support: Tensor, query: Tensor, epoch: int = 0
    ) -> tuple[Side, Side, Inputs] | tuple[WholeSide, WholeSide, Inputs] | tuple[None, None, Inputs]:
        """Of ``support`` [T, n, C] and ``query`` [T, m, C], rows of the graph."""
        ...


@dataclass(frozen=True)
class TaskBatch:
    """T episodes."""

    support: Side | WholeSide | None  # None to those who look at ``points`` alone
    query: Side | WholeSide | None
    support_y: Tensor  # [T, W K] int64 class within the episode
    query_y: Tensor  # [T, W Q]
    mask: Tensor  # [T, W Q] bool: queries that exist
    ways: int
    inputs: Inputs  # what both sides share
    seed: int
    points: tuple[Tensor, Tensor]  # [T, n, C] rows of the graph: support, query
    padding: bool = False

    @property
    def count(self) -> int:
        """T."""
        return self.support_y.shape[0]

    @property
    def needs(self) -> dict[str, Tensor]:
        """Nothing of any table."""
        return {}

    def to(self, device: torch.device) -> TaskBatch:
        """The same batch on ``device``."""
        if self.support_y.device == device:
            return self
        return replace(
            self,
            support=None if self.support is None else self.support.to(device),
            query=None if self.query is None else self.query.to(device),
            support_y=self.support_y.to(device),
            query_y=self.query_y.to(device),
            mask=self.mask.to(device),
            inputs=self.inputs.to(device),
        )


def task_batch(
    maker: Maker, points: Tensor, drawn: Drawn, seed: int, *, epoch: int = 0, padding: bool = False
) -> TaskBatch:
    """The batch of some episodes.

    Args:
        points: [P, C] what ``drawn`` numbers.
        epoch: decides, with the run's seed, which nodes a subgraph over the cap keeps, where they are drawn anew.
    """
    tasks, ways, shots = drawn.support.shape
    near, far = points[drawn.support.flatten(1)], points[drawn.query.flatten(1)]
    support, query, inputs = maker(near, far, epoch)
    return TaskBatch(
        support=support,
        query=query,
        support_y=torch.arange(ways).repeat_interleave(shots).expand(tasks, -1),
        query_y=torch.arange(ways).repeat_interleave(drawn.query.shape[2]).expand(tasks, -1),
        mask=drawn.mask.flatten(1),
        ways=ways,
        inputs=inputs,
        seed=seed,
        points=(near, far),
        padding=padding,
    )


class TaskBatches:
    """Episodes in meta-batches; episode number i of epoch e is a function of (seed, e, i) alone.

    Args:
        maker: makes them.
        pools: what they are drawn from.
        shots, queries: K and Q.
        tasks: episodes an epoch.
        per_step: T, those of a step of one rank; the last step of an epoch may have fewer.
        fixed: the same episodes in every epoch (the authors' way); else new ones.
    """

    def __init__(
        self, maker: Maker, pools: Pools, *, shots: int, queries: int, tasks: int, per_step: int,
        fixed: bool = False, seed: int = 0, world: World | None = None,
    ) -> None:  # fmt: skip
        self.maker, self.pools, self.shots, self.queries = maker, pools, shots, queries
        self.tasks, self.per_step, self.fixed, self.seed = tasks, per_step, fixed, seed
        self.world = world or World()

    def __len__(self) -> int:
        return steps(-(-self.tasks // self.per_step), self.world)

    def seeds(self, epoch: int) -> Tensor:
        """[tasks] int64: what decides every episode of an epoch."""
        state = np.random.SeedSequence((rng.SAMPLE, self.seed, 0 if self.fixed else epoch + 1))
        return torch.from_numpy(state.generate_state(self.tasks, np.uint64).view(np.int64))

    def epoch(self, index: int, start: int = 0) -> Iterator[TaskBatch]:
        """This rank's meta-batches of epoch ``index`` from the ``start``-th on."""
        groups = self.seeds(index).split(self.per_step)
        for hand in dealt(len(groups), self.world, self.seed, index, start):
            drawn = self.pools.draw(groups[hand.group], self.shots, self.queries)
            yield task_batch(self.maker, self.pools.points, drawn, hand.seed, epoch=index + 1, padding=hand.padding)
