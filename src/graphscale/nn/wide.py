"""Stacks of PyG's convolutions of any widths, a hidden dimension a layer: what ``build(dims)`` makes of a name.

n nodes, F features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv

from graphscale.errors import InputError

KINDS = ("gcn", "sage", "gat", "gin")


class Stack(nn.Module):
    """Convolutions with a norm, a ReLU and dropout between them.

    Args:
        convs: the layers, the last one giving logits.
        widths: what every hidden layer gives.
        dropout: probability, before every convolution but the first.
        layer_norm: over each node's hidden units, before the ReLU.
        batch_norm: in its place.
    """

    supports_edge_attr = False

    def __init__(
        self, convs: list[nn.Module], widths: list[int], *, dropout: float, layer_norm: bool = False,
        batch_norm: bool = False, weighted: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        norm: Callable[[int], nn.Module] = (
            nn.BatchNorm1d if batch_norm else nn.LayerNorm if layer_norm else lambda _: nn.Identity()
        )
        self.convs, self.norms = nn.ModuleList(convs), nn.ModuleList(norm(width) for width in widths)
        self.dropout, self.supports_edge_weight = dropout, weighted

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """[n, F] -> [n, C]."""
        given = {"edge_weight": edge_weight} if self.supports_edge_weight and edge_weight is not None else {}
        for i, conv in enumerate(self.convs):
            if i:
                x = F.dropout(self.norms[i - 1](x).relu(), self.dropout, self.training)
            x = conv(x, edge_index, **given)
        return x


def dims_of(kind: str, *, hidden: int, num_layers: int, heads: int, by_heads: bool) -> dict[str, int]:
    """The hidden dimensions of a stack: a layer's units, or its heads.

    Raises:
        InputError: on a kind that is no stack, or widths that do not fit.
    """
    if kind not in KINDS:
        raise InputError(
            f"no stack '{kind}' whose widths can be cut. Choose {', '.join(KINDS)}, or give your own as"
            " module:callable with --dims."
        )
    if num_layers < 2:
        raise InputError("one layer has no hidden dimension to cut. Give --layers 2 or more.")
    if kind != "gat":
        return {f"h{layer}": hidden for layer in range(1, num_layers)}
    if hidden % heads:
        raise InputError(f"hidden width {hidden} is not a multiple of {heads} heads. Change --hidden or --heads.")
    width = heads if by_heads else hidden // heads
    return {f"{'heads' if by_heads else 'c'}{layer}": width for layer in range(1, num_layers)}


def stack(
    kind: str, dims: Mapping[str, int], in_dim: int, out_dim: int, *, hidden: int, heads: int, dropout: float,
    layer_norm: bool = False, batch_norm: bool = False,
) -> Stack:  # fmt: skip
    """A stack whose hidden layers have the given widths, in the order of ``dims``.

    Args:
        hidden: a layer's full width, of which gat's units or heads are a part.
    """
    widths, convs, below = [], list[nn.Module](), in_dim
    for name, size in dims.items():
        if kind == "gat":
            count, each = (size, hidden // heads) if name.startswith("heads") else (heads, size)
            convs.append(GATConv(below, each, heads=count, dropout=dropout))
            below = count * each
        else:
            convs.append(_conv(kind, below, size))
            below = size
        widths.append(below)
    convs.append(GATConv(below, out_dim, heads=1, dropout=dropout) if kind == "gat" else _conv(kind, below, out_dim))
    return Stack(convs, widths, dropout=dropout, layer_norm=layer_norm, batch_norm=batch_norm, weighted=kind == "gcn")


def _conv(kind: str, in_dim: int, out_dim: int) -> nn.Module:
    made: dict[str, Callable[[], Any]] = {
        "gcn": lambda: GCNConv(in_dim, out_dim),
        "sage": lambda: SAGEConv(in_dim, out_dim),
        "gin": lambda: GINConv(nn.Linear(in_dim, out_dim)),
    }
    conv: nn.Module = made[kind]()
    return conv
