"""Foretelling links and states of a stream, and PRES's penalty on incoherent memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from graphscale.batches.stream import MEMORY, EventBatch
from graphscale.kernels.corrections import incoherence
from graphscale.nn.temporal import Embedded, TemporalNet
from graphscale.rng import isolated
from graphscale.step import ROWS, Objective, Outcome, Params, Write


def parts_of(params: Params) -> Params:
    """What the loop fetched of the memory."""
    head = f"{ROWS}{MEMORY}."
    return {name.removeprefix(head): value for name, value in params.items() if name.startswith(head)}


def writes_of(batch: EventBatch, found: Embedded) -> dict[str, Write]:
    """The ends of the events take in what was pending, and have these events pending now."""
    if found.memory is None:
        return {}
    place = batch.touched
    return {MEMORY: Write(batch.n_id[place.cpu()], found.memory.kept.detach()[place], batch.newest)}


def stream_loss(
    net: TemporalNet, *, beta: float = 0.0, states: bool = False, bf16: bool = False
) -> Objective[EventBatch]:
    """Binary cross entropy of the events, 1, and of their negatives, 0, each a mean over its kind; or of states.

    The loss is a sum over events: an event's own term and the mean of its negatives'.

    Args:
        beta: weight of ``incoherence`` (equation 10 of PRES prints none; its code has 0.1 and no gradient).
        states: cross entropy of the sources' states in place of links.
        bf16: run the pass under autocast.
    """

    def objective(params: Params, batch: EventBatch) -> Outcome:
        weights = {name: value for name, value in params.items() if not name.startswith(ROWS)}
        with (
            isolated(batch.seed, batch.idle.device),
            torch.autocast(batch.idle.device.type, torch.bfloat16, enabled=bf16),
        ):
            found, scores = functional_call(_Scored(net, states), _under(weights), (parts_of(params), batch))
        loss = loss_of(scores, batch, states=states)
        if beta and found.memory is not None:
            _, _, before, after, off = found.memory
            loss = loss.add(incoherence(before, after.float()) if off is None else off, alpha=batch.count * beta)
        return Outcome(loss_sum=loss, count=batch.count, writes=writes_of(batch, found))

    return objective


def _under(weights: Params) -> Params:
    return {f"net.{name}": value for name, value in weights.items()}


class _Scored(torch.nn.Module):
    """A pass and its scores in one forward, for ``functional_call``."""

    def __init__(self, net: TemporalNet, states: bool) -> None:
        super().__init__()
        self.net, self.states = net, states

    def forward(self, parts: Params, batch: EventBatch) -> tuple[Embedded, tuple[Tensor, ...]]:
        """(What the pass gives, logits)."""
        found = self.net(parts, batch)
        return found, scored(self.net, found.roots, batch, states=self.states)


def loss_of(scores: tuple[Tensor, ...], batch: EventBatch, *, states: bool) -> Tensor:
    """[] the sum over a batch's events of their losses, of what ``scored`` gives."""
    if states:
        assert batch.y is not None
        return F.cross_entropy(scores[0].float(), batch.y, reduction="sum")
    pos, neg = (logits.float() for logits in scores)
    return F.softplus(-pos).sum() + F.softplus(neg).mean(1).sum()


def scored(net: TemporalNet, roots: Tensor, batch: EventBatch, *, states: bool) -> tuple[Tensor, ...]:
    """Logits: [b, C] of states; or [b] of the events and [b, K] of their negatives, of embedded roots [r, d]."""
    if states:
        assert net.states is not None
        return (net.states(F.embedding(batch.src, roots)),)
    src = batch.src[:, None].expand(-1, 1 + batch.neg.shape[1])
    logits = net.decoder(roots, src, torch.cat([batch.dst[:, None], batch.neg], dim=1))
    return logits[:, 0], logits[:, 1:]
