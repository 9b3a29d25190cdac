"""Models by name, PyG's and those of ``nn.zoo``, or by the user's ``module:callable``."""

from __future__ import annotations

import importlib
import inspect
import sys
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graphscale.errors import InputError, told
from graphscale.graph import Graph

STOCK = ("gcn", "sage", "gat", "gin", "pna", "appnp", "gcnii")


def build(
    name: str,
    graph: Graph,
    *,
    in_dim: int,
    hidden: int,
    num_layers: int,
    dropout: float,
    input_dropout: float = 0.0,
    heads: int = 8,
    layer_norm: bool = False,
    batch_norm: bool = False,
    hops: int = 10,
    alpha: float = 0.1,
    theta: float = 0.5,
) -> nn.Module:
    """A model of ``torch_geometric.nn.models`` or of ``nn.zoo`` by name, or what ``module:callable`` returns.

    The callable is called as ``callable(in_channels, out_channels)``; the model it returns as
    ``model(x, edge_index)``, with ``edge_weight`` and ``edge_attr`` where its forward names them.

    Raises:
        InputError: on an unknown name, a callable that cannot be found, or widths that do not fit.
    """
    if ":" in name:
        return dropping(custom(name, in_dim, graph.num_classes), input_dropout)
    from torch_geometric.nn import models

    from graphscale.nn import zoo

    kinds: dict[str, Any] = {
        "gcn": models.GCN,
        "sage": models.GraphSAGE,
        "gat": models.GAT,
        "gin": models.GIN,
        "pna": models.PNA,
        "appnp": zoo.APPNPNet,
        "gcnii": zoo.GCNII,
    }
    if name not in kinds:
        raise InputError(
            f"no model '{name}'. Choose cluster_gcn, {', '.join(STOCK)}, or give your own as module:callable."
        )
    extra: dict[str, Any] = {}
    if name in ("appnp", "gcnii"):
        extra |= {"alpha": alpha}
        extra |= {"hops": hops} if name == "appnp" else {"theta": theta, "batch_norm": batch_norm}
    elif batch_norm:
        extra["norm"] = "batch_norm"
    elif layer_norm:  # PyG's default LayerNorm runs over all nodes of the batch: its scores depend on the batch
        extra |= {"norm": "layer_norm", "norm_kwargs": {"mode": "node"}}
    if name == "gat":
        extra |= _gat(hidden, heads)
    if name == "pna":
        extra |= _pna(graph)
    if graph.edge_attr is not None and name in ("gat", "pna"):
        extra["edge_dim"] = graph.edge_attr.shape[1]
    model = kinds[name](in_dim, hidden, num_layers, graph.num_classes, dropout=dropout, **extra)
    return dropping(model, input_dropout)


def _gat(hidden: int, heads: int) -> dict[str, Any]:
    if hidden % heads:
        raise InputError(f"hidden width {hidden} is not a multiple of {heads} heads. Change --hidden or --heads.")
    return {"heads": heads}


def _pna(graph: Graph) -> dict[str, Any]:
    degree = graph.adj.indptr.diff().long()
    if not bool(degree.any()):
        raise InputError("pna scales by the mean degree, and the training graph has no edge. Choose another --model.")
    return {
        "aggregators": ["mean", "min", "max", "std"],
        "scalers": ["identity", "amplification", "attenuation"],
        "deg": torch.bincount(degree),
    }


def dropping(model: nn.Module, p: float) -> nn.Module:
    """The same model, whose features are dropped with probability ``p`` while it trains."""
    if p > 0:
        model.register_forward_pre_hook(partial(_dropped, p))
    return model


def _dropped(p: float, model: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (F.dropout(arguments[0], p, model.training), *arguments[1:])


def found(name: str) -> Any:
    """The callable that ``module:callable`` names.

    Raises:
        InputError: where it cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's module usually lies in the working directory
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the module is the user's: whatever it raises is theirs to mend
        raise InputError(
            f"cannot load the model {name}: {told(error)}. Give module:callable, the module being importable from here."
        ) from error


def custom(name: str, in_dim: int, out_dim: int) -> nn.Module:
    """What the user's ``module:callable`` makes of the widths.

    Raises:
        InputError: where it cannot be found, fails, or returns no module.
    """
    make = found(name)
    try:
        inspect.signature(make).bind(in_dim, out_dim)
    except TypeError as error:
        raise InputError(
            f"{name} cannot be called: {error}. Give a callable that takes (in_channels, out_channels)."
        ) from error
    try:
        model = make(in_dim, out_dim)
    except Exception as error:
        raise InputError(f"{name}({in_dim}, {out_dim}) failed: {told(error)}. Mend the callable.") from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{name}({in_dim}, {out_dim}) returned {type(model).__name__}, not a torch.nn.Module. Return the model."
        )
    return model
