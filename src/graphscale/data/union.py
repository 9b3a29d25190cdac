"""Many graphs as one: their disjoint union, made graph by graph, so that only its nodes are held in memory.

N nodes and E entries in all, G graphs, F feature columns that all of them share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphscale.csr import Csr, index_dtype
from graphscale.data.columns import Column, cast, one_thread
from graphscale.errors import InputError
from graphscale.graph import Graph


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of nodes of one graph each that are links or are none: what link prediction learns from and is asked."""

    pair: Tensor  # [P, 2] int64 rows of the union
    label: Tensor  # [P] int64, 1 where there is a link
    support: Tensor  # [P] bool: in the support sets; the others are asked

    def __len__(self) -> int:
        """P."""
        return self.label.numel()


@dataclass(frozen=True, slots=True)
class Collection:
    """Graphs that share their feature columns and their numbering of classes."""

    graph: Graph  # the disjoint union: graph g is rows part_ptr[g]:part_ptr[g + 1]; node_id counts within a graph
    names: tuple[str, ...]  # [G]
    pairs: Pairs | None = None

    @property
    def num_graphs(self) -> int:
        """G."""
        return len(self.names)


class _Features:
    """Feature rows of one graph after another: dense, sparse or none, all alike."""

    def __init__(self, files: ExitStack, first: Tensor | Csr | None) -> None:
        self.kind = _kind(first)
        if isinstance(first, Csr):
            self._lengths, self._indices = Column(files, np.int64), Column(files, np.int64)
            self._values = Column(files, np.float32)
        elif first is not None:
            self._rows = Column(files, first.numpy().dtype, first.shape[1])

    def add(self, x: Tensor | Csr | None) -> None:
        """Put a graph's rows at the end."""
        if isinstance(x, Csr):
            self._lengths.add(x.indptr.diff().numpy())
            self._indices.add(x.indices.numpy())
            self._values.add(np.ones(x.num_entries) if x.values is None else x.values.numpy())
        elif x is not None:
            self._rows.add(x.numpy())

    def done(self) -> Tensor | Csr | None:
        """The features of all graphs."""
        columns = self.kind[1]
        if self.kind[0] != "sparse":
            return self._rows.done() if columns else None
        lengths, indices, values = self._lengths.done(), self._indices.done(), self._values.done()
        dtype = index_dtype(lengths.numel(), columns, indices.numel())
        indptr = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        return Csr(indptr.to(dtype), cast(indices, dtype), values, columns)


def _kind(x: Tensor | Csr | None) -> tuple[str, int]:
    if x is None:
        return "no", 0
    return ("sparse", x.num_cols) if isinstance(x, Csr) else ("dense", x.shape[1])


def joined(graphs: Iterable[tuple[str, Graph]], *, notes: Iterable[str] = ()) -> Collection:
    """The disjoint union of named graphs, which are taken one by one: what is large goes to files.

    Several labels a node, edge attributes and splits are left out, weights kept where every graph has them.

    Raises:
        InputError: where there is no graph, or their features are not alike.
    """
    with ExitStack() as files, one_thread():
        return _Union(files, notes).of(iter(graphs))


class _Union:
    """The parts of a union that are growing."""

    def __init__(self, files: ExitStack, notes: Iterable[str]) -> None:
        self.files = files
        self.degree, self.indices, self.y, self.node_id = (Column(files, np.int64) for _ in range(4))
        self.weight = Column(files, np.float32)
        self.names: list[str] = []
        self.ends = [0]
        self.weighted, self.symmetric = True, True
        self.notes = list(notes)

    def of(self, graphs: Iterator[tuple[str, Graph]]) -> Collection:
        """Take all, and make the union."""
        features: _Features | None = None
        for name, graph in graphs:
            if features is None:
                features = _Features(self.files, graph.x)
            if _kind(graph.x) != features.kind:
                raise InputError(
                    f"{name} has {_said(_kind(graph.x))}, {self.names[0]} {_said(features.kind)}: a model needs the"
                    " same columns in every graph. Give all graphs one set of columns, or leave some out."
                )
            features.add(graph.x)
            self._add(name, graph)
        if features is None:
            raise InputError("there is no graph to join. Check the folder or the name.")
        return self._done(features)

    def _add(self, name: str, graph: Graph) -> None:
        adj = graph.adj
        self.degree.add(adj.indptr.diff().numpy())
        self.indices.add(adj.indices.numpy().astype(np.int64) + self.ends[-1])
        self.weighted &= adj.values is not None
        if self.weighted and adj.values is not None:
            self.weight.add(adj.values.numpy())
        self.symmetric &= adj.symmetric
        single = graph.y if graph.y.dim() == 1 else torch.full((graph.num_nodes,), -1)
        self.y.add(single.numpy())
        self.node_id.add(graph.node_id.numpy())
        self.names.append(name)
        self.ends.append(self.ends[-1] + graph.num_nodes)
        for what, there in (
            ("several labels a node", graph.y.dim() == 2),
            ("edge attributes", graph.edge_attr is not None),
        ):
            if there:
                self.notes.append(f"{name}: {what} left out")

    def _done(self, features: _Features) -> Collection:
        nodes = self.ends[-1]
        indptr = torch.nn.functional.pad(self.degree.done().cumsum(0), (1, 0))
        dtype = index_dtype(nodes, int(indptr[-1]))
        weight, y = self.weight.done(), self.y.done()
        adj = Csr(
            indptr.to(dtype), cast(self.indices.done(), dtype), weight if self.weighted else None, nodes, self.symmetric
        )
        graph = Graph(
            adj=adj,
            x=features.done(),
            y=y,
            masks={},
            num_classes=int(y.max()) + 1,
            part_ptr=torch.tensor(self.ends),
            node_id=self.node_id.done(),
            notes=tuple(self.notes),
        )
        return Collection(graph, tuple(self.names))


def _said(kind: tuple[str, int]) -> str:
    return "no features" if kind[0] == "no" else f"{kind[1]:,} {kind[0]} feature columns"
