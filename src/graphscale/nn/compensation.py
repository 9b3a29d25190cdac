"""LMC: local message compensation (Shi, Liang, Wang; ICLR 2023), for anybody's PyG model.

| in the paper                                        | here                                        |
|-----------------------------------------------------|---------------------------------------------|
| N[B]: the batch, its neighbours, edges among them   | ``Reach.block(inner=True)``                 |
| history of embeddings H, of auxiliary variables V   | tables ``history``, ``gradients``           |
| forward compensation, equations (8) to (10)         | ``_Compensate.forward``                     |
| backward compensation, equations (11) to (13)       | ``_Compensate.backward``                    |
| V of the output layer, of labelled nodes in N[B]    | ``objectives.node`` with the halo's labels  |
| weights' gradients of in-batch rows alone           | ``nn.in_batch``                             |
| beta_i = beta score(x_i), appendix A.4              | ``shares``                                  |

H and V are of what propagations give (``nn.history``): what follows them treats rows apart, so V is the
gradient that reaches a node's row there. The law: with beta = 0 and exact histories the batches' gradients add up
to the full batch's. It needs propagations whose derivative at a node does not depend on neighbours that are cut off:
sums and means by weights of the graph (GCN, GCNII, APPNP, SGC, TAGCN, GIN, GraphSAGE). Attention's softmax, maxima
and deviations do depend on them: a trial finds and refuses them.

The released code's sine score is sin((x - 1/2) pi), negative for x < 1/2, where beta_i must lie in [0, 1]: here
it is (sin((x - 1/2) pi) + 1) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from graphscale.batch import Batch
from graphscale.csr import Csr, from_entries
from graphscale.errors import InputError
from graphscale.feature_view import sparse_rows
from graphscale.graph import Graph
from graphscale.nn.fast_calls import NoChance
from graphscale.nn.history import TABLE, Seen, columns
from graphscale.nn.in_batch import InBatchWeights
from graphscale.nn.plain import Call
from graphscale.nn.roots import roots_only
from graphscale.nn.splice import spliced
from graphscale.nn.stock import Feed, toy
from graphscale.nn.trial import TRIED, alike, on_trial
from graphscale.reach import Reach
from graphscale.step import ROWS, Apply, Forward, Params, Taps, Write

GRADIENTS = "gradients"  # [N, sum of the widths but the last]: V of every propagation but the last

Score = Literal["linear", "constant", "concave", "convex", "sine"]
_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "constant": torch.ones_like,
    "concave": lambda x: x * (2 - x),
    "convex": lambda x: x * x,
    "sine": lambda x: (torch.sin((x - 0.5) * math.pi) + 1) / 2,
}


class Mix(NamedTuple):
    """How much of what the halo's rows are is computed in the batch: beta and its score."""

    beta: float
    score: Score


def shares(adj: Csr, roots: int, mix: Mix) -> Tensor:
    """[n - r] beta_i of the halo: beta times a score of the share of a node's neighbours that the block has."""
    assert adj.degrees is not None
    there, all_of_them = adj.indptr.diff()[roots:], adj.degrees[roots:, 0]
    return mix.beta * _SCORES[mix.score](there / all_of_them.clamp(min=1))


class _Compensate(torch.autograd.Function):
    """Rows of a propagation: the roots' as they are, the halo's mixed with its histories, forward and backward.

    ``tap`` is a leaf of the roots' shape, which receives their gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, tap: Tensor | None, rows: Tensor, gradients: Tensor | None, share: Tensor
    ) -> Tensor:
        roots = out.shape[0] - share.shape[0]
        ctx.gradients, ctx.share = gradients, share
        mixed = out.clone()
        halo = mixed[roots:]
        halo.lerp_(rows.to(out.dtype).view_as(halo), 1 - _beside(share, halo))
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        roots = grad.shape[0] - ctx.share.shape[0]
        if ctx.gradients is None:  # the last propagation: the gradient is fresh, by the halo's own labels
            return grad, None, None, None, None
        passed = grad.clone()
        halo = passed[roots:]
        halo.lerp_(ctx.gradients.to(grad.dtype).view_as(halo), 1 - _beside(ctx.share, halo))
        return passed, grad[:roots], None, None, None


def _beside(share: Tensor, rows: Tensor) -> Tensor:
    return share.to(rows.dtype).view(-1, *[1] * (rows.dim() - 1))


def with_compensation(model: nn.Module, feed: Feed, widths: Sequence[int], mix: Mix, *, bf16: bool = False) -> Apply:
    """``apply(params, batch)`` for a stock model on blocks of N[B]: logits [n, C], rows for both tables.

    Args:
        widths: of all propagations; ``params`` must have ``rows.history``, [n - r, sum of the widths], and
            ``rows.gradients``, [n - r, that of all but the last].
        mix: beta and its score.
        bf16: see ``with_history``.
    """
    call, places = Call(model, feed), columns(widths)

    def apply(params: Params, batch: Batch) -> Forward:
        r, n = batch.num_roots, batch.n_id.numel()
        stale, gradients = params[ROWS + TABLE], params[ROWS + GRADIENTS]
        share = shares(batch.adj, r, mix)
        own = stale.new_empty(r, stale.shape[1])
        taps: list[Tensor] = []
        seen = Seen(widths, n)

        def visit(number: int, out: Tensor) -> Tensor:
            seen.demand(number, out)
            place = places[number]
            own[:, place] = out.detach()[:r].flatten(1)
            if number == len(places) - 1:
                mixed: Tensor = _Compensate.apply(out, None, stale[:, place], None, share)  # type: ignore[no-untyped-call]
                return mixed
            tap = out.new_zeros(()).expand(out[:r].shape).requires_grad_()
            taps.append(tap)
            return _Compensate.apply(out, tap, stale[:, place], gradients[:, place], share)  # type: ignore[no-untyped-call,no-any-return]

        weights, buffers = call.state(params)
        with (
            spliced(model, visit),
            roots_only(model, r, learn=True),
            InBatchWeights(weights.values(), buffers.values(), rows=n, roots=r),
        ):
            logits = call.logits(weights, buffers, batch, bf16=bf16)
        seen.demand_all()
        nodes = batch.n_id[:r]
        writes = {TABLE: Write(nodes, own)}
        tapped = {GRADIENTS: Taps(nodes, tuple(taps))}
        return Forward(logits, writes, buffers if model.training else {}, tapped)

    return apply


def demand_exact(model: nn.Module, feed: Feed, graph: Graph, widths: Sequence[int]) -> None:
    """Refuse a model whose gradients compensation cannot make exact, after a trial on a toy graph.

    Raises:
        InputError: where with beta = 0 and exact histories the batches' gradients do not add up to the full batch's.
    """
    if not graph.adj.symmetric:
        raise InputError(
            "LMC needs an undirected graph: a node's gradient comes from the nodes that it sends to, and a batch reads"
            " those that send to it. Train with --undirected, or with --compensation none."
        )
    exact = True
    for training in (False, True):
        try:
            with NoChance():
                pairs = _trial_gradients(on_trial(model, training=training), feed, graph, widths)
        except TRIED:  # it does not act on rows apart
            exact = False
        else:
            exact = exact and all(alike(a, b) for a, b in zip(*pairs, strict=True))
    if not exact:
        raise InputError(
            f"{type(model).__name__} cannot be compensated: on a toy graph the gradients of its batches do not add up"
            " to the full batch's. A propagation's derivative must not depend on neighbours that a batch lacks, as a"
            " softmax (gat, Transformer), a maximum or a deviation (pna) does; weights must act on rows apart; and"
            " layers must know the graph's degrees, as those that --accelerate does not reach do not."
            " Train with --compensation none, or another --model."
        )


def _trial_gradients(
    model: nn.Module, feed: Feed, graph: Graph, widths: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of all weights, summed over batches with exact histories, and of the whole toy graph."""
    x, one_way, _ = toy(model, graph, 24, 70)
    pairs = torch.stack([one_way.row_of, one_way.indices.long()])
    pairs = torch.cat([pairs, pairs.flip(0)], dim=1).unique(dim=1).cpu()
    values = None
    if graph.adj.values is not None:
        draw = torch.rand(24, 24, generator=torch.Generator().manual_seed(1)) + 0.5
        values = (draw + draw.t())[pairs[0], pairs[1]]
    adj, _ = from_entries(pairs[0], pairs[1], (24, 24), values)
    adj = Csr(adj.indptr, adj.indices, values if values is None else adj.values, 24, symmetric=True)
    x = x.double() if x.is_floating_point() else x
    attr = None
    if graph.edge_attr is not None:
        some = torch.randint(graph.num_entries, (pairs.shape[1],), generator=torch.Generator().manual_seed(2))
        attr = graph.edge_attr[some].double()
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    apply = with_compensation(model, feed, widths, Mix(0.0, "constant"))
    reach = Reach(adj)

    def passed(roots: Tensor, rows: Params) -> tuple[Forward, list[Tensor]]:
        n_id, block, entry = reach.block(roots, inner=True)
        y = torch.zeros(roots.numel(), dtype=torch.int64, device=x.device)
        batch = Batch(
            n_id=n_id.to(x.device), num_roots=roots.numel(), adj=block.to(x.device),
            x=sparse_rows(x[n_id.to(x.device)]) if feed.sparse else x[n_id.to(x.device)], y=y,
            mask=y == 0, seed=0, count=roots.numel(),
            edge_attr=None if attr is None else attr[entry].to(x.device),
        )  # fmt: skip
        halo = n_id[roots.numel() :].to(x.device)
        out = apply({**params, **{name: table[halo] for name, table in rows.items()}}, batch)
        taps = out.taps[GRADIENTS].leaves
        target = (batch.n_id % 7)[:, None].to(out.logits.dtype) / 7
        loss = (out.logits - target).square().sum()
        asked = [*params.values(), *taps]
        found = torch.autograd.grad(loss, asked, allow_unused=True)
        grads = [
            torch.zeros(a.shape, dtype=a.dtype, device=a.device) if g is None else g
            for a, g in zip(asked, found, strict=True)
        ]
        return out, grads

    everyone = torch.arange(24)
    empty = {ROWS + TABLE: x.new_zeros(24, sum(widths)), ROWS + GRADIENTS: x.new_zeros(24, sum(widths[:-1]))}
    empty = {name: table.double() for name, table in empty.items()}
    whole, gradients = passed(everyone, empty)
    expected, taps = gradients[: len(params)], gradients[len(params) :]
    exact = {
        ROWS + TABLE: whole.writes[TABLE].values,
        ROWS + GRADIENTS: torch.cat([t.flatten(1) for t in taps], 1) if taps else empty[ROWS + GRADIENTS],
    }
    found = [torch.zeros_like(e) for e in expected]
    for roots in everyone.split(7):
        _, gradients = passed(roots, exact)
        found = [f + g for f, g in zip(found, gradients[: len(params)], strict=True)]
    return found, expected
