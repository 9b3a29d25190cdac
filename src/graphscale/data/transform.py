"""Features before training: degrees where there are none, standardisation, first-layer products."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from graphscale import scratch
from graphscale.csr import Csr
from graphscale.errors import InputError
from graphscale.graph import Graph

Scaling = Literal["none", "standard", "row"]


def degree_features(graph: Graph, bins: int = 32) -> Graph:
    """[N, bins + 1] features from in-degrees alone: one-hot of the octave of d + 1, and log(1 + d)."""
    degree = graph.adj.indptr.diff().float()
    octave = torch.log2(degree + 1).long().clamp_(max=bins - 1)
    x = scratch.empty(graph.num_nodes, bins + 1)
    for some in scratch.blocks(graph.num_nodes, bins + 1):
        x[some, :bins] = torch.nn.functional.one_hot(octave[some], bins)
        x[some, bins] = degree[some].log1p()
    note = f"no features in the data: {bins + 1} degree features made"
    return replace(graph, x=x, notes=(*graph.notes, note))


@dataclass(frozen=True, eq=False)
class Scaler:
    """x -> (x - mean) / scale by column, or rows to sum 1; fitted on training nodes, kept with the model."""

    kind: Scaling
    mean: Tensor | None = None  # [F]
    scale: Tensor | None = None  # [F]

    @staticmethod
    def fit(graph: Graph, kind: Scaling) -> Scaler:
        """Statistics of the training nodes. Sparse features are scaled but not centred: zeros stay zeros."""
        if kind != "standard":
            return Scaler(kind)
        rows = graph.masks["train"].nonzero().flatten()
        if isinstance(graph.x, Csr):
            x = graph.x.take(rows)
            values = x.values if x.values is not None else torch.ones(x.num_entries)
            col, count = x.indices.long(), rows.numel()
            total, spread = torch.zeros(2, x.num_cols, dtype=torch.float64)
            mean = total.index_add_(0, col, values.double()) / count
            spread.index_add_(0, col, (values - mean[col]).square())
            zeros = count - torch.bincount(col, minlength=x.num_cols)
            scale = ((spread + zeros * mean.square()) / count).sqrt()
            centre = None
        else:
            assert graph.x is not None
            mean, scale = _moments(graph.x, rows)
            centre = mean.float()
        # A constant column carries nothing: leave it as it is rather than divide by zero or by rounding.
        return Scaler(kind, centre, torch.where(scale > 1e-7 * mean.abs() + 1e-12, scale, 1.0).float())

    def apply(self, graph: Graph) -> Graph:
        """The graph with scaled features.

        Raises:
            InputError: where the number of columns is not the one fitted.
        """
        x = graph.x
        assert x is not None
        if self.scale is not None and self.scale.numel() != x.shape[1]:
            raise InputError(
                f"the features have {x.shape[1]} columns; the model was trained on {self.scale.numel()}."
                " Give data with the same features."
            )
        if self.kind == "none":
            return graph
        if isinstance(x, Csr) and self.mean is not None:
            x = x.dense()  # the model was trained on centred features
        if isinstance(x, Csr):
            return replace(graph, x=self._sparse(x))
        scaled = scratch.empty(*x.shape)
        for some in scratch.blocks(*x.shape):
            scaled[some] = self._dense(x[some])
        return replace(graph, x=scaled)

    def _dense(self, x: Tensor) -> Tensor:
        if self.kind == "row":
            total = x.sum(1, keepdim=True)
            return x / torch.where(total == 0, 1.0, total)
        assert self.scale is not None
        return (x if self.mean is None else x - self.mean) / self.scale

    def _sparse(self, x: Csr) -> Csr:
        values = x.values if x.values is not None else torch.ones(x.num_entries)
        if self.kind == "row":
            total = x.degree().float()
            return x.with_values(values / torch.where(total == 0, 1.0, total)[x.row_of])
        assert self.scale is not None
        return x.with_values(values / self.scale[x.indices.long()])

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint; ``kind`` is part of the configuration."""
        named = {"mean": self.mean, "scale": self.scale}
        return {name: value for name, value in named.items() if value is not None}

    @staticmethod
    def from_state(kind: Scaling, state: dict[str, Tensor]) -> Scaler:
        """The reverse of ``state_dict``."""
        return Scaler(kind, state.get("mean"), state.get("scale"))


def _moments(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every column over ``rows``, in float64 and in blocks."""
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    parts = list(scratch.blocks(rows.numel(), x.shape[1]))
    for some in parts:
        total += x[rows[some]].double().sum(0)
    mean = total / rows.numel()
    total = torch.zeros_like(total)
    for some in parts:
        total += (x[rows[some]].double() - mean).square_().sum(0)
    return mean, (total / rows.numel()).sqrt()


@dataclass(frozen=True, eq=False)
class Views:
    """What a node task trains on and what it is scored on; one and the same where it is transductive."""

    seen: Graph
    whole: Graph
    scaler: Scaler

    @property
    def notes(self) -> tuple[str, ...]:
        """What the readers changed or found."""
        return self.whole.notes
