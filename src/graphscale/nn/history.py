"""Historical embeddings for anybody's PyG model (GNNAutoScale: Fey et al., ICML 2021, equation (2)).

A batch is some clusters (the roots) with all sources of their edges (the halo), whose own edges are left
out. Behind every propagation but the last the halo's rows, which lack their neighbours, are replaced by what
that propagation gave when they were roots last: their history. The first propagation of every root is exact,
since the halo's features are the true ones.

What a history holds is what the layer's neighbourhoods gave, before the layer's own bias, norm, activation
or dropout: all of these treat rows apart and are computed anew for the halo with today's weights, as is a
linear map that stands behind the sum. (PyGAS pushes after the activation, and so has to rewrite every
model.) n nodes of a batch, r roots, K propagations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graphscale import rng
from graphscale.batch import Batch
from graphscale.errors import InputError
from graphscale.graph import Graph
from graphscale.nn import lipschitz, tiles
from graphscale.nn.fast.layer import orders_kept
from graphscale.nn.fast_calls import NoChance
from graphscale.nn.lipschitz import Noise
from graphscale.nn.plain import Call
from graphscale.nn.rehearsal import demand_rehearsed
from graphscale.nn.roots import roots_only
from graphscale.nn.splice import Visit, spliced
from graphscale.nn.stock import Feed, toy
from graphscale.nn.trial import on_trial
from graphscale.step import ROWS, Apply, Forward, Params, Write

Widths = tuple[int, ...]  # of what every propagation gives, per node


TABLE = "history"  # [N, sum of the widths]: a node's rows of all propagations lie together, and are fetched at once


def columns(widths: Sequence[int]) -> list[slice]:
    """Where every propagation's rows lie in the table."""
    ends = [0, *itertools.accumulate(widths)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def attach(model: nn.Module, feed: Feed, graph: Graph) -> tuple[Widths, bool]:
    """(widths of all propagations, whether rows of the halo must be filled: see ``reach``) of a model.

    Histories are of all propagations but the last.

    Raises:
        InputError: where a trial on a toy graph shows that spliced rows would not make the model exact.
    """
    training = model.training
    model.eval()  # a trial must not draw, nor move statistics
    try:
        return _tried(model, feed, graph)
    finally:
        model.train(training)


def _tried(model: nn.Module, feed: Feed, graph: Graph) -> tuple[Widths, bool]:
    way = tiles.way(model, feed, graph, training=True)
    if way == "whole":
        raise InputError(
            f"{type(model).__name__} mixes rows by other ways than its messages, in evaluation or in training (a norm"
            " or a maximum over all nodes, a pooling, degrees by sources), so histories of rows cannot make it exact."
            " Use norms that treat nodes apart (BatchNorm, LayerNorm(mode='node')), or train with cluster_gcn."
        )
    x, adj, attr = toy(model, graph, 24, 70)

    def widths(model: nn.Module) -> list[int]:
        found: list[int] = []

        def visit(number: int, out: Tensor) -> Tensor:
            found.append(out[0].numel())
            return out

        # With gradients, and kept: what goes first, product or sum, would depend on them in every pass.
        with spliced(model, visit), _norms_of_rows(model, 24), NoChance(), orders_kept():
            feed(model, x, adj, attr)
        return found

    found = widths(model)
    in_training = widths(on_trial(model, training=True, dtype=None))
    if found != in_training:
        raise InputError(
            f"{type(model).__name__} sends messages of widths {found} in evaluation and {in_training} in training:"
            " histories of one cannot serve the other. Train with --no-accelerate (in a loop of your own:"
            " accelerate=False) if it drops edges, and without stochastic depth."
        )
    if not found:
        raise InputError(
            f"{type(model).__name__} sends no messages by PyG's layers: there is nothing that a history could hold."
            " Train it with cluster_gcn."
        )
    filled = way == "degrees"
    demand_rehearsed(
        model, lambda trial, feed: with_history(trial, feed, found), feed, graph, TABLE, filled=filled
    )  # fmt: skip
    return tuple(found), filled


@contextmanager
def _norms_of_rows(model: nn.Module, rows: int) -> Iterator[None]:
    """Refuse BatchNorm over anything but a block's rows: ``nn.roots`` takes the first of them for the roots."""

    def demand(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if arguments[0].dim() != 2 or arguments[0].shape[0] != rows:
            raise InputError(
                f"{type(model).__name__} has a BatchNorm over {list(arguments[0].shape)}, where a block has {rows}"
                " nodes: its statistics would not be those of the batch's own nodes. Normalise nodes, not edges."
            )

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(demand) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Seen:
    """What a pass sends, held against what the model sent when it was attached."""

    def __init__(self, widths: Sequence[int], rows: int) -> None:
        self.widths, self.rows, self.count = widths, rows, 0

    def demand(self, number: int, out: Tensor) -> None:
        """Refuse a propagation of other rows or widths.

        Raises:
            InputError: what it has.
        """
        self.count = number + 1
        width = out[0].numel() if out.shape[0] else 0
        if number >= len(self.widths) or out.shape[0] != self.rows or width != self.widths[number]:
            self._refuse(f"propagation {number + 1} gives {list(out.shape)}")

    def demand_all(self) -> None:
        """Refuse a pass that left propagations out.

        Raises:
            InputError: how many there were.
        """
        if self.count != len(self.widths):
            self._refuse(f"a pass sends {self.count} messages")

    def _refuse(self, what: str) -> None:
        raise InputError(
            f"{what}, and on trial the model sent {len(self.widths)} of widths {list(self.widths)}; the block has"
            f" {self.rows} nodes. Histories need the same propagations in every pass: leave out stochastic depth."
        )


def with_history(
    model: nn.Module, feed: Feed, widths: Sequence[int], *, bf16: bool = False, noise: Noise | None = None
) -> Apply:
    """``apply(params, batch)`` for a stock model: logits [n, C] whose first r rows count, and rows for the tables.

    Args:
        feed: how the model is called.
        widths: of all propagations; ``params`` must have ``rows.history``, [n - r, sum of all widths but the last].
        bf16: run the forward pass under autocast to bfloat16; logits come back in float32.
        noise: of the regulariser, if any (``nn.lipschitz``); it applies while the model trains.
    """
    call, places = Call(model, feed), columns(widths[:-1])

    def apply(params: Params, batch: Batch) -> Forward:
        r = batch.num_roots
        seen = Seen(widths, batch.n_id.numel())
        stale = params[ROWS + TABLE]  # [n - r, sum of the widths]
        own = stale.new_empty(r, stale.shape[1])
        given: list[Tensor] = []  # what the propagations gave, halo included

        def visit(number: int, out: Tensor) -> Tensor:
            seen.demand(number, out)
            if number < len(places):
                own[:, places[number]] = out.detach()[:r].flatten(1)
                out = torch.cat([out[:r], stale[:, places[number]].to(out.dtype).view(-1, *out.shape[1:])])
            if noisy:
                given.append(out)
            return out

        def passed(visit: Visit) -> tuple[Tensor, dict[str, Tensor]]:
            weights, buffers = call.state(params)
            # What a layer does first, product or sum, depends on gradients, and so what its history means.
            with torch.enable_grad(), spliced(model, visit), roots_only(model, r):
                logits = call.logits(weights, buffers, batch, bf16=bf16)
            return logits if learns else logits.detach(), buffers

        noisy = noise is not None and model.training
        learns = torch.is_grad_enabled()
        drawn = rng.state(batch.n_id.device)
        logits, buffers = passed(visit)
        seen.demand_all()
        penalty = None
        if noise is not None and noisy:
            rng.restore(drawn, batch.n_id.device)  # the same dropout in both passes
            penalty = lipschitz.penalty(lambda visit: passed(visit)[0], given, logits, r, noise, batch.seed)
        writes = {TABLE: Write(batch.n_id[:r], own)}
        return Forward(logits, writes, buffers if model.training else {}, penalty=penalty)

    return apply
