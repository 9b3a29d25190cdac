"""Scores of the full width where no rank holds it: nodes in tiles, columns by owner.

A layer's columns are computed by the rank that holds their weights. Its inputs come a tile of nodes at a time,
gathered from the ranks that computed them; products come before sums over neighbours, which act on a few columns of
all nodes. What is kept between layers lies in scratch. N nodes, F features of a layer, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, GINConv, SAGEConv

from graphscale import scratch
from graphscale.csr import Csr
from graphscale.errors import InputError
from graphscale.graph import Graph, take_rows
from graphscale.nn.exact import Outputs
from graphscale.nn.fast import accelerate
from graphscale.nn.stock import Feed
from graphscale.nn.wide import Stack
from graphscale.width.calibrate import moments
from graphscale.width.shards import Shards
from graphscale.width.spec import Build, on_meta

_TILE, _COLUMNS = 512, 256  # nodes whose inputs are whole at a time; columns that are summed over neighbours


class Columns:
    """Logits of every node.

    Args:
        build: makes a ``nn.wide.Stack`` of GCN, GraphSAGE or GIN layers.
        shards: the weights at full width.
        graph: what is scored.
        measured: where statistics of BatchNorm are those of narrower networks, the graph that gives them: training's.

    Raises:
        InputError: where the model is another.
    """

    def __init__(self, build: Build, shards: Shards, graph: Graph, *, measured: Graph | None = None) -> None:
        self.shards, self.graph, self.measured = shards, graph, measured
        model = on_meta(build, shards.spec.dims)
        if not isinstance(model, Stack) or not all(_known(conv) for conv in model.convs):
            raise InputError(
                f"{type(model).__name__} cannot be scored by columns: only stacks of gcn, sage and gin, whose products"
                " may come before their sums. Score it whole (--evaluate whole)."
            )
        self.model = model  # on meta, but for its norms once there are logits: as they were when it was scored

    @torch.no_grad()
    def outputs(self, *, hidden: bool = False) -> Outputs:
        """Logits [N, C] on every rank and, where asked for, the last hidden layer [N, F]; collective."""
        self._take_norms()
        normed = any(isinstance(norm, nn.BatchNorm1d) for norm in self.model.norms)
        if normed and self.measured is not None and self.measured is not self.graph:
            self._pass(self.measured, measure=True, hidden=False)
        return self._pass(self.graph, measure=self.measured is self.graph, hidden=hidden)

    def logits(self) -> Tensor:
        """[N, C] on every rank; collective."""
        return self.outputs().logits

    def _pass(self, graph: Graph, *, measure: bool, hidden: bool) -> Outputs:
        inputs: Callable[[int, int], Tensor] = partial(_features, graph)
        own = torch.empty(0)
        for layer, conv in enumerate(self.model.convs):
            if layer:
                inputs = self._activated(layer - 1, own, measure=measure)
            own = self._layer(layer, conv, inputs, graph)
        return Outputs(self._joined(own), _gathered(inputs, graph.num_nodes) if hidden else None, "")

    def _activated(self, layer: int, own: Tensor, *, measure: bool) -> Callable[[int, int], Tensor]:
        """What the next layer is given: all ranks' columns of a tile, normalised and rectified."""
        norm = self.model.norms[layer]
        if measure and isinstance(norm, nn.BatchNorm1d):
            mean, spread = (self.shards.world.gather(part) for part in moments(own))
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(spread)
        return lambda start, stop: norm(self._joined(own[start:stop])).relu()

    def _joined(self, columns: Tensor) -> Tensor:
        """[n, F] of this rank's columns and those of the others."""
        return self.shards.world.gather(columns.T.contiguous()).T.contiguous()  # on the CPU, as scratch is

    def _take_norms(self) -> None:
        norms = self.model.norms.to_empty(device="cpu").eval()
        for name, tensor in norms.state_dict().items():
            full = f"norms.{name}"
            own = self.shards.own.get(full)
            tensor.copy_(self._whole(full) if own is None else self.shards.world.gather(own.cpu()))

    def _whole(self, name: str) -> Tensor:
        return self.shards.shared[name]

    def _rows(self, name: str) -> Tensor:
        """This rank's rows of a layer's tensor; the last layer's bias is everybody's."""
        if name in self.shards.own:
            return self.shards.own[name].cpu()
        shared = self.shards.shared[name]
        lo, hi = self.shards.bounds(self.shards.spec.entries[name], self.shards.world.rank)
        return shared[lo:hi]

    def _layer(self, layer: int, conv: nn.Module, inputs: Callable[[int, int], Tensor], graph: Graph) -> Tensor:
        """[N, columns of this rank]: what a convolution gives."""
        stem = f"convs.{layer}"
        parts = {"message": f"{stem}.{_WEIGHT[_kind(conv)]}"}
        if isinstance(conv, SAGEConv):
            parts["root"] = f"{stem}.lin_r.weight"
        bias = f"{stem}.{_BIAS[_kind(conv)]}"
        nodes = graph.num_nodes
        weights = {part: self._rows(name) for part, name in parts.items()}
        width = weights["message"].shape[0]
        tables = {part: scratch.empty(nodes, width, dtype=w.dtype) for part, w in weights.items()}
        for start in range(0, nodes, _TILE):
            stop = min(nodes, start + _TILE)
            x = inputs(start, stop)
            for part, weight in weights.items():
                tables[part][start:stop] = x.to(weight.dtype) @ weight.T
        out, at = tables["message"], self._rows(bias)
        for first in range(0, width, _COLUMNS):
            block = slice(first, min(width, first + _COLUMNS))
            summed = self._summed(conv, stem, out[:, block].contiguous(), graph) + at[block]
            out[:, block] = summed + tables["root"][:, block] if "root" in tables else summed
        return out

    def _summed(self, conv: nn.Module, stem: str, z: Tensor, graph: Graph) -> Tensor:
        """The layer's sum over neighbours, of products: a layer of the same kind whose weights are the identity."""
        width = z.shape[1]
        if isinstance(conv, GCNConv):
            layer: Any = GCNConv(width, width, bias=False)
            layer.lin.weight.data = torch.eye(width, dtype=z.dtype)
        elif isinstance(conv, SAGEConv):
            layer = SAGEConv(width, width, bias=False, root_weight=False)
            layer.lin_l.weight.data = torch.eye(width, dtype=z.dtype)
        else:
            layer = GINConv(nn.Identity())
            layer.eps = self._whole(f"{stem}.eps").to(z.dtype)
        weighted = self.model.supports_edge_weight and graph.adj.values is not None
        accelerate(layer)
        out: Tensor = Feed("block", weighted, False)(layer, z, graph.adj, None)
        return out


def _features(graph: Graph, start: int, stop: int) -> Tensor:
    rows = take_rows(graph.x, torch.arange(start, stop))
    assert rows is not None
    return rows.dense() if isinstance(rows, Csr) else rows


def _gathered(inputs: Callable[[int, int], Tensor], nodes: int) -> Tensor:
    """[N, F] in scratch: what a layer is given, of all nodes."""
    table = torch.empty(0)
    for start in range(0, nodes, _TILE):
        rows = inputs(start, min(nodes, start + _TILE))
        if not start:
            table = scratch.empty(nodes, rows.shape[1], dtype=rows.dtype)
        table[start : start + len(rows)] = rows
    return table


_WEIGHT = {"gcn": "lin.weight", "sage": "lin_l.weight", "gin": "nn.weight"}
_BIAS = {"gcn": "bias", "sage": "lin_l.bias", "gin": "nn.bias"}


def _kind(conv: nn.Module) -> str:
    return "gcn" if isinstance(conv, GCNConv) else "sage" if isinstance(conv, SAGEConv) else "gin"


def _known(conv: nn.Module) -> bool:
    if isinstance(conv, SAGEConv):
        return conv.aggr == "mean" and conv.root_weight and not conv.normalize and not conv.project
    return isinstance(conv, GCNConv) or (isinstance(conv, GINConv) and isinstance(conv.nn, nn.Linear))
