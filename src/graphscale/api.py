"""For a training loop of one's own: clusters of a PyG ``Data`` in one call."""

from __future__ import annotations

from typing import Any

from graphscale.batches.cluster import ClusterBatches
from graphscale.data.static import from_pyg
from graphscale.partitioning import Method, partition


def clusters(
    data: Any, num_parts: int, parts_per_batch: int = 1, *, method: Method = "metis", seed: int = 0
) -> ClusterBatches:
    """Cluster batches of a ``torch_geometric.data.Data`` with ``x``, ``y`` and the three masks.

    ``for batch in clusters(data, 50, 2).epoch(i)``: ``batch.x``, ``batch.edge_index``, ``batch.y`` and
    ``batch.mask`` take the places of ``data.x``, ``data.edge_index``, ``data.y`` and ``data.train_mask``.
    """
    graph = from_pyg(data)
    cut = partition(graph, num_parts, method=method, seed=seed)
    return ClusterBatches(cut.apply(graph), parts_per_batch, seed=seed)
