"""What a step sees of a static graph: clusters, sampled neighbours, or all of it. Shared by recipes that choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from graphscale.config import NodeConfig
from graphscale.errors import InputError

if TYPE_CHECKING:
    from graphscale.batch import Batches
    from graphscale.graph import Graph
    from graphscale.world import World


@dataclass(frozen=True, kw_only=True)
class SeenConfig(NodeConfig):
    """Settings of recipes whose batches may be clusters, sampled neighbours or the whole graph."""

    batches: Literal["clusters", "neighbors", "full"] = "clusters"
    """Clusters; sampled neighbours (the GraphSAGE baseline); or the whole graph as one batch (the yardstick)."""
    num_parts: int = 50
    """p: clusters of the training graph."""
    parts_per_batch: int = 1
    """q: clusters a batch, drawn without replacement."""
    partitioner: Literal["metis", "stream", "random"] = "metis"
    """METIS; label propagation in memory proportional to nodes; or random parts as the control."""
    fanout: str = "10,10,10"
    """In-neighbours sampled a node at hop 1, 2, ..., for --batches neighbors; -1 takes all."""
    batch_size: int = 512
    """Roots a batch, for --batches neighbors."""

    def __post_init__(self) -> None:
        NodeConfig.__post_init__(self)
        self.demand(("num_parts", "parts_per_batch", "batch_size"), lambda v: v > 0, "must be above 0")
        if self.batches == "neighbors":
            self.fanouts()
        made_here = not Path(self.data).is_dir()  # a store brings its own number of clusters
        if self.batches == "clusters" and made_here and self.parts_per_batch > self.num_parts:
            raise InputError(
                f"--parts-per-batch {self.parts_per_batch} exceeds --num-parts {self.num_parts}."
                " A batch cannot hold more clusters than there are."
            )

    def fanouts(self) -> tuple[int, ...]:
        """``fanout`` as numbers.

        Raises:
            InputError: where it is no list of numbers, one a layer.
        """
        try:
            numbers = tuple(int(part) for part in self.fanout.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self.layers or any(k < -1 or k == 0 for k in numbers):
            raise InputError(
                f"--fanout {self.fanout}: {self.layers} layers need {self.layers} numbers, above 0 or -1 for all,"
                f" such as {','.join(['10'] * self.layers)}. Change --fanout or --layers."
            )
        return numbers

    def seen(self) -> str:
        """The batches as a term of the run's composition."""
        if self.batches == "full":
            return "full batch"
        if self.batches == "neighbors":
            return f"neighbors({self.fanout}; {self.batch_size} roots)"
        whence = "the store's" if Path(self.data).is_dir() else f"p={self.num_parts}, {self.partitioner}"
        return f"clusters(q={self.parts_per_batch} of {whence})"


def seen(
    config: SeenConfig, graph: Graph, seed: int, world: World, *, house: bool
) -> tuple[Graph, Batches, int, list[str]]:
    """(The graph in the order of its batches, the batches, nodes of the smallest one, what is to be said of them)."""
    from graphscale import nodes
    from graphscale.batches.cluster import ClusterBatches
    from graphscale.batches.full import FullBatch
    from graphscale.batches.neighbor import NeighborBatches

    if config.batches == "full":
        return graph, FullBatch(graph, seed=seed, world=world), graph.num_nodes, []
    notes = []
    if config.batches == "neighbors":
        if (config.norm == "sym" and house) or config.model == "gcn":
            notes.append("sampled blocks do not know the degrees of their outermost sources: GCN's norm is approximate")
        sampled = NeighborBatches(graph, config.fanouts(), config.batch_size, seed=seed, world=world)
        return graph, sampled, sampled.smallest, notes
    graph, q, notes = nodes.clustered(graph, config, seed)
    united = ClusterBatches(graph, q, seed=seed, world=world)
    return graph, united, united.smallest, notes
