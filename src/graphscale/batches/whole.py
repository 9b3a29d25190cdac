"""Whole subgraphs, for models that are not cut to what reaches a centre: any PyG model, called as on any graph.

A task's subgraphs lie side by side in one block-diagonal graph, a node once a subgraph. T tasks, n points a task.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphscale.batches.subgraphs import Inputs, point_seeds
from graphscale.csr import Csr
from graphscale.graph import take_rows
from graphscale.kernels.ego_walk import Rules, Scratch
from graphscale.kernels.ego_whole import induced
from graphscale.kernels.stacked import Ptr


@dataclass(frozen=True)
class WholeSide:
    """Support or query of T tasks as graphs."""

    x: Tensor  # [nodes, F]
    edge_index: Tensor  # [2, e] source above target, counted within the task
    nodes: Ptr  # [T + 1]
    edges: Ptr  # [T + 1]
    centre: Tensor  # [T, n, C] places within the task
    size: Tensor  # [T n] nodes of every subgraph

    def to(self, device: torch.device) -> WholeSide:
        """The same side on ``device``."""
        return replace(self, x=self.x.to(device), edge_index=self.edge_index.to(device), centre=self.centre.to(device))


class WholeSubgraphs:
    """Makes both sides of a step, as ``subgraphs.Subgraphs`` does.

    Args:
        adj: the graph; its values are not used.
        x: [N, F] features; None feeds a node's degree within the subgraph.
        rules: what a subgraph is.
        seed, resample: which nodes a subgraph over the cap keeps.
    """

    def __init__(
        self, adj: Csr, x: Tensor | Csr | None, rules: Rules, *, seed: int = 0, resample: bool = False
    ) -> None:
        self.adj, self.x, self.rules, self.seed, self.resample = adj, x, rules, seed, resample
        self._scratch = Scratch(adj.num_rows)

    def __call__(self, support: Tensor, query: Tensor, epoch: int = 0) -> tuple[WholeSide, WholeSide, Inputs]:
        """Both sides of ``support`` [T, n, C] and ``query`` [T, m, C], rows of the graph."""
        return self._side(support, epoch), self._side(query, epoch), Inputs(None)

    def _side(self, points: Tensor, epoch: int) -> WholeSide:
        tasks, count, centres = points.shape
        flat = points.flatten(0, 1)
        node, sizes, edge_index, edges = (
            torch.from_numpy(a)
            for a in induced(
                self.adj.indptr.numpy(), self.adj.indices.numpy(), flat.numpy(),
                point_seeds(flat, self.seed, epoch if self.resample else 0), self.rules, self._scratch,
            )
        )  # fmt: skip
        first = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))  # [P + 1] nodes before a point
        ends = torch.nn.functional.pad(edges.cumsum(0), (1, 0))[::count]
        starts = first[::count]  # [T + 1]
        x = take_rows(self.x, node)
        if x is None:
            x = torch.bincount(edge_index[1], minlength=node.numel()).float()[:, None]
        own = torch.repeat_interleave(starts[:-1], ends.diff())
        return WholeSide(
            x=x.dense() if isinstance(x, Csr) else x,
            edge_index=edge_index - own,
            nodes=tuple(starts.tolist()),
            edges=tuple(ends.tolist()),
            centre=(first[:-1].view(tasks, count) - starts[:-1, None])[:, :, None] + torch.arange(centres),
            size=sizes,
        )
