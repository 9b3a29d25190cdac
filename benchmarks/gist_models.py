"""The network of GIST's released small-scale code, as ``build(dims)``: three layers, layer norm over the whole matrix.

The control that cuts the features too has a dimension for them: a matrix that picks them, whose rows a sub-network
is given some of.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GCNConv


class Released(nn.Module):
    """GCN whose hidden layers are rectified, then normalised over all nodes and units together (gcn/gcn.py)."""

    def __init__(self, in_dim: int, out_dim: int, dims: Mapping[str, int]) -> None:
        super().__init__()
        if "x" in dims:
            self.register_buffer("pick", torch.eye(dims["x"], in_dim))
        self.first = GCNConv(dims.get("x", in_dim), dims["h1"])
        self.second, self.last = GCNConv(dims["h1"], dims["h2"]), GCNConv(dims["h2"], out_dim)
        self.cuts_input = "x" in dims

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """[n, F] -> [n, C]."""
        x = x[:, self.pick.argmax(1)] if self.cuts_input else x  # each row of the matrix is one of the identity's
        for i, conv in enumerate((self.first, self.second)):
            x = conv(F.dropout(x, 0.5, self.training) if i else x, edge_index).relu()
            x = F.layer_norm(x, x.shape)
        return self.last(F.dropout(x, 0.5, self.training), edge_index)
