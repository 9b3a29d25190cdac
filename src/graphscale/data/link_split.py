"""Links to learn from and links to foretell: a share of every graph's edges carries messages, the rest is asked.

G-Meta (Huang and Zitnik, NeurIPS 2020, section 5) keeps 30 % of the edges of each graph as its support; as many pairs
that are no edge stand beside the edges of either set. The authors' sample script leaves all of them in the graph.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from graphscale import rng
from graphscale.csr import Csr, from_entries, index_dtype
from graphscale.data.columns import Column, cast, one_thread
from graphscale.data.union import Collection, Pairs
from graphscale.errors import InputError


def split_links(collection: Collection, share: float = 0.3, seed: int = 0) -> Collection:
    """The same graphs with the support's edges alone, both directions, and pairs of either kind.

    An edge is one whatever its directions; loops are neither messages nor pairs; weights and edge attributes are left
    out. Pairs come by graph: support edges, as many pairs that are none, query edges, and as many that are none; the
    lower row is first in each, so that its order says nothing.

    Args:
        collection: graphs; pairs that it may have are replaced.
        share: of a graph's edges that are its support, rounded to whole ones.
        seed: graph g's split follows from (seed, g).

    Raises:
        InputError: where the share is not between 0 and 1, or a graph has fewer pairs that are no edge than edges.
    """
    if not 0 < share < 1:
        raise InputError(f"share {share}: some edges are the support, and not all. Give a number between 0 and 1.")
    graph, ends = collection.graph, collection.graph.part_ptr.tolist()
    with ExitStack() as files, one_thread():
        out = _Growing(files)
        for g, name in enumerate(collection.names):
            draw = np.random.default_rng(rng.derive(rng.DATA, seed, g))
            edges = _edges(graph.adj.rows(ends[g], ends[g + 1]), ends[g])
            none = _no_edges(edges, ends[g + 1] - ends[g], draw, name)
            edges = edges[:, draw.permutation(edges.shape[1])]
            out.add(ends[g], ends[g + 1], edges, none, round(share * edges.shape[1]))
        adj, pairs = out.done()
    asked = int((pairs.label & ~pairs.support).sum())
    said = f"links: {adj.num_entries // 2:,} edges are the support and carry messages, {asked:,} are asked"
    split = replace(graph, adj=adj, edge_attr=None, notes=(*graph.notes, said))
    return replace(collection, graph=split, pairs=pairs)


def without(adj: Csr, pair: Tensor) -> tuple[Csr, int]:
    """The adjacency without the entries of pairs, in both directions, and how many these were."""
    nodes = adj.num_rows
    low, high = pair.amin(1), pair.amax(1)
    row, col = adj.row_of, adj.indices.long()
    keep = ~torch.isin(torch.minimum(row, col) * nodes + torch.maximum(row, col), low * nodes + high)
    return replace(adj.select(keep), symmetric=adj.symmetric), int((~keep).sum())


class _Growing:
    """Messages and pairs of one graph after another."""

    def __init__(self, files: ExitStack) -> None:
        self.pair, self.label, self.support = Column(files, np.int64, 2), Column(files, np.int64), Column(files, bool)
        self.degree, self.indices = Column(files, np.int64), Column(files, np.int64)

    def add(self, start: int, stop: int, edges: np.ndarray, none: np.ndarray, support: int) -> None:
        """A graph's rows, its edges and as many pairs that are none, and how many of each are the support."""
        for some, is_support in ((slice(support), True), (slice(support, None), False)):
            for pairs, is_edge in ((edges[:, some], 1), (none[:, some], 0)):
                self.pair.add(start + pairs.T)
                self.label.add(np.full(pairs.shape[1], is_edge))
                self.support.add(np.full(pairs.shape[1], is_support))
        low, high = torch.from_numpy(edges[:, :support])
        size = stop - start
        messages, _ = from_entries(torch.cat([low, high]), torch.cat([high, low]), (size, size))
        self.degree.add(messages.indptr.diff().numpy())
        self.indices.add(start + messages.indices.numpy().astype(np.int64))

    def done(self) -> tuple[Csr, Pairs]:
        """All of them."""
        degree, indices = self.degree.done(), self.indices.done()
        nodes = degree.numel()
        dtype = index_dtype(nodes, indices.numel())
        indptr = torch.nn.functional.pad(degree.cumsum(0), (1, 0)).to(dtype)
        adj = Csr(indptr, cast(indices, dtype), None, nodes, symmetric=True)
        return adj, Pairs(self.pair.done(), self.label.done(), self.support.done())


def _edges(rows: Csr, start: int) -> np.ndarray:
    """[2, edges] the lower and the higher node of every edge of a graph, whose rows begin at ``start``."""
    nodes = rows.num_rows
    row, col = rows.row_of.numpy(), rows.indices.numpy().astype(np.int64) - start
    key = np.unique((np.minimum(row, col) * nodes + np.maximum(row, col))[row != col])
    return np.stack([key // nodes, key % nodes])


def _no_edges(edges: np.ndarray, nodes: int, draw: np.random.Generator, name: str) -> np.ndarray:
    """[2, k] pairs of a graph's nodes that are no edges, all different, as many as there are edges, in any order.

    Pairs are numbered high (high - 1) / 2 + low. The r-th that is no edge is pair r + i where i edges come before it,
    which is where e - (edges before e) <= r for i of the edges e: so none is drawn in vain, however dense the graph.
    """
    low, high = edges
    count, possible = edges.shape[1], nodes * (nodes - 1) // 2
    if possible - count < count:
        raise InputError(
            f"{name} has {count:,} edges among {nodes:,} nodes and only {possible - count:,} pairs that are none, which"
            " are fewer. Leave it out."
        )
    taken = np.sort(high * (high - 1) // 2 + low)
    rank = draw.choice(possible - count, count, replace=False)
    number = rank + np.searchsorted(taken - np.arange(count), rank, side="right")
    top = ((1 + np.sqrt(1 + 8.0 * number)) / 2).astype(np.int64)
    top -= top * (top - 1) // 2 > number  # beyond 2^53 the root may be rounded up, never down
    return np.stack([number - top * (top - 1) // 2, top])
