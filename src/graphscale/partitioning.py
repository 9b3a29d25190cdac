"""Clusters of a graph: METIS from a wheel, a streaming partitioner, and random parts as the control.

METIS wants an undirected graph without loops and accepts anything else in silence (a directed graph
gave a negative cut), so it is given the symmetrised pattern. Parts that it leaves empty are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pymetis
import torch
from torch import Tensor

from graphscale import rng
from graphscale.csr import Csr, symmetrised
from graphscale.errors import InputError
from graphscale.graph import Graph
from graphscale.kernels.layout import boundary
from graphscale.kernels.streaming import stream_partition

Method = Literal["metis", "stream", "random"]


@dataclass(frozen=True, eq=False)
class Partition:
    """Which cluster every node belongs to, and how good the clusters are."""

    part: Tensor  # [N] int32, clusters 0..P-1, none empty
    part_ptr: Tensor  # [P + 1] int64 sizes, accumulated
    order: Tensor  # [N] int64 nodes by cluster, ascending within one
    method: str
    seed: int
    asked: int  # clusters asked for; METIS may leave some empty
    cut: float  # share of the stored entries, loops apart, that lie between clusters
    halo_ratio: float  # sources outside their target's cluster, summed over clusters, a node
    fingerprint: str  # of the graph it belongs to

    @property
    def num_parts(self) -> int:
        """P, clusters that hold a node."""
        return self.part_ptr.numel() - 1

    def describe(self) -> dict[str, object]:
        """Quality in plain numbers, for logs and results."""
        sizes = self.part_ptr.diff()
        return {
            "method": self.method,
            "seed": self.seed,
            "num_parts": self.num_parts,
            "asked": self.asked,
            "edge_cut": round(self.cut, 4),
            "halo_ratio": round(self.halo_ratio, 4),
            "smallest": int(sizes.min()),
            "largest": int(sizes.max()),
            "fingerprint": self.fingerprint,
        }

    def demand_owner(self, graph: Graph) -> None:
        """Refuse another graph than the one that was partitioned.

        Raises:
            InputError: where the fingerprints differ.
        """
        if graph.fingerprint() != self.fingerprint:
            raise InputError(
                "this partition belongs to another graph (the fingerprints differ); its clusters would be"
                " meaningless here. Partition this graph."
            )

    def apply(self, graph: Graph) -> Graph:
        """The graph with its nodes in cluster order.

        Raises:
            InputError: where the partition was made for another graph.
        """
        self.demand_owner(graph)
        return replace(graph.permuted(self.order, self.part_ptr), clusters=self.describe())


def partition(
    graph: Graph, num_parts: int, *, method: Method = "metis", seed: int = 0, weighted: bool = False
) -> Partition:
    """Cut a graph into clusters.

    Args:
        num_parts: clusters asked for, at most the number of nodes.
        method: ``metis`` minimises the edges between clusters (Karypis and Kumar 1998); ``stream`` does so
            in memory proportional to nodes (``kernels.streaming``); ``random`` deals nodes out evenly.
        seed: of METIS, of ties, or of the deal; same seed, same clusters.
        weighted: METIS minimises the weight of the edges between clusters instead of their number.

    Raises:
        InputError: on an unknown method, fewer than one part, more parts than nodes, or weights asked of a
            graph without.
    """
    if method not in get_args(Method):
        raise InputError(f"no partitioner '{method}'. There are: {', '.join(get_args(Method))}.")
    if seed < 0:
        raise InputError(f"seed {seed}: seeds are 0, 1, ... Give another.")
    if not 1 <= num_parts <= graph.num_nodes:
        raise InputError(
            f"{num_parts} parts asked of {graph.num_nodes} nodes: every part needs a node."
            f" Choose --num-parts between 1 and {graph.num_nodes}."
        )
    if weighted and (graph.adj.values is None or method != "metis"):
        raise InputError(
            "weighted clusters need edge weights and METIS: the graph or the partitioner has none of it."
            " Drop --weighted, or choose --partitioner metis and a graph with edge weights."
        )
    if num_parts == 1:
        part = np.zeros(graph.num_nodes, dtype=np.int64)
    elif method == "metis":
        part = _metis(graph.adj, num_parts, seed, weighted)
    elif method == "stream":
        adj = graph.adj
        part = stream_partition(adj.indptr.numpy(), adj.indices.numpy(), num_parts, rng.derive(rng.PARTITION, seed))
    else:
        deal = np.random.default_rng(rng.derive(rng.PARTITION, seed)).permutation(graph.num_nodes)
        part = np.empty(graph.num_nodes, dtype=np.int64)
        part[deal] = np.arange(graph.num_nodes) * num_parts // graph.num_nodes
    return from_assignment(graph, torch.from_numpy(part), method=method, seed=seed, asked=num_parts)


def from_assignment(graph: Graph, part: Tensor, *, method: str, seed: int, asked: int) -> Partition:
    """A partition from any assignment [N] of nodes to clusters; empty clusters are dropped."""
    _, compact = part.unique(return_inverse=True)
    part_ptr = torch.nn.functional.pad(torch.bincount(compact).cumsum(0), (1, 0))
    order = compact.argsort(stable=True)
    inside, cut, halo = boundary(
        graph.adj.indptr.numpy(), graph.adj.indices.numpy(), compact.numpy(), order.numpy(), part_ptr.numpy()
    )
    return Partition(
        part=compact.int(),
        part_ptr=part_ptr,
        order=order,
        method=method,
        seed=seed,
        asked=asked,
        cut=cut / max(1, inside + cut),
        halo_ratio=halo / graph.num_nodes,
        fingerprint=graph.fingerprint(),
    )


def _metis(adj: Csr, num_parts: int, seed: int, weighted: bool) -> np.ndarray:
    whole = adj if weighted else replace(adj, values=None)
    # Symmetry of the weighted matrix implies that of its pattern.
    pattern = whole.without_loops() if adj.symmetric else symmetrised(whole)
    if pattern.num_entries == 0:
        return np.arange(pattern.num_rows) * num_parts // pattern.num_rows  # no edges: any even cut is best
    adjacency = pymetis.CSRAdjacency(pattern.indptr.numpy(), pattern.indices.numpy())
    weights = None
    if weighted:
        assert pattern.values is not None
        # METIS takes positive integers: the heaviest edge weighs 1,000.
        scaled = pattern.values.abs() * (1000 / pattern.values.abs().max())
        weights = scaled.round().clamp_min(1).to(pattern.indices.dtype).numpy()
    # METIS takes 32-bit seeds, -1 meaning its own default.
    options = pymetis.Options(seed=seed % 2**31)
    found = pymetis.part_graph(num_parts, adjacency, eweights=weights, options=options)
    return np.asarray(found.vertex_part, dtype=np.int64)
