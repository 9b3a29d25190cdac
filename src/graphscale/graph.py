"""What exists: a static graph, its nodes in the order in which training reads them.

N nodes, E stored entries (directed), F features, C classes, P clusters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from graphscale import scratch
from graphscale.csr import Csr, from_entries, merge_duplicates
from graphscale.errors import InputError
from graphscale.kernels.layout import count_among, fill_among
from graphscale.soundness import check_arrays

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph with features, labels and splits; its nodes grouped by cluster once partitioned."""

    adj: Csr  # [N, N] row i: sources of node i's incoming edges; values are edge weights
    x: Tensor | Csr | None  # [N, F] dense or sparse
    y: Tensor  # [N] int64 classes, -1 unlabelled; or [N, C] float32, several labels a node
    masks: Mapping[str, Tensor]  # "train", "val", "test" -> [N] bool; labelled nodes only
    num_classes: int
    part_ptr: Tensor  # [P + 1] int64: cluster k is rows part_ptr[k]:part_ptr[k + 1]
    node_id: Tensor  # [N] int64: the caller's id of every row
    edge_attr: Tensor | None = None  # [E, D] in the order of adj's entries
    notes: tuple[str, ...] = ()  # what the reader changed or found, for the log
    clusters: Mapping[str, object] = field(default_factory=dict)  # how the clusters were made, and their quality

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.adj.num_rows

    @property
    def num_entries(self) -> int:
        """E: stored directions, twice the edges of an undirected graph."""
        return self.adj.num_entries

    @property
    def num_features(self) -> int:
        """F, 0 without features."""
        if self.x is None:
            return 0
        return self.x.num_cols if isinstance(self.x, Csr) else self.x.shape[1]

    @property
    def num_parts(self) -> int:
        """P."""
        return self.part_ptr.numel() - 1

    @property
    def multilabel(self) -> bool:
        """Whether a node may have several labels."""
        return self.y.dim() == 2

    def permuted(self, order: Tensor, part_ptr: Tensor) -> Graph:
        """The same graph with row i being the former row ``order[i]``."""
        entry, ptr = self.adj.entries_of(order)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(order.numel())
        row = torch.repeat_interleave(torch.arange(order.numel()), ptr.diff())
        values = None if self.adj.values is None else self.adj.values[entry]
        adj, moved = from_entries(row, rank[self.adj.indices[entry].long()], self.adj.shape, values)
        return replace(
            self,
            adj=replace(adj, symmetric=self.adj.symmetric),
            x=take_rows(self.x, order),
            y=self.y[order],
            masks={name: mask[order] for name, mask in self.masks.items()},
            part_ptr=part_ptr,
            node_id=self.node_id[order],
            edge_attr=None if self.edge_attr is None else self.edge_attr[entry[moved]],
        )

    def induced(self, nodes: Tensor) -> Graph:
        """The graph among ``nodes`` (sorted ids), edges to others dropped: the inductive setting's view."""
        adj, edge_attr = self._among(nodes)
        return replace(
            self,
            adj=adj,
            x=take_rows(self.x, nodes),
            y=self.y[nodes],
            masks={name: mask[nodes] for name, mask in self.masks.items()},
            part_ptr=torch.searchsorted(nodes, self.part_ptr),  # sorted ids keep the order of clusters
            node_id=self.node_id[nodes],
            edge_attr=edge_attr,
        )

    def without_loops(self) -> Graph:
        """The same graph without its self loops."""
        if not self.adj.has_loops():
            return self
        adj, edge_attr = self._among(torch.arange(self.num_nodes), loops=False)
        return replace(self, adj=adj, edge_attr=edge_attr)

    def _among(self, nodes: Tensor, *, loops: bool = True) -> tuple[Csr, Tensor | None]:
        """Adjacency and edge attributes among ``nodes`` (sorted ids), memory by nodes: the rest is scratch."""
        adj, attr = self.adj, self.edge_attr
        place = torch.full((self.num_nodes,), -1, dtype=adj.indices.dtype)
        place[nodes] = torch.arange(nodes.numel(), dtype=place.dtype)
        arrays = (adj.indptr.numpy(), adj.indices.numpy(), nodes.numpy(), place.numpy(), loops)
        indptr = torch.from_numpy(count_among(*arrays))
        indices = scratch.empty(int(indptr[-1]), dtype=adj.indices.dtype)
        entry = scratch.empty(0 if adj.values is None and attr is None else indices.numel(), dtype=torch.int64)
        fill_among(*arrays, indices.numpy(), entry.numpy())
        values = None if adj.values is None else scratch.taken(adj.values, entry)
        kept = Csr(indptr.to(adj.indptr.dtype), indices, values, nodes.numel(), adj.symmetric)
        return kept, None if attr is None else scratch.taken(attr, entry)

    def for_classes(self, num_classes: int) -> Graph:
        """The same graph for a model of ``num_classes`` outputs.

        Raises:
            InputError: where its labels do not fit such a model.
        """
        fits = self.num_classes == num_classes if self.multilabel else self.num_classes <= num_classes
        if not fits:
            raise InputError(
                f"the data has {self.num_classes} classes; the model was trained on {num_classes}."
                " Give data of the same task."
            )
        return replace(self, num_classes=num_classes)

    def identity(self) -> str:
        """A hash of structure, clusters, order of nodes, labels and splits: what a checkpoint is bound to."""
        digest = hashlib.blake2b(self.fingerprint().encode(), digest_size=16)
        for tensor in (self.part_ptr, self.node_id, self.y, *self.masks.values()):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """A hash of the structure (not of features): what a partition is bound to."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (self.adj.indptr, self.adj.indices, self.adj.values):
            if tensor is not None:
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def take_rows(x: Tensor | Csr | None, rows: Tensor) -> Tensor | Csr | None:
    """Rows of a feature matrix of any kind."""
    if x is None or isinstance(x, Tensor):
        return None if x is None else scratch.taken(x, rows)
    return x.take(rows)


def from_edges(
    edge_index: Tensor,
    num_nodes: int,
    *,
    y: Tensor,
    masks: Mapping[str, Tensor],
    x: Tensor | Csr | None = None,
    weight: Tensor | None = None,
    edge_attr: Tensor | None = None,
    undirected: bool = False,
    name: str = "the graph",
) -> Graph:
    """A checked graph from edges as they come: unsorted, directed or not, with duplicates and loops.

    Duplicates merge (weights add up); with edge attributes parallel edges stay apart, since they
    differ. Self loops and isolated nodes are kept.

    Args:
        edge_index: [2, E] source and target of every directed entry.
        y: [N] or [N, 1] classes (-1 unlabelled), or [N, C] zeros and ones.
        masks: split name -> [N] bool.
        weight: [E] edge weights.
        edge_attr: [E] or [E, D] edge attributes.
        undirected: add the reverse of every edge that lacks one.

    Raises:
        InputError: on wrong shapes, ids out of range, NaN, labels outside the classes, an empty split.
    """
    if y.dim() == 2 and y.shape[1] == 1:  # a column of classes, as many data sets have it
        y = y[:, 0].long() if torch.equal(y, y.round()) else y[:, 0]
    if isinstance(x, Tensor) and x.dim() == 2 and x.shape[1] == 0:
        x = None
    check_arrays(edge_index, num_nodes, x, y, masks, weight, edge_attr, name)
    notes: list[str] = []
    if edge_attr is not None and edge_attr.dim() == 1:
        edge_attr = edge_attr[:, None]
    source, target = edge_index.long()
    if undirected:
        # Only what is missing is added, so weights and attributes of stored reverses stay as they are.
        missing = ~torch.isin(target * num_nodes + source, source * num_nodes + target)
        weight, edge_attr = (None if v is None else torch.cat([v, v[missing]]) for v in (weight, edge_attr))
        source, target = torch.cat([source, target[missing]]), torch.cat([target, source[missing]])
    adj, order = from_entries(target, source, (num_nodes, num_nodes), weight)
    if edge_attr is not None:
        edge_attr = edge_attr[order]
    else:
        adj, merged = merge_duplicates(adj)
        if merged:
            notes.append(f"{merged:,} duplicate entries merged")
    adj = replace(adj, symmetric=adj.check_symmetric())
    return described(adj, x=x, y=y, masks=masks, edge_attr=edge_attr, notes=notes)


def _one_way(adj: Csr) -> str:
    if adj.values is not None and replace(adj, values=None).check_symmetric():
        return "every edge has its reverse, some of another weight: each direction keeps its own"
    return "directed: messages flow along the edges only (--undirected adds their reverses)"


def described(
    adj: Csr,
    *,
    x: Tensor | Csr | None,
    y: Tensor,
    masks: Mapping[str, Tensor],
    edge_attr: Tensor | None = None,
    notes: Sequence[str] = (),
) -> Graph:
    """A graph of checked arrays in the caller's order, with what is to be said of it."""
    said = list(notes)
    if not adj.symmetric:
        said.append(_one_way(adj))
    isolated = int((adj.indptr.diff() == 0).sum())
    if isolated:
        said.append(f"{isolated:,} nodes without incoming edges kept")
    classes = y.shape[1] if y.dim() == 2 else int(y.max()) + 1
    if y.dim() == 1 and (occur := int(y[y >= 0].unique().numel())) < classes:
        said.append(f"{occur:,} of the classes 0..{classes - 1} occur: the others are outputs that nothing teaches")
    labelled = torch.ones(adj.num_rows, dtype=torch.bool) if y.dim() == 2 else y >= 0
    unlabelled = sum(int((mask & ~labelled).sum()) for mask in masks.values())
    if unlabelled:
        said.append(f"{unlabelled:,} nodes of the splits have no label and are left out of loss and metrics")
    return Graph(
        adj=adj,
        x=x,
        y=y if y.dim() == 2 else y.long(),
        masks={split: mask & labelled for split, mask in masks.items()},
        num_classes=classes,
        part_ptr=torch.tensor([0, adj.num_rows]),
        node_id=torch.arange(adj.num_rows),
        edge_attr=edge_attr,
        notes=tuple(said),
    )
