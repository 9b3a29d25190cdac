"""For a training loop of one's own: clusters of a PyG ``Data`` in one call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from graphscale.batch import Batch
from graphscale.batches.cluster import ClusterBatches
from graphscale.csr import Csr
from graphscale.data.pyg import from_pyg
from graphscale.partitioning import Method, partition


@dataclass(frozen=True)
class Clusters:
    """Batches of clusters for a loop that takes a mean over each batch's training nodes."""

    batches: ClusterBatches

    def epoch(self, index: int) -> Iterator[Batch]:
        """The batches of epoch ``index`` that hold a training node: a mean over none would be NaN."""
        return (_dense(batch) for batch in self.batches.epoch(index) if batch.count > 0)


def _dense(batch: Batch) -> Batch:
    """PyG's layers take no ``Csr``: sparse features are dense a batch at a time."""
    return replace(batch, x=batch.x.dense()) if isinstance(batch.x, Csr) else batch


def clusters(
    data: Any, num_parts: int, parts_per_batch: int = 1, *, method: Method = "metis", seed: int = 0
) -> Clusters:
    """Cluster batches of a ``torch_geometric.data.Data`` with ``x``, ``y`` and ``train_mask``.

    A batch has ``x``, ``edge_index``, ``edge_weight``, ``edge_attr``, ``y``, ``train_mask`` and ``num_nodes``, so a
    loop written for ``data`` runs on it.

    Args:
        data: the whole graph.
        num_parts: p, clusters in all.
        parts_per_batch: q, clusters united in a batch; the links among them are kept.
        method: ``metis``, ``stream`` or ``random``.
        seed: of the clusters and of their order.

    Raises:
        InputError: where the data is not a sound homogeneous graph, or p and q do not fit it.
    """
    graph = from_pyg(data, splits=("train",))
    cut = partition(graph, num_parts, method=method, seed=seed)
    return Clusters(ClusterBatches(cut.apply(graph), parts_per_batch, seed=seed))
