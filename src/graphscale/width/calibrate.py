"""BatchNorm's statistics of the full width, where sub-networks have collected those of narrow ones.

From the second layer on a unit of the full width adds up m blocks of the layer below, and of a sub-network one: its
mean and variance are others. What sub-networks train on is left alone; what is scored and saved is set right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphscale import scratch
from graphscale.graph import Graph
from graphscale.nn.stock import Feed


@torch.no_grad()
def calibrate(model: nn.Module, feed: Feed, graph: Graph, device: torch.device) -> None:
    """Give every BatchNorm of a model the statistics of what it is given in a pass over the graph, without dropout."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    assert graph.x is not None
    training = model.training
    handles = [norm.register_forward_pre_hook(_measured) for norm in norms]
    try:
        attr = None if graph.edge_attr is None else graph.edge_attr.to(device)
        feed(model.eval(), graph.x.to(device), graph.adj.to(device), attr)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)


def _measured(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
    assert isinstance(norm.running_mean, Tensor)
    assert isinstance(norm.running_var, Tensor)
    mean, spread = moments(given[0].flatten(0, -2).cpu())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(spread)


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(Mean, unbiased variance) [w] of the columns of rows [N, w], in blocks and float64."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    square = torch.zeros_like(total)
    for some in scratch.blocks(*rows.shape):
        block = rows[some].double()
        total, square = total + block.sum(0), square + block.square().sum(0)
    mean = total / len(rows)
    spread = (square / len(rows) - mean * mean).clamp(min=0) * len(rows) / max(1, len(rows) - 1)
    return mean.to(rows.dtype), spread.to(rows.dtype)
