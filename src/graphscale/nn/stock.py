"""Anybody's PyG model, unedited, fed what its forward takes.

A model sees a block's edges in one of three views. ``block``: its layers are made fast (``nn.fast``) and
find the CSR in the ``edge_index`` that they are given. ``adj_t``: PyG's own sparse products, from a
``torch.sparse_csr_tensor``. ``edge_index``: what every model takes. Not every layer gives the same
answer on all (GCNConv counts stored self loops twice on ``adj_t``; SAGEConv multiplies there by values
that it would not take as ``edge_weight``), so trials on a toy graph decide, once, before training.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from graphscale.csr import Csr, from_entries
from graphscale.edge_view import BlockEdges
from graphscale.errors import InputError, told
from graphscale.feature_view import SparseRows, sparse_rows
from graphscale.graph import Graph, take_rows
from graphscale.kernels.shared import sparse_tensor
from graphscale.nn.fast_calls import FastCalls, NoChance
from graphscale.nn.trial import TRIED, on_trial

View = Literal["edge_index", "adj_t", "block"]


@dataclass(frozen=True)
class Feed:
    """How a model is called: which view of the block, which edge values it takes, and whether features stay sparse."""

    view: View
    weight: bool
    attr: bool
    sparse: bool = False

    @staticmethod
    def of(model: nn.Module, graph: Graph, *, bf16: bool = False, faster: bool = True) -> tuple[Feed, list[str]]:
        """Look at the model's forward, try it on a toy graph, and say what it leaves unused.

        Args:
            graph: the whole graph, on which the model is scored too.
            bf16: torch's sparse products on a CPU take no bfloat16, so ``adj_t`` is not given.
            faster: make the model's layers fast, where they give the same values and gradients.

        Raises:
            InputError: where the model cannot be called or gives logits of another width.
        """
        if any(getattr(m, "cached", False) for m in model.modules()):
            raise InputError(
                f"{type(model).__name__} has a layer with cached=True: it would use the first batch's edges for every"
                " other batch. Build it with cached=False."
            )
        plain = Feed.plainly(model, graph)
        weight, attr = plain.weight, plain.attr
        notes = []
        if graph.adj.values is not None and not weight:
            notes.append("the model takes no edge_weight: edge weights are not used")
        if graph.edge_attr is not None and not attr:
            notes.append("the model takes no edge_attr: edge attributes are not used")
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
            x, adj, edge_attr = toy(model, graph, 9, 30)
            with torch.no_grad():
                plain(model, x, adj, edge_attr)  # layers that learn their widths from data do so before training
        reference = _trial(model, plain, graph)
        if faster and not attr and _accelerated(model, plain, graph):
            fast = replace(plain, view="block")
            return replace(fast, sparse=isinstance(graph.x, Csr) and _takes_sparse(model, fast, graph)), notes
        fused = [bool(getattr(m, "fuse", False)) for m in model.modules() if hasattr(m, "propagate")]
        if attr or bf16 or not fused or not all(fused):
            return plain, notes
        sparse = replace(plain, view="adj_t")
        try:
            same = torch.allclose(_trial(model, sparse, graph), reference, rtol=1e-4, atol=1e-5)
        except (InputError, NotImplementedError):  # the layer takes no adj_t after all: edge_index serves it
            same = False
        return (sparse if same else plain), notes

    @staticmethod
    def plainly(model: nn.Module, graph: Graph) -> Feed:
        """PyG's plain view, with the edge values that the model's forward names and the graph has."""
        named = inspect.signature(model.forward).parameters
        weight = graph.adj.values is not None and "edge_weight" in named and _supports(model, "edge_weight")
        attr = graph.edge_attr is not None and "edge_attr" in named and _supports(model, "edge_attr")
        return Feed("edge_index", weight, attr)

    def __call__(self, model: Callable[..., Any], x: Tensor | Csr, adj: Csr, edge_attr: Tensor | None) -> Tensor:
        """Logits [n, C] of a block."""
        dense = x if not isinstance(x, Csr) else SparseRows.of(x) if self.sparse else x.dense()
        keywords: dict[str, Tensor] = {}
        if self.attr and edge_attr is not None:
            keywords["edge_attr"] = edge_attr
        if self.view == "adj_t":
            return cast(Tensor, model(dense, self._sparse(adj, dense.dtype), **keywords))
        if self.view == "block":
            edges = BlockEdges.of(adj, dense.dtype, weighted=self.weight)
            if edges.weight is not None:
                keywords["edge_weight"] = edges.weight
            with FastCalls():
                return cast(Tensor, model(dense, edges, **keywords))
        if self.weight and adj.values is not None:
            keywords["edge_weight"] = adj.values.to(dense.dtype)
        return cast(Tensor, model(dense, torch.stack([adj.indices.long(), adj.row_of]), **keywords))

    def _sparse(self, adj: Csr, dtype: torch.dtype) -> Tensor:
        values = adj.values if self.weight else None
        long = replace(adj, indptr=adj.indptr.long(), indices=adj.indices.long(), values=values)
        return sparse_tensor(long, dtype)


def _accelerated(model: nn.Module, plain: Feed, graph: Graph) -> bool:
    """Make the model's layers fast, unless on a toy graph values or gradients are others than before."""
    from graphscale.nn.fast import accelerate, accelerated, restore

    try:
        before = _gradients(model, plain, graph)
    except TRIED:  # such as checkpoints that take no part in asked gradients: there is nothing to compare with
        return False
    if not accelerated(accelerate(model)):
        return False
    try:
        after = _gradients(model, replace(plain, view="block"), graph)
    except TRIED:  # code around the layers that takes no edges of ours
        restore(model)
        return False
    # float32 rounds by more than what is promised: there the comparison is coarser.
    rtol, atol = (1e-5, 1e-7) if before[0].dtype == torch.float64 else (1e-4, 1e-5)
    if all(torch.allclose(a, b, rtol=rtol, atol=atol) for a, b in zip(before, after, strict=True)):
        return True
    restore(model)
    return False


def _takes_sparse(model: nn.Module, feed: Feed, graph: Graph) -> bool:
    """Whether a fast model gives the same of sparse features as of dense ones, in evaluation and in training."""
    for training in (False, True):
        try:
            with NoChance():
                dense = _gradients(model, feed, graph, constant=True, training=training)
        except Exception:  # a model may train otherwise than a trial can follow; dense is what it was made for
            return False
        try:
            with NoChance():
                sparse = _gradients(model, feed, graph, constant=True, training=training, sparse=True)
        except Exception:  # code that reads a tensor's memory, of any kind
            return False
        if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(dense, sparse, strict=True)):
            return False
    return True


def _gradients(model: nn.Module, feed: Feed, graph: Graph, **features: bool) -> list[Tensor]:
    """Logits on a toy graph in evaluation mode, gradients of the mean of their squares; in float64 where it can be."""
    try:
        return _gradients_in(torch.float64, model, feed, graph, **features)
    except (RuntimeError, ValueError, TypeError):  # somebody's own code may make float32 of its own
        return _gradients_in(None, model, feed, graph, **features)


def _gradients_in(
    dtype: torch.dtype | None, model: nn.Module, feed: Feed, graph: Graph, *, constant: bool = False,
    sparse: bool = False, training: bool = False,
) -> list[Tensor]:  # fmt: skip
    trial = on_trial(model, training=training, dtype=dtype)
    x, adj, attr = toy(model, graph, 30, 120)
    if dtype is not None:
        x, attr = (t.to(dtype) if t is not None and t.is_floating_point() else t for t in (x, attr))  # type: ignore[assignment]
    x = x.clone().requires_grad_(x.is_floating_point() and not constant)
    if sparse:
        x = sparse_rows(x)
    logits = feed(trial, x, adj, attr)
    parameters = [*([x] if x.requires_grad else []), *(p for p in trial.parameters() if p.requires_grad)]
    found = torch.autograd.grad(logits.square().mean(), parameters, allow_unused=True)
    return [logits.detach(), *(torch.zeros(()) if g is None else g for g in found)]


def _supports(model: nn.Module, what: str) -> bool:
    """PyG's model zoo names both edge arguments in every forward; class attributes say which it takes."""
    return bool(getattr(model, f"supports_{what}", True))


def toy(model: nn.Module, graph: Graph, num_nodes: int, num_edges: int) -> tuple[Tensor, Csr, Tensor | None]:
    """(x, adj, edge_attr) of a small random graph with what the real one has: rows of its features, weights, loops.

    The rows are real ones: a model may look them up as codes, to which random numbers would be all alike.
    """
    draw = torch.Generator().manual_seed(0)
    edges = torch.randint(num_nodes, (2, num_edges), generator=draw).unique(dim=1)
    if not graph.adj.has_loops():
        edges = edges[:, edges[0] != edges[1]]
    values = torch.rand(edges.shape[1], generator=draw) + 0.5 if graph.adj.values is not None else None
    adj, _ = from_entries(edges[0], edges[1], (num_nodes, num_nodes), values)
    first = next(iter(model.parameters()), torch.zeros(()))
    x = _different_rows(graph, num_nodes, draw).to(first.device)
    attr = None
    if graph.edge_attr is not None:
        some = torch.randint(max(1, graph.num_entries), (adj.num_entries,), generator=draw)
        width = graph.edge_attr.shape[1]
        attr = graph.edge_attr[some] if graph.num_entries else graph.edge_attr.new_zeros(adj.num_entries, width)
        attr = attr.to(first.device)
    return x, adj.to(first.device), attr


def _different_rows(graph: Graph, count: int, draw: torch.Generator) -> Tensor:
    """[count, F] rows of the features, as different from one another as a sample of 500 has them."""
    rows = take_rows(graph.x, torch.randint(graph.num_nodes, (500,), generator=draw))
    assert rows is not None
    sample = rows.dense() if isinstance(rows, Csr) else rows
    kinds, kind_of = sample.unique(dim=0, return_inverse=True)
    order = torch.randperm(len(sample), generator=draw)
    first = torch.full((len(kinds),), len(sample)).scatter_reduce_(0, kind_of[order], torch.arange(len(sample)), "amin")
    picked = order[torch.cat([first.sort().values, torch.arange(len(sample))])[:count]]
    return sample[picked]


def _trial(model: nn.Module, feed: Feed, graph: Graph, num_nodes: int = 9) -> Tensor:
    """Logits of the model in evaluation mode on a toy graph."""
    x, adj, attr = toy(model, graph, num_nodes, 30)
    # On a copy: a layer that caches would keep the toy's edges and use them for every real batch.
    trial = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            logits = feed(trial, x, adj, attr)
    except NotImplementedError:
        raise  # the layer does not take this view of the edges
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} failed on a toy graph of {num_nodes} nodes and {graph.num_features} features:"
            f" {told(error)}. Its forward must take (x, edge_index) and handle any number of nodes."
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (num_nodes, graph.num_classes):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"{type(model).__name__} returned {got} for {num_nodes} nodes; logits"
            f" [{num_nodes}, {graph.num_classes}], one row a node and one column a class, are needed."
        )
    return logits
