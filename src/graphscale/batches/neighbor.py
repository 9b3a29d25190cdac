"""Neighbour sampling with fan-outs (Hamilton, Ying, Leskovec; NeurIPS 2017), the GraphSAGE baseline.

A batch's block is square and serves every layer: rows of roots and of sampled nodes but the last
hop's, which are empty. With unlimited fan-outs and as many hops as layers the roots' logits are
those of the full batch, for layers that weigh an edge by its target alone (GraphSAGE, GAT, GIN,
the row norms of ``nn.propagation``); GCN's symmetric weights need the degree of the source too,
which a block does not know for its outermost nodes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from graphscale import rng
from graphscale.batch import Batch
from graphscale.batches.deal import dealt, demand_features, steps
from graphscale.csr import Csr
from graphscale.errors import InputError
from graphscale.graph import Graph, take_rows
from graphscale.kernels.sampling import sample_block
from graphscale.world import World


class NeighborBatches:
    """The nodes of a split in random order, ``batch_size`` roots a batch, each root once an epoch.

    Args:
        graph: with features.
        fanouts: in-neighbours sampled a node at hop 1, 2, ...; -1 takes all.
        batch_size: roots a batch.
        split: mask of the roots.
    """

    def __init__(
        self,
        graph: Graph,
        fanouts: tuple[int, ...],
        batch_size: int,
        *,
        seed: int = 0,
        split: str = "train",
        world: World | None = None,
    ) -> None:
        demand_features(graph)
        if not fanouts or any(k < -1 or k == 0 for k in fanouts):
            raise InputError(f"fan-outs {fanouts}: give one number above 0, or -1 for all neighbours, for every layer.")
        if batch_size < 1:
            raise InputError(f"a batch of {batch_size} roots trains nothing. Give --batch-size above 0.")
        self.graph, self.fanouts, self.batch_size, self.seed = graph, fanouts, batch_size, seed
        self.world = world or World()
        self.roots = graph.masks[split].nonzero().flatten()

    @property
    def smallest(self) -> int:
        """Nodes of the smallest batch that an epoch can hold: its roots may have no neighbour."""
        return self.roots.numel() % self.batch_size or self.batch_size

    def __len__(self) -> int:
        return steps(-(-self.roots.numel() // self.batch_size), self.world)

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of epoch ``index`` from the ``start``-th on."""
        order = torch.randperm(self.roots.numel(), generator=rng.generator(rng.ORDER, self.seed, index))
        groups = self.roots[order].split(self.batch_size)
        place = torch.full((self.graph.num_nodes,), -1, dtype=torch.int32)
        for hand in dealt(len(groups), self.world, self.seed, index, start):
            yield self.block(groups[hand.group], hand.seed, place, padding=hand.padding)

    def block(self, roots: Tensor, seed: int, place: Tensor, *, padding: bool = False) -> Batch:
        """The batch of ``roots``; ``place`` is scratch of -1 a node, left as it was found."""
        graph, adj = self.graph, self.graph.adj
        n_id, indptr, indices, entry = (
            torch.from_numpy(a)
            for a in sample_block(
                adj.indptr.numpy(), adj.indices.numpy(), roots.numpy(), self.fanouts, seed, place.numpy()
            )
        )
        x = take_rows(graph.x, n_id)
        assert x is not None
        return Batch(
            n_id=n_id,
            num_roots=roots.numel(),
            adj=Csr(indptr, indices, None if adj.values is None else adj.values[entry], n_id.numel()),
            x=x,
            y=graph.y[roots],
            mask=torch.ones(roots.numel(), dtype=torch.bool),
            seed=seed,
            count=roots.numel(),
            edge_attr=None if graph.edge_attr is None else graph.edge_attr[entry],
            padding=padding,
        )
