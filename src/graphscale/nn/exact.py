"""Exact outputs of a model for every node of a graph, in memory by nodes of a tile where the model allows.

A model of the house is computed layer by layer, anybody's in one pass where that is small and else in
tiles (``nn.tiles``). Layers of all nodes lie in scratch. N nodes, C classes, H hidden.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graphscale.graph import Graph
from graphscale.nn import tiles
from graphscale.nn.splice import Rows, cut, last_input, spliced
from graphscale.nn.static import ClusterGCN
from graphscale.nn.stock import Feed

_ONE_PASS = 3 << 29  # bytes that a pass over the whole graph may take on a CPU
_ENTRIES = 1 << 19  # of a tile


class Outputs(NamedTuple):
    """What a model says of every node."""

    logits: Tensor  # [N, C] on the CPU
    hidden: Tensor | None  # [N, H] the last hidden layer, where asked for and there is one
    note: str  # what is to be said of how


def outputs(
    model: nn.Module, feed: Feed | None, graph: Graph, device: torch.device, *, hidden: bool = False,
    seen: Rows | None = None,
) -> Outputs:  # fmt: skip
    """The outputs of a model in evaluation mode; the mode is restored.

    Args:
        feed: how a stock model is called; None for a model of the house.
        device: where to compute; a graph that does not fit there is computed on the CPU.
        hidden: whether the last hidden layer is wanted too.
        seen: of a stock model, is told what every propagation gives every node (``tiles.in_tiles``).
    """
    training = model.training
    model.eval()
    try:
        with torch.set_grad_enabled(seen is not None):
            if isinstance(model, ClusterGCN):
                return _layers(model, graph, device, hidden)
            assert feed is not None
            return _stock(model, feed, graph, device, hidden, seen)
    finally:
        model.train(training)


def _layers(model: ClusterGCN, graph: Graph, device: torch.device, hidden: bool) -> Outputs:
    assert graph.x is not None
    if device.type != "cpu" and _pass_bytes(model, None, graph) > _budget(device):
        model, device = copy.deepcopy(model).cpu(), torch.device("cpu")
    last: list[Tensor] = []  # no layer before the last two is kept
    for h in model.layers(graph.x.to(device), graph.adj.to(device)):
        last = [*last[-1:], h] if hidden else [h]
    return Outputs(last[-1].cpu(), last[0].cpu() if len(last) > 1 else None, "")


def _stock(
    model: nn.Module, feed: Feed, graph: Graph, device: torch.device, hidden: bool, seen: Rows | None
) -> Outputs:
    note = ""
    if _pass_bytes(model, feed, graph) > _budget(device):
        way = tiles.way(model, feed, graph)
        if way != "whole":
            logits, found = tiles.in_tiles(
                model, feed, graph, device=device, degrees=way == "degrees", entries=_ENTRIES, seen=seen
            )
            return Outputs(logits, found if hidden else None, "")
        note = f"{type(model).__name__} mixes rows by other ways than edges: it ran in one pass, in memory of all edges"
    assert graph.x is not None
    attr = None if graph.edge_attr is None else graph.edge_attr.to(device)

    def visit(number: int, out: Tensor) -> Tensor:
        if seen is not None:
            seen(number, 0, graph.num_nodes, out.detach().flatten(1).cpu())
            return cut(out.detach(), out)
        return out

    with last_input(model) as last, spliced(model, visit):
        logits = feed(model, graph.x.to(device), graph.adj.to(device), attr).detach().cpu()
    return Outputs(logits, last[-1].cpu() if hidden and last else None, note)


def _pass_bytes(model: nn.Module, feed: Feed | None, graph: Graph) -> int:
    """About what one pass over the whole graph takes: four layers of nodes, and what layers make of its entries."""
    width = max(graph.num_features, *(max(p.shape, default=1) for p in model.parameters()))
    nodes = 4 * 4 * width * graph.num_nodes
    if feed is None:
        return nodes
    heads = max((int(getattr(m, "heads", 0)) for m in model.modules()), default=0)
    # Rows of entries and their weights; scores and shares of attention; PyG's own messages.
    entry = 24 + 16 * heads + (8 * width if feed.view == "edge_index" else 0)
    return nodes + entry * graph.num_entries


def _budget(device: torch.device) -> int:
    return _ONE_PASS if device.type != "cuda" else torch.cuda.mem_get_info(device)[0] // 2
