"""Layers that weigh neighbours by a softmax over them. n nodes, E entries, H heads, D numbers a head."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import conv

from graphscale.csr import Csr
from graphscale.edge_view import BlockEdges
from graphscale.kernels import entries
from graphscale.kernels.attention import attend
from graphscale.kernels.dropout import dropout
from graphscale.nn.fast.layer import Fast


def _attended(layer: Any, edges: BlockEdges, adj: Csr, scores: Tensor, x: Tensor) -> Tensor:
    """[n, H, D] -> [n, H * D] or [n, D]: rows of x weighted by the softmax of scores [E, H] over a row's entries."""
    share = dropout(entries.softmax(adj, scores), layer.dropout, layer.training)
    return _merged(layer, layer.sent(edges, entries.weighted_sum(adj, share, x)))


def _merged(layer: Any, out: Tensor) -> Tensor:
    merged: Tensor = out.flatten(1) if layer.concat else out.mean(dim=1)
    return merged


class GATConv(Fast, conv.GATConv):  # type: ignore[misc]
    """Velickovic et al. 2018."""

    stock = conv.GATConv

    def forward(
        self, x: Any, edge_index: Any, edge_attr: Tensor | None = None, size: Any = None,
        return_attention_weights: bool | None = None,
    ) -> Any:  # fmt: skip
        """[n, in] -> [n, H * D], or [n, D] where heads are averaged."""
        plain = edge_attr is None and size is None and return_attention_weights is None and self.lin is not None
        if not (plain and self.at_hand(edge_index) and isinstance(x, Tensor)):
            return super().forward(x, edge_index, edge_attr, size, return_attention_weights)
        adj = edge_index.looped if self.add_self_loops else edge_index.pattern
        h = self.lin(x).view(-1, self.heads, self.out_channels)  # [n, H, D]
        sent = attend(adj, h, self.att_src[0], self.att_dst[0], self.negative_slope, self.dropout, self.training)
        out = _merged(self, self.sent(edge_index, sent))
        out = out if self.res is None else out + self.res(x)
        return out if self.bias is None else out + self.bias


class GATv2Conv(Fast, conv.GATv2Conv):  # type: ignore[misc]
    """Brody et al. 2022."""

    stock = conv.GATv2Conv

    def forward(
        self, x: Any, edge_index: Any, edge_attr: Tensor | None = None,
        return_attention_weights: bool | None = None,
    ) -> Any:  # fmt: skip
        """[n, in] -> [n, H * D], or [n, D] where heads are averaged."""
        plain = edge_attr is None and return_attention_weights is None
        if not (plain and self.at_hand(edge_index) and isinstance(x, Tensor)):
            return super().forward(x, edge_index, edge_attr, return_attention_weights)
        adj = edge_index.looped if self.add_self_loops else edge_index.pattern
        left = self.lin_l(x).view(-1, self.heads, self.out_channels)  # [n, H, D]
        right = left if self.share_weights else self.lin_r(x).view(-1, self.heads, self.out_channels)
        scores = entries.additive(adj, right, left, self.att[0], self.negative_slope)
        out = _attended(self, edge_index, adj, scores, left)
        out = out if self.res is None else out + self.res(x)
        return out if self.bias is None else out + self.bias


class TransformerConv(Fast, conv.TransformerConv):  # type: ignore[misc]
    """Shi et al. 2021."""

    stock = conv.TransformerConv

    def forward(
        self, x: Any, edge_index: Any, edge_attr: Tensor | None = None,
        return_attention_weights: bool | None = None,
    ) -> Any:  # fmt: skip
        """[n, in] -> [n, H * D], or [n, D] where heads are averaged."""
        plain = edge_attr is None and self.lin_edge is None and return_attention_weights is None
        if not (plain and self.at_hand(edge_index) and isinstance(x, Tensor)):
            return super().forward(x, edge_index, edge_attr, return_attention_weights)
        adj = edge_index.pattern
        query, key, value = (
            linear(x).view(-1, self.heads, self.out_channels)
            for linear in (self.lin_query, self.lin_key, self.lin_value)
        )
        scores = entries.dot(adj, query, key) / math.sqrt(self.out_channels)
        out = _attended(self, edge_index, adj, scores, value)
        if not self.root_weight:
            return out
        own = self.lin_skip(x)
        if self.lin_beta is None:
            return out + own
        beta = self.lin_beta(torch.cat([out, own, out - own], dim=-1)).sigmoid()
        return beta * own + (1 - beta) * out
