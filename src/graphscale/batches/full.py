"""The whole graph as one batch: the yardstick of every sampled method."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from graphscale import rng
from graphscale.batch import Batch
from graphscale.batches.deal import demand_features
from graphscale.graph import Graph
from graphscale.world import World


class FullBatch:
    """One batch an epoch: all nodes, all edges. Built once and handed out again with a new seed."""

    def __init__(self, graph: Graph, *, seed: int = 0, split: str = "train", world: World | None = None) -> None:
        self._x = demand_features(graph)
        self.graph, self.seed, self.split, self.world = graph, seed, split, world or World()
        self._n_id = torch.arange(graph.num_nodes)
        self._count = int(graph.masks[split].sum())

    def __len__(self) -> int:
        return 1

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """The one batch of epoch ``index``; on ranks past the first it is padding."""
        graph = self.graph
        for _ in range(start, 1):
            yield Batch(
                n_id=self._n_id,
                num_roots=graph.num_nodes,
                adj=graph.adj,
                x=self._x,
                y=graph.y,
                mask=graph.masks[self.split],
                seed=rng.derive(rng.STEP, self.seed, index, self.world.rank),
                count=self._count,
                edge_attr=graph.edge_attr,
                padding=self.world.rank > 0,
            )
