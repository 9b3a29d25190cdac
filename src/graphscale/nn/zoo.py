"""Networks of the papers that ``torch_geometric.nn.models`` lacks, built of PyG's layers.

n nodes, F inputs, H hidden, C classes.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import APPNP, GCN2Conv


class APPNPNet(nn.Module):
    """An MLP whose outputs are spread (Gasteiger et al., ICLR 2019).

    Args:
        num_layers: of the MLP.
        hops: K, propagations.
        alpha: probability of return to the node itself.
    """

    supports_edge_weight, supports_edge_attr = True, False

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        num_layers: int,
        out_dim: int,
        *,
        dropout: float,
        hops: int = 10,
        alpha: float = 0.1,
    ) -> None:
        super().__init__()
        dims = [in_dim, *[hidden] * (num_layers - 1), out_dim]
        self.lins = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))
        self.spread, self.dropout = APPNP(hops, alpha), dropout

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """[n, F] -> [n, C]."""
        for i, lin in enumerate(self.lins):
            x = lin(F.dropout(x, self.dropout, self.training))
            x = x.relu() if i < len(self.lins) - 1 else x
        out: Tensor = self.spread(x, edge_index, edge_weight)
        return out


class GCNII(nn.Module):
    """Deep GCN with an initial residual and identity mapping (Chen et al., ICML 2020).

    Args:
        num_layers: convolutions; a linear layer stands before and after them.
        alpha: share of the first layer's output in every convolution.
        theta: the identity's weight in the l-th convolution is 1 - log(theta / l + 1).
        batch_norm: after every convolution.
    """

    supports_edge_weight, supports_edge_attr = True, False

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        num_layers: int,
        out_dim: int,
        *,
        dropout: float,
        alpha: float = 0.1,
        theta: float = 0.5,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.first, self.last, self.dropout = nn.Linear(in_dim, hidden), nn.Linear(hidden, out_dim), dropout
        self.convs = nn.ModuleList(GCN2Conv(hidden, alpha, theta, layer + 1) for layer in range(num_layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) if batch_norm else nn.Identity() for _ in self.convs)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """[n, F] -> [n, C]."""
        x = x_0 = self.first(F.dropout(x, self.dropout, self.training)).relu()
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(F.dropout(x, self.dropout, self.training), x_0, edge_index, edge_weight)).relu()
        out: Tensor = self.last(F.dropout(x, self.dropout, self.training))
        return out
