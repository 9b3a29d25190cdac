"""For a training loop of one's own: clusters of a PyG ``Data``, or histories for a PyG model, in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from graphscale.batch import Batch
from graphscale.batches.cluster import ClusterBatches
from graphscale.csr import Csr
from graphscale.data.pyg import from_pyg
from graphscale.errors import InputError
from graphscale.graph import Graph
from graphscale.loop import commit, fetch
from graphscale.nn.exact import outputs
from graphscale.nn.history import TABLE, attach
from graphscale.nn.history import with_history as attached
from graphscale.nn.stock import Feed
from graphscale.nodes import demand_pairs
from graphscale.partitioning import Method, partition
from graphscale.step import Apply
from graphscale.tables.history import History
from graphscale.tables.resident import Place, Resident
from graphscale.tables.resident import histories as placed


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


def _graph(data: Any) -> Graph:
    if not hasattr(data, "edge_index"):
        raise InputError(f"data is {type(data).__name__}: torch_geometric.data.Data is needed.")
    graph = from_pyg(data, splits=("train",))
    for note in graph.notes:
        if "merged" in note:  # the others describe the data, this one changes what a model gives
            warnings.warn(note, stacklevel=3)
    return graph


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
    graph = _graph(data)
    cut = partition(graph, num_parts, method=method, seed=seed)
    return Clusters(ClusterBatches(cut.apply(graph), parts_per_batch, seed=seed))


@dataclass(frozen=True)
class Histories:
    """A model whose batches keep every edge: what they do not compute, they read from earlier steps (GAS)."""

    model: nn.Module
    graph: Graph  # in the caller's order
    batches: ClusterBatches
    table: History | Resident
    feed: Feed
    apply: Apply

    def epoch(self, index: int) -> Iterator[Batch]:
        """The batches of epoch ``index``. Some may hold no training node: take sums of losses, not means."""
        return self.batches.epoch(index)

    def __call__(self, batch: Batch) -> Tensor:
        """Logits [roots, C], differentiable. While the model trains, the roots' rows are pushed and buffers move."""
        device = next(self.model.parameters()).device
        batch = batch.to(device)
        rows = fetch({TABLE: self.table}, batch.needs)
        out = self.apply({**dict(self.model.named_parameters()), **rows}, batch)
        if self.model.training:
            commit({TABLE: self.table}, out.writes)
            with torch.no_grad():
                for name, buffer in self.model.named_buffers():
                    buffer.copy_(out.buffers[name])
        return out.logits[: batch.num_roots]

    def exact(self) -> Tensor:
        """Logits [N, C] of all nodes in the caller's order, without histories, in bounded memory."""
        return outputs(self.model, self.feed, self.graph, next(self.model.parameters()).device).logits


def with_history(
    model: nn.Module, data: Any, num_parts: int, parts_per_batch: int = 1, *, method: Method = "metis", seed: int = 0,
    histories: Place = "ram", dtype: torch.dtype = torch.float32, accelerate: bool = True,
) -> Histories:  # fmt: skip
    """A stock PyG model, unedited, on batches of clusters that keep every edge (GNNAutoScale, ICML 2021).

    Args:
        model: of PyG's layers, called as ``model(x, edge_index)``, with ``edge_weight`` and ``edge_attr`` where its
            forward names them and the data has them.
        data: ``torch_geometric.data.Data`` with ``x``, ``y`` and ``train_mask``.
        num_parts: p, clusters in all.
        parts_per_batch: q, clusters united in a batch.
        method: ``metis``, ``stream`` or ``random``.
        seed: of the clusters and of their order.
        histories: they lie in memory; in a nameless file (disk), which may be larger; or on the model's device.
        dtype: of histories.
        accelerate: make the model's layers fast. One that drops edges while it trains needs them as they are.

    Raises:
        InputError: where the data is no sound graph, or the model cannot be exact with histories.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is {type(model).__name__}: a torch.nn.Module of PyG's layers is needed.")
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if types - {torch.float32}:
        said = ", ".join(map(str, types))
        raise InputError(f"the model has weights of {said}, and features are float32. Call model.float().")
    graph = _graph(data)
    feed, notes = Feed.of(model, graph, faster=accelerate)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    widths, filled = attach(model, feed, graph)
    cut = partition(graph, num_parts, method=method, seed=seed).apply(graph)
    device = next(model.parameters()).device
    table = placed(histories, graph.num_nodes, sum(widths[:-1]), dtype=dtype, device=device)
    batches = ClusterBatches(cut, parts_per_batch, seed=seed, halo=[TABLE], filled=filled)
    demand_pairs(model, batches.smallest)
    return Histories(model, graph, batches, table, feed, attached(model, feed, widths))
