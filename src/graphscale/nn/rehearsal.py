"""Batches of a toy graph, before training: with exact histories they must give what the whole graph gives.

``tiles.way`` shows that a model treats rows apart where every propagation's rows are exact. Training has less: the
halo's rows behind the last propagation are left as the block makes them, and nobody puts rows in place while a
backward pass computes a propagation again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphscale.batch import Batch
from graphscale.errors import InputError
from graphscale.feature_view import sparse_rows
from graphscale.graph import Graph
from graphscale.nn.fast_calls import NoChance
from graphscale.nn.splice import layers_of, spliced
from graphscale.nn.stock import Feed, toy
from graphscale.nn.trial import MODES, TRIED, alike, on_trial
from graphscale.reach import Reach
from graphscale.step import ROWS, Apply, Params

_NODES, _ROOTS = 24, 3  # few roots: see ``tiles``


def demand_rehearsed(model: nn.Module, apply_of: Any, feed: Feed, graph: Graph, table: str, *, filled: bool) -> None:
    """Refuse a model that histories do not make exact.

    Args:
        apply_of: makes ``apply`` of a copy of the model.
        table: the name of the histories.
        filled: whether rows of the halo are filled (``reach``).

    Raises:
        InputError: what the model does that histories cannot follow.
    """
    for training, low in MODES:
        if not _exact(model, apply_of, feed, graph, table, training=training, low=low, filled=filled):
            raise InputError(
                f"{type(model).__name__} reads neighbours behind its last propagation by PyG's layers, or otherwise"
                " mixes rows there: a batch knows its own nodes' neighbours up to that propagation alone. Let a"
                " MessagePassing layer do it, or train with cluster_gcn."
            )


def _exact(
    model: nn.Module, apply_of: Any, feed: Feed, graph: Graph, table: str, *, training: bool, low: bool, filled: bool
) -> bool:
    for dtype in (torch.float64, None):
        trial = on_trial(model, training=training, dtype=dtype)
        x, adj, attr = toy(trial, graph, _NODES, 70)
        if dtype is not None:
            x, attr = (t.to(dtype) if t is not None and t.is_floating_point() else t for t in (x, attr))  # type: ignore[assignment]
        rows: list[Tensor] = []

        def kept(number: int, out: Tensor, rows: list[Tensor] = rows) -> Tensor:
            rows.append(out.detach().flatten(1).clone())  # layers go on with it in place
            return out

        try:
            with NoChance(low=low), spliced(trial, kept):
                expected = feed(trial, x, adj, attr).detach()
        except TRIED:
            continue  # somebody's own code may make float32 of its own
        if low and not bool(expected.isfinite().all()):
            return True  # where chance drops everything, a model may give nothing to compare
        history = torch.cat([*rows[:-1], expected.new_empty(_NODES, 0)], dim=1)
        apply, reach = apply_of(trial, feed), Reach(adj.to(torch.device("cpu")))
        params = {name: p for name, p in trial.named_parameters() if p.requires_grad}
        for roots in torch.arange(_NODES).split(_ROOTS):
            n_id, block, entry = reach.block(roots, filled=filled)
            own = n_id.to(x.device)
            batch = Batch(
                n_id=own, num_roots=_ROOTS, adj=block.to(x.device), x=sparse_rows(x[own]) if feed.sparse else x[own],
                y=torch.zeros(_ROOTS, dtype=torch.int64), mask=torch.ones(_ROOTS, dtype=torch.bool), seed=0,
                count=_ROOTS, edge_attr=None if attr is None else attr[entry.to(x.device)],
            )  # fmt: skip
            given = {**params, ROWS + table: history[own[_ROOTS:]]}
            if not _same(trial, apply, given, batch, expected[own[:_ROOTS]], low=low):
                return False
        return True
    return low


def _same(trial: nn.Module, apply: Apply, params: Params, batch: Batch, expected: Tensor, *, low: bool) -> bool:
    try:
        with NoChance(low=low):
            logits = apply(params, batch).logits[:_ROOTS]
    except TRIED:
        return False
    if logits.requires_grad:
        _demand_once(trial, logits)
    return alike(logits.detach().to(expected), expected)


def _demand_once(trial: nn.Module, logits: Tensor) -> None:
    """Refuse a model whose backward pass sends messages: it would compute them without histories."""
    again = []
    handles = [layer.register_propagate_forward_hook(lambda *_: again.append(True)) for layer in layers_of(trial)]
    try:
        torch.autograd.grad(logits.sum(), [p for p in trial.parameters() if p.requires_grad], allow_unused=True)
    except TRIED:
        again.append(True)  # what was computed again did not fit
    finally:
        for handle in handles:
            handle.remove()
    if again:
        raise InputError(
            f"{type(trial).__name__} computes propagations again in its backward pass (gradient checkpointing, or"
            " invertible layers): that pass would be without histories, and its gradients wrong. Leave checkpointing"
            " out: a batch's memory is bounded already."
        )
