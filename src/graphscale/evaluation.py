"""Exact scores of a model: one inference over the whole graph, never per cluster."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphscale.graph import Graph
from graphscale.metrics import score
from graphscale.nn.plain import infer
from graphscale.nn.stock import Feed


@dataclass(frozen=True, eq=False)
class Exact:
    """Scores of ``model`` on the validation and test nodes of ``graph``; writes nothing."""

    model: nn.Module
    feed: Feed | None
    graph: Graph
    device: torch.device

    def logits(self) -> Tensor:
        """[N, C] on the CPU."""
        graph, device = self.graph, self.device
        assert graph.x is not None
        attr = None if graph.edge_attr is None else graph.edge_attr.to(device)
        return infer(self.model, self.feed, graph.x.to(device), graph.adj.to(device), attr).cpu()

    def __call__(self) -> dict[str, dict[str, float]]:
        """Metrics by split."""
        logits, graph = self.logits(), self.graph
        return {split: score(logits[graph.masks[split]], graph.y[graph.masks[split]]) for split in ("val", "test")}
