"""PyG's layers on a block's CSR: the same modules, parameters and results, other loops.

Each class here extends the layer of its name by a ``forward`` that runs where it is given a
``BlockEdges`` and nothing that it does not handle, and otherwise is PyG's own. ``accelerate`` turns a
model's layers into these; their parameters, names and state stay what they were.

PyG gathers a row an edge and scatters them back: [E, d] numbers written and read twice. Here a row's
sum is made in place, and what is cheaper goes first, the product with the weights or the sum over
neighbours.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from graphscale.nn.fast.attention import GATConv, GATv2Conv, TransformerConv
from graphscale.nn.fast.gcn import APPNP, ClusterGCNConv, GCN2Conv, GCNConv, SGConv, TAGConv
from graphscale.nn.fast.layer import Fast
from graphscale.nn.fast.sums import GINConv, PNAConv, SAGEConv

_FAST: dict[Any, type[Fast]] = {
    kind.stock: kind
    for kind in (
        GCNConv, GCN2Conv, APPNP, ClusterGCNConv, TAGConv, SGConv, SAGEConv, GINConv, PNAConv,
        GATConv, GATv2Conv, TransformerConv,
    )
}  # fmt: skip

M = TypeVar("M", bound=nn.Module)


def accelerate(model: M) -> M:
    """Let a model's PyG layers use the kernels of the house where they know how; returns the same model.

    Works on the module itself. What ``BlockEdges`` does not reach (another ``edge_index``, attention
    weights asked for, edge attributes) runs as before. Subclasses of PyG's layers are left alone.
    """
    for module in model.modules():
        kind = _FAST.get(type(module))
        if kind is not None and kind.fits(module):
            module.__class__ = kind  # type: ignore[assignment]
    return model


def restore(model: M) -> M:
    """PyG's own layers again: the reverse of ``accelerate``."""
    for module in model.modules():
        if isinstance(module, Fast):
            module.__class__ = type(module).stock
    return model


def accelerated(model: nn.Module) -> bool:
    """Whether any layer of a model is accelerated."""
    return any(isinstance(module, Fast) for module in model.modules())
