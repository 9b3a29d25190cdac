"""Cluster-GCN (Chiang, Liu, Si, Li, Bengio, Hsieh; KDD 2019), whole.

| in the paper                                   | here                                        |
|------------------------------------------------|---------------------------------------------|
| METIS clusters, section 3.1                    | ``partitioning.partition``                  |
| Algorithm 1: q clusters, links re-added        | ``batches.cluster.ClusterBatches``          |
| the block is re-normalised, section 6.2        | ``nn.propagation.Propagation.of``           |
| equations (1), (8), (9), (10), (11)            | ``nn.propagation``, ``nn.static.ClusterGCN``|
| first layer's AX over all edges, section 6.2   | ``nn.static.precompute``                    |
| loss, equation (2)                             | ``objectives.node.node_loss``               |
| inductive: train on the train-node-only graph  | ``nodes.read``, ``Graph.induced``           |

The released code's concatenated root term and LayerNorm are the defaults, as they made the paper's
figures; its per-cluster validation is not taken over: scores here are of the exact full graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphscale.node_runs import composed
from graphscale.node_runs import predicted as predicted
from graphscale.node_runs import read as read
from graphscale.node_runs import restored as restored
from graphscale.node_runs import scores as scores
from graphscale.seeing import SeenConfig, seen

if TYPE_CHECKING:
    from graphscale.data.transform import Views
    from graphscale.run import Run


@dataclass(frozen=True, kw_only=True)
class ClusterGCNConfig(SeenConfig):
    """Cluster-GCN: q METIS clusters a batch, links among them kept, the block re-normalised."""

    def composition(self) -> str:
        """The run as a sentence of its parts."""
        return f"{self.seen()} . plain({self.model}) . node_loss . replicas"


Config = ClusterGCNConfig
# What ``graphscale tune`` draws unless it is told.
SEARCH = {"lr": "1e-3..3e-2:log", "hidden": "64,128,256", "dropout": "0..0.6:0.1"}


def build(config: ClusterGCNConfig, views: Views, seed: int) -> Run:
    """The composed run of one seed."""
    from graphscale import nodes
    from graphscale.nn.plain import plain
    from graphscale.objectives.node import node_loss
    from graphscale.run import device_of
    from graphscale.world import World

    model, feed, notes = nodes.model_of(config, views.seen, seed, views.whole)
    model.to(device_of(config.device))
    graph, batches, smallest, said = seen(config, views.seen, seed, World.current(), house=feed is None)
    nodes.demand_pairs(model, smallest)
    return composed(
        config,
        views,
        model,
        feed,
        graph=graph,
        batches=batches,
        objective=node_loss(plain(model, feed, bf16=config.precision == "bf16")),
        notes=[*notes, *said],
        partition=graph.clusters if config.batches == "clusters" else {},
    )
