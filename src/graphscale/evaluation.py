"""Exact scores of a model: one inference over the whole graph, never per cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphscale.graph import Graph
from graphscale.metrics import score
from graphscale.nn.exact import outputs
from graphscale.nn.stock import Feed


@dataclass(frozen=True, eq=False)
class Exact:
    """Scores of ``model`` on the validation and test nodes of ``graph``; writes nothing."""

    model: nn.Module
    feed: Feed | None
    graph: Graph
    device: torch.device
    ready: Callable[[], Tensor | None] = lambda: (
        None
    )  # logits of the present weights on this graph, where there are any

    def __call__(self) -> dict[str, dict[str, float]]:
        """Metrics by split."""
        logits, graph = self.ready(), self.graph
        if logits is None:
            logits = outputs(self.model, self.feed, graph, self.device).logits
        return {split: score(logits[graph.masks[split]], graph.y[graph.masks[split]]) for split in ("val", "test")}
