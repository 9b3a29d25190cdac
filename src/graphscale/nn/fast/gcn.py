"""Layers that sum with the weights of GCN, or of Cluster-GCN, which come from degrees. n nodes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import conv

from graphscale.edge_view import BlockEdges
from graphscale.kernels.aggregate import aggregate, normalised
from graphscale.nn.fast.layer import Fast, narrow


def _roots(edges: BlockEdges, weighted: bool, loop: float, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """([n, 1] (d + added loop)^-1/2, [n, 1] weight of the added loop if any), d summed over a row's entries.

    Loops that the block has keep their weight, as ``gcn_norm`` of PyG's ``edge_index`` has it.
    """
    key = (weighted, loop, dtype)
    if key not in edges.roots:
        adj = edges.weighted if weighted else edges.pattern
        degree = adj.degree()
        added = None
        if loop:
            added = torch.full_like(degree, loop)
            added[adj.indices[adj.row_of == adj.indices].long()] = 0
            degree = degree + added
        root = degree.pow(-0.5)
        root = root.masked_fill(root == torch.inf, 0.0)[:, None]
        own = None if added is None else (added[:, None] * root * root).to(dtype)
        edges.roots[key] = (root.to(dtype), own)
    return edges.roots[key]


class _Normalised(Fast):
    """Layers that call PyG's ``gcn_norm``."""

    def handles(self, edges: Any, weight: Tensor | None) -> bool:
        """Whether the weights of the block's entries are the constants that came with it."""
        return self.at_hand(edges) and (weight is None or weight is edges.weight)

    def propagated(self, edges: BlockEdges, x: Tensor, weight: Tensor | None) -> Tensor:
        """D^-1/2 (A + added loops) D^-1/2 x, or A x where the layer does not normalise."""
        layer: Any = self
        adj = edges.pattern if weight is None else edges.weighted
        if not getattr(layer, "normalize", True):
            return self.sent(edges, aggregate(adj, x))
        # PyG drops the fill value of improved=True where it is given no weights; so is it here.
        improved = getattr(layer, "improved", False) and weight is not None
        loop = float(getattr(layer, "add_self_loops", False)) * (2.0 if improved else 1.0)
        root, own = _roots(edges, weight is not None, loop, x.dtype)
        return self.sent(edges, normalised(adj, x, pre=root, post=root, diag=own))


class GCNConv(_Normalised, conv.GCNConv):  # type: ignore[misc]
    """Kipf and Welling 2017."""

    stock = conv.GCNConv

    def forward(self, x: Any, edge_index: Any, edge_weight: Tensor | None = None) -> Any:
        """[n, in] -> [n, out]."""
        if not self.handles(edge_index, edge_weight):
            return super().forward(x, edge_index, edge_weight)
        if self.sums_first(x, self.lin):
            out = self.lin(self.propagated(edge_index, narrow(x), edge_weight))
        else:
            out = self.propagated(edge_index, self.lin(x), edge_weight)
        return out if self.bias is None else out + self.bias


class GCN2Conv(_Normalised, conv.GCN2Conv):  # type: ignore[misc]
    """Chen et al. 2020."""

    stock = conv.GCN2Conv

    def forward(self, x: Tensor, x_0: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Any:
        """[n, d] -> [n, d]."""
        if not self.handles(edge_index, edge_weight):
            return super().forward(x, x_0, edge_index, edge_weight)
        x = self.propagated(edge_index, narrow(x), edge_weight) * (1 - self.alpha)
        x_0 = (self.alpha * x_0[: x.shape[0]]).to(x.dtype)
        if self.weight2 is None:
            out = x + x_0
            return (1.0 - self.beta) * out + self.beta * (out @ self.weight1)
        return (1.0 - self.beta) * (x + x_0) + self.beta * (x @ self.weight1 + x_0 @ self.weight2)


class APPNP(_Normalised, conv.APPNP):  # type: ignore[misc]
    """Gasteiger et al. 2019."""

    stock = conv.APPNP

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Any:
        """[n, d] -> [n, d]."""
        dropped = self.training and self.dropout > 0  # of edges' weights
        if dropped or not self.handles(edge_index, edge_weight):
            return super().forward(x, edge_index, edge_weight)
        h = x = narrow(x)
        for _ in range(self.K):
            x = self.propagated(edge_index, x, edge_weight) * (1 - self.alpha) + self.alpha * h
        return x


class TAGConv(_Normalised, conv.TAGConv):  # type: ignore[misc]
    """Du et al. 2017."""

    stock = conv.TAGConv

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Any:
        """[n, in] -> [n, out]."""
        if not self.handles(edge_index, edge_weight):
            return super().forward(x, edge_index, edge_weight)
        x = narrow(x)
        out = self.lins[0](x)
        for lin in self.lins[1:]:
            x = self.propagated(edge_index, x, edge_weight)
            out = out + lin(x)
        return out if self.bias is None else out + self.bias


class SGConv(_Normalised, conv.SGConv):  # type: ignore[misc]
    """Wu et al. 2019."""

    stock = conv.SGConv

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Any:
        """[n, in] -> [n, out]."""
        if not self.handles(edge_index, edge_weight):
            return super().forward(x, edge_index, edge_weight)
        x = narrow(x)
        for _ in range(self.K):
            x = self.propagated(edge_index, x, edge_weight)
        return self.lin(x)


class ClusterGCNConv(Fast, conv.ClusterGCNConv):  # type: ignore[misc]
    """Equations (10) and (11) of Cluster-GCN."""

    stock = conv.ClusterGCNConv

    @classmethod
    def fits(cls, module: Any) -> bool:
        """Loops are added: otherwise those of the data are enhanced."""
        return super().fits(module) and bool(module.add_self_loops)

    def forward(self, x: Tensor, edge_index: Any) -> Any:
        """[n, in] -> [n, out]."""
        if not self.at_hand(edge_index):
            return super().forward(x, edge_index)
        adj = edge_index.loopless
        first = self.sums_first(x, self.lin_out)
        own = narrow(x) if first else F.linear(x, self.lin_out.weight)
        inverse = (1 / (adj.indptr.diff()[:, None] + 1.0)).to(own.dtype)
        out = self.sent(edge_index, normalised(adj, own, post=inverse, diag=(1 + self.diag_lambda) * inverse))
        if first:
            out = self.lin_out(out)
        elif self.lin_out.bias is not None:
            out = out + self.lin_out.bias
        return out + self.lin_root(x)
