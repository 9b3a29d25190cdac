"""Links to learn from and links to foretell: a share of every graph's edges carries messages, the rest is asked.

G-Meta (Huang and Zitnik, NeurIPS 2020, section 5) keeps 30 % of the edges of each graph as its support; as many pairs
that are no edge stand beside the edges of either set. The authors' sample script leaves all of them in the graph.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from graphscale import rng
from graphscale.csr import Csr, from_entries
from graphscale.data.union import Collection, Pairs
from graphscale.errors import InputError


def split_links(collection: Collection, share: float = 0.3, *, seed: int = 0) -> Collection:
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
    graph = collection.graph
    edges = _edges(graph.adj)  # [2, edges], by graph
    bounds = np.searchsorted(edges[0], graph.part_ptr.numpy())
    parts: list[np.ndarray] = []
    for g, name in enumerate(collection.names):
        start, stop = int(graph.part_ptr[g]), int(graph.part_ptr[g + 1])
        draw = np.random.default_rng(rng.derive(rng.DATA, seed, g))
        own = edges[:, bounds[g] : bounds[g + 1]]
        none = start + _no_edges(own - start, stop - start, draw, name)
        own = own[:, draw.permutation(own.shape[1])]
        support = round(share * own.shape[1])
        parts += [own[:, :support], none[:, :support], own[:, support:], none[:, support:]]
    sizes = torch.tensor([part.shape[1] for part in parts])
    kind = torch.arange(len(parts)).repeat_interleave(sizes) % 4
    pairs = Pairs(torch.from_numpy(np.concatenate(parts, 1).T.copy()), (kind % 2 == 0).long(), kind < 2)
    messages = pairs.pair[kind == 0]
    said = f"links: {len(messages):,} edges are the support and carry messages, {int((kind == 2).sum()):,} are asked"
    split = replace(graph, adj=_both_ways(messages, graph.num_nodes), edge_attr=None, notes=(*graph.notes, said))
    return replace(collection, graph=split, pairs=pairs)


def _edges(adj: Csr) -> np.ndarray:
    """[2, edges] the lower and the higher row of every edge, ascending."""
    row, col = adj.row_of, adj.indices.long()
    upper = row < col
    if not adj.symmetric:
        row, col = torch.minimum(row, col), torch.maximum(row, col)
        upper = row < col
    key = (row[upper] * adj.num_rows + col[upper]).unique()
    return torch.stack([key // adj.num_rows, key % adj.num_rows]).numpy()


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
    top -= top * (top - 1) // 2 > number  # the root may be rounded up
    top += (top + 1) * top // 2 <= number
    return np.stack([number - top * (top - 1) // 2, top])


def _both_ways(pair: Tensor, nodes: int) -> Csr:
    low, high = pair.t()
    adj, _ = from_entries(torch.cat([low, high]), torch.cat([high, low]), (nodes, nodes))
    return replace(adj, symmetric=True)
