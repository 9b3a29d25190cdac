"""Networks of PyG's layers for laws that hold of any: 5 features, 3 classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torch_geometric.nn as pyg
from torch import nn


class Layers(nn.Module):
    """Layers of any kind with what may stand between them: bias, norm, activation, residual."""

    def __init__(self, *convs, norm=None, residual=False):
        super().__init__()
        self.convs, self.norm, self.residual = nn.ModuleList(convs), norm, residual

    def forward(self, x, edge_index):
        for i, conv in enumerate(self.convs):
            h = conv(x, edge_index)
            if i < len(self.convs) - 1:
                h = h if self.norm is None else self.norm(h)
                h = F.elu(h)
            x = h + x if self.residual and h.shape == x.shape else h
        return x


class Deep(nn.Module):
    """GCNII: every layer sees the first one's input."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.convs = nn.ModuleList(pyg.GCN2Conv(8, 0.1, theta=0.5, layer=i + 1) for i in range(4))

    def forward(self, x, edge_index):
        x = x_0 = self.first(x).relu()
        for conv in self.convs:
            x = conv(x, x_0, edge_index).relu()
        return self.last(x)


PNA = {
    "aggregators": ["mean", "max", "std"],
    "scalers": ["identity", "amplification"],
    "deg": torch.tensor([0, 2, 3, 9]),
}

MODELS = {
    "gcn": lambda: pyg.GCN(5, 8, 3, 3),
    "gcn, batch norm": lambda: pyg.GCN(5, 8, 3, 3, norm="batch_norm"),
    "gcn, residual and layer norm": lambda: Layers(
        pyg.GCNConv(5, 8), pyg.GCNConv(8, 8), pyg.GCNConv(8, 3), norm=nn.LayerNorm(8), residual=True
    ),
    "sage": lambda: pyg.GraphSAGE(5, 8, 3, 3),
    "sage, jumping knowledge": lambda: pyg.GraphSAGE(5, 8, 3, 3, jk="cat"),
    "gat": lambda: pyg.GAT(5, 8, 3, 3, heads=2),
    "gat v2": lambda: pyg.GAT(5, 8, 3, 3, heads=2, v2=True),
    "gin": lambda: pyg.GIN(5, 8, 3, 3),
    "gcnii": Deep,
    "appnp": lambda: Spread(),
    "tag": lambda: Layers(pyg.TAGConv(5, 8, K=2), pyg.TAGConv(8, 3, K=1)),
    "sg": lambda: Layers(pyg.SGConv(5, 8, K=2), pyg.SGConv(8, 3)),
    "pna": lambda: pyg.PNA(5, 8, 3, 3, **PNA),
    "pna, jumping knowledge": lambda: pyg.PNA(5, 8, 3, 3, jk="cat", **PNA),
    "cluster gcn": lambda: Layers(pyg.ClusterGCNConv(5, 8), pyg.ClusterGCNConv(8, 8), pyg.ClusterGCNConv(8, 3)),
    "transformer": lambda: Layers(pyg.TransformerConv(5, 4, heads=2), pyg.TransformerConv(8, 3)),
    "widths that differ": lambda: Layers(pyg.GCNConv(5, 16), pyg.SAGEConv(16, 4), pyg.GATConv(4, 3)),
}


class Spread(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.spread = nn.Linear(5, 3), pyg.APPNP(4, 0.1)

    def forward(self, x, edge_index):
        return self.spread(self.linear(x), edge_index)
