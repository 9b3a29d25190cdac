"""Layers that sum, average, or take maxima over neighbours. n nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import aggr, conv

from graphscale.edge_view import BlockEdges
from graphscale.kernels.aggregate import aggregate
from graphscale.kernels.maximum import maximum
from graphscale.nn.fast.layer import Fast, narrow


class _Reducing(Fast):
    """Layers that reduce the rows of neighbours as they are."""

    @classmethod
    def fits(cls, module: Any) -> bool:
        """Sums, means and maxima; no learned aggregation."""
        return super().fits(module) and type(module.aggr_module) in _REDUCED

    def reduced(self, edges: BlockEdges, x: Tensor) -> Tensor:
        """What every node's neighbourhood gives."""
        layer: Any = self
        return self.sent(edges, _REDUCED[type(layer.aggr_module)](edges, x))


class SAGEConv(_Reducing, conv.SAGEConv):  # type: ignore[misc]
    """Hamilton et al. 2017."""

    stock = conv.SAGEConv

    def forward(self, x: Any, edge_index: Any, size: Any = None) -> Any:
        """[n, in] -> [n, out]."""
        if not (self.at_hand(edge_index) and isinstance(x, Tensor) and size is None):
            return super().forward(x, edge_index, size)
        near = self.lin(x).relu() if self.project and hasattr(self, "lin") else x
        linear = type(self.aggr_module) is not aggr.MaxAggregation
        if linear and not self.sums_first(near, self.lin_l):
            out = self.reduced(edge_index, F.linear(near, self.lin_l.weight))
            out = out if self.lin_l.bias is None else out + self.lin_l.bias
        else:
            out = self.lin_l(self.reduced(edge_index, narrow(near)))
        if self.root_weight:
            out = out + self.lin_r(x)
        return F.normalize(out, p=2.0, dim=-1) if self.normalize else out


class GINConv(_Reducing, conv.GINConv):  # type: ignore[misc]
    """Xu et al. 2019."""

    stock = conv.GINConv

    def forward(self, x: Any, edge_index: Any, size: Any = None) -> Any:
        """[n, in] -> [n, out]."""
        if not (self.at_hand(edge_index) and isinstance(x, Tensor) and size is None):
            return super().forward(x, edge_index, size)
        near = narrow(x)
        return self.nn(self.reduced(edge_index, near) + (1 + self.eps) * near)


def _mean(edges: BlockEdges, x: Tensor) -> Tensor:
    return aggregate(edges.pattern, x) / edges.divisor.to(x.dtype)


_REDUCED: dict[Any, Callable[[BlockEdges, Tensor], Tensor]] = {
    aggr.SumAggregation: lambda edges, x: aggregate(edges.pattern, x),
    aggr.MeanAggregation: _mean,
    aggr.MaxAggregation: lambda edges, x: maximum(edges.pattern, x),
}


class PNAConv(Fast, conv.PNAConv):  # type: ignore[misc]
    """Corso et al. 2020. A message W [x_i || x_j] + b is W_i x_i + b, the same for a whole row, plus W_j x_j."""

    stock = conv.PNAConv

    @classmethod
    def fits(cls, module: Any) -> bool:
        """One linear layer before the aggregation, and aggregators that a shift passes through or leaves alone."""
        inner = module.aggr_module.aggr
        known = all(type(a) in _SHIFTED for a in getattr(inner, "aggrs", [inner]))
        return super().fits(module) and known and module.edge_dim is None and len(module.pre_nns[0]) == 1

    def forward(self, x: Tensor, edge_index: Any, edge_attr: Tensor | None = None) -> Any:
        """[n, in] -> [n, out]."""
        if not self.at_hand(edge_index) or edge_attr is not None:
            return super().forward(x, edge_index, edge_attr)
        towers = x.view(-1, self.towers, self.F_in) if self.divide_input else x[:, None].expand(-1, self.towers, -1)
        outs = [self._tower(edge_index, towers[:, t], pre[0], post) for t, (pre, post) in enumerate(self._pairs())]
        return self.lin(torch.cat(outs, dim=1))

    def _pairs(self) -> Any:
        return zip(self.pre_nns, self.post_nns, strict=True)

    def _tower(self, edges: BlockEdges, x: Tensor, pre: Any, post: Any) -> Any:
        own, near = pre.weight.split(self.F_in, dim=1)
        shift = F.linear(x, own, pre.bias)  # [n, F], of the row
        sent = F.linear(x, near)  # [n, F], of the column
        inner = self.aggr_module.aggr
        there = edges.degree > 0
        kinds = [type(a) for a in getattr(inner, "aggrs", [inner])]
        out = torch.cat([torch.where(there, _SHIFTED[kind](edges, sent, shift), 0.0) for kind in kinds], dim=1)
        out = self.sent(edges, self._scaled(edges.degree, out))
        return post(torch.cat([x, out], dim=-1))

    def _scaled(self, degree: Tensor, out: Tensor) -> Tensor:
        how, degree = self.aggr_module, degree.to(out.dtype)
        factors: dict[str, Callable[[], Any]] = {
            "identity": lambda: 1.0,
            "amplification": lambda: torch.log(degree + 1) / how.avg_deg_log,
            "attenuation": lambda: how.avg_deg_log / torch.log(degree.clamp(min=1) + 1),
            "linear": lambda: degree / how.avg_deg_lin,
            "inverse_linear": lambda: how.avg_deg_lin / degree.clamp(min=1),
        }
        return torch.cat([out * factors[name]() for name in how.scaler], dim=-1)


def _variance(edges: BlockEdges, x: Tensor, shift: Tensor) -> Tensor:
    return _mean(edges, x * x) - _mean(edges, x).square()


def _deviation(edges: BlockEdges, x: Tensor, shift: Tensor) -> Tensor:
    out = _variance(edges, x, shift).clamp(min=1e-5).sqrt()
    return out.masked_fill(out <= math.sqrt(1e-5), 0.0)  # PyG's: an undefined gradient at 0 is none


_SHIFTED: dict[Any, Callable[[BlockEdges, Tensor, Tensor], Tensor]] = {
    aggr.SumAggregation: lambda edges, x, shift: aggregate(edges.pattern, x) + edges.degree * shift,
    aggr.MeanAggregation: lambda edges, x, shift: _mean(edges, x) + shift,
    aggr.MaxAggregation: lambda edges, x, shift: maximum(edges.pattern, x) + shift,
    aggr.MinAggregation: lambda edges, x, shift: shift - maximum(edges.pattern, -x),
    aggr.VarAggregation: _variance,
    aggr.StdAggregation: _deviation,
}
