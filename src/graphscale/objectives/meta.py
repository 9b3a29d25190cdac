r"""Meta-learning over episodes: G-Meta's loss and its settings (Huang, Zitnik; NeurIPS 2020, section 4, appendix E).

| in the paper                               | here                                       |
|--------------------------------------------|--------------------------------------------|
| prototype p_k, mean of the support's class | ``prototypes``                             |
| p(y = k) = softmax_k -\|z - p_k\|^2         | ``nearness``                               |
| inner updates, appendix E, steps 5 to 8    | ``objectives.adapt``                       |
| query loss under the adapted weights       | ``Meta.__call__``                          |

What the released code does, and ``author`` reproduces: inner gradients are constants (first order); the query's
loss meets prototypes that were made *before* the last inner step (stale); prototypes live in the space of logits, as
wide as an episode has classes. The paper says none of the three. ``prototypes="fresh"`` makes them under the weights
that the query meets, at the price of one more pass over the support.

T tasks, n support and m query points a task, W ways, D width of the space.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from graphscale.batches.tasks import TaskBatch
from graphscale.nn.ego import EgoNet
from graphscale.objectives.adapt import Inner, Order, Rates, adapted
from graphscale.rng import isolated
from graphscale.step import Outcome, Params


@dataclass(frozen=True)
class How:
    """What an episode is learned by."""

    loss: Literal["proto", "ce"] = "proto"  # distances to prototypes, or the head's logits as they are (MAML)
    adapt: Literal["all", "head", "none"] = "all"  # MAML, ANIL, ProtoNet
    order: Order = "first"
    prototypes: Literal["fresh", "stale"] = "fresh"
    space: Literal["logit", "hidden"] = "logit"
    rate: float = 0.01  # alpha, where rates are not learned


class State(NamedTuple):
    """T tasks on their way."""

    support: Any  # of the network's making: what the inner loop does not change
    query: Any
    fast: Params  # name -> [T, ...]
    before: Tensor | None  # [T, W, D] prototypes under the weights before the last step
    loss: Tensor | None  # [T] of the support, then


class Answers(NamedTuple):
    """What a network says of queries after some inner steps."""

    step: int
    logits: Tensor  # [T, m, W]
    support_loss: Tensor | None  # [T] before the last step


def prototypes(z: Tensor, y: Tensor, ways: int) -> Tensor:
    """[T, W, D]: means of the points of every class.

    Args:
        z: [T, n, D].
        y: [T, n] classes; -1 counts nowhere.
        ways: W.
    """
    member = (y[:, :, None] == torch.arange(ways, device=y.device)).to(z.dtype)  # [T, n, W]
    return (member.transpose(1, 2) @ z) / member.sum(1)[:, :, None].clamp(min=1)


def nearness(z: Tensor, p: Tensor) -> Tensor:
    """[T, n, W]: minus squared distances of points [T, n, D] to prototypes [T, W, D]."""
    return -(z[:, :, None] - p[:, None]).square().sum(-1)


def mean_loss(logits: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """[T]: mean cross entropy of every task's points, of those in ``mask`` [T, n] where it is given."""
    each = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
    if mask is None:
        return each.mean(1)
    return (each * mask).sum(1) / mask.sum(1).clamp(min=1)


class Meta:
    """The objective of a meta-batch: the sum over tasks of the queries' mean loss after adaptation.

    Args:
        net: the network.
        how: its settings.
        steps: K, inner steps of training.
    """

    def __init__(self, net: EgoNet, how: How, *, steps: int) -> None:
        self.net, self.how, self.steps = net, how, steps
        # Prototypes of hidden points leave the head unused, and what is not used cannot adapt.
        unused = "head." if how.space == "hidden" and how.loss == "proto" else "-"
        self.names = tuple(name for name in net.names(how.adapt) if not name.startswith(unused))

    def __call__(self, params: Params, batch: TaskBatch) -> Outcome:
        """The outcome of a meta-batch."""
        with isolated(batch.seed, batch.support_y.device):
            begun = self._begun(params, batch)
            # One step at a time: the graph of a step that is passed is let go before the next is made.
            last = deque(self._steps(params, batch, begun, self.steps, self.how.order), maxlen=1)
            state = last.pop() if last else begun
            logits = self._logits(params, batch, state)
        loss = mean_loss(logits, batch.query_y, batch.mask)
        return Outcome(loss_sum=loss.sum(), count=batch.count, scores={"logits": logits.detach()})

    @torch.no_grad()
    def answers(self, params: Params, batch: TaskBatch, *, steps: int, at: Collection[int]) -> Iterator[Answers]:
        """What is said of the queries after some of ``steps`` inner steps; nothing is written.

        Args:
            at: numbers of steps after which to answer, 0 .. steps.
        """
        held = {name: value.detach() for name, value in params.items()}
        with isolated(batch.seed, batch.support_y.device):
            state = self._begun(held, batch)
            if 0 in at:
                yield Answers(0, self._logits(held, batch, state), None)
            for k, moved in enumerate(self._steps(held, batch, state, steps, "none"), start=1):
                if k in at:
                    yield Answers(k, self._logits(held, batch, moved), moved.loss)

    def _begun(self, params: Params, batch: TaskBatch) -> State:
        support, query = self.net.bases(params, batch)
        return State(support, query, self.net.begun(params, self.names, batch.count, support), None, None)

    def _rates(self, params: Params) -> Rates:
        learned = self.net.rates_of(params)
        return self.how.rate if learned is None else learned

    def _steps(self, params: Params, batch: TaskBatch, state: State, steps: int, order: Order) -> Iterator[State]:
        if not self.names:
            return
        stale = self.how.prototypes == "stale" and self.how.loss == "proto"
        passed = itertools.count(1)

        def loss(fast: Params) -> Inner:
            # Queries meet the prototypes of the last step alone (in evaluation, which keeps no graph, of any).
            kept = stale and (next(passed) == steps or order == "none")
            z, along = self._placed(params, fast, state.support)
            if self.how.loss == "ce":
                return Inner(mean_loss(z, batch.support_y), None, along)
            p = prototypes(z, batch.support_y, batch.ways)
            return Inner(mean_loss(nearness(z, p), batch.support_y), p if kept else None, along)

        for fast, before in adapted(state.fast, loss, steps=steps, rates=self._rates(params), order=order):
            yield state._replace(fast=fast, before=before.extra, loss=before.loss.detach())

    def _placed(self, params: Params, fast: Params, base: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """[T, n, D] points of a side in the space of prototypes."""
        hidden, along = self.net.embed(params, fast, base)
        wide = self.how.space == "hidden" and self.how.loss == "proto"
        return hidden if wide else self.net.logits(params, fast, hidden), dict(along)

    def _logits(self, params: Params, batch: TaskBatch, state: State) -> Tensor:
        """[T, m, W] of the queries."""
        z, _ = self._placed(params, state.fast, state.query)
        if self.how.loss == "ce":
            return z
        p = state.before
        if p is None:
            p = prototypes(self._placed(params, state.fast, state.support)[0], batch.support_y, batch.ways)
        return nearness(z, p)
