"""Meta-learned scores of records: adapt to a task's support, be judged on its queries.

T tasks, s records of the largest support, n = s + the largest query, u rows of the step, v of a task, d numbers a row.

| G-Meta for recommenders (CIKM 2023), MAML              | here                                                       |
|------------------------------------------------------|--------------------------------------------------------------|
| xi, rows fetched for support and query at once         | ``params["rows.embedding"]``                               |
| inner loop on the support, no communication            | ``objectives.factored.adapted``                            |
| rows of the query that the inner loop updated          | ``own``: support and query share a task's copies |
| outer loss (1 / T) sum_t L_q(t)                        | ``Outcome``: a sum over tasks of means over queries        |
| joint training, DLRM as it is                          | ``adapt="none"``: a sum over all records                   |

A task's support loss is a sum over n_s records divided by n_s + ``shrink``: the fewer records, the smaller the step.
For an offset alone, descended to the end, that is the shrunken mean of residuals.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from graphscale.batches.task_decoder import EMBEDDING, Block, TaskBatch
from graphscale.nn.affine import BIAS, WEIGHT, Tape
from graphscale.nn.dlrm import RatingNet, pooled
from graphscale.objectives.adapt import Inner, Order, stacked
from graphscale.objectives.factored import adapted, layers
from graphscale.step import ROWS, Outcome, Params
from graphscale.tasks import Layout

Adapt = Literal["none", "head", "decision", "dense", "all", "rows"]
Loss = Literal["mse", "bce"]
TABLE = ROWS + EMBEDDING
NET, RATES = "net.", "rates."


@dataclass
class Spent:
    """Seconds of the two loops, forward."""

    inner: float = 0.0
    outer: float = 0.0


class Meta(nn.Module):
    """A network, and the rates of its inner loop where they are learned (Meta-SGD, Li et al. 2017).

    Rates are kept as logarithms of their ratio to ``lr``, so they stay above 0.

    Args:
        offset_lr: of the last layer's bias, whose curvature does not depend on how large vectors are.
    """

    def __init__(
        self, net: RatingNet, adapt: Adapt, *, lr: float, offset_lr: float | None = None,
        learned: Literal["no", "tensor", "number"] = "no",
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.lr = net, {NET + net.head + "bias": lr if offset_lr is None else offset_lr}
        self.usual = lr
        self.names = adapting(net, adapt)
        self.private = adapt in ("all", "rows")  # every task has copies of its rows
        self.rates = nn.ParameterDict()
        shapes = {NET + name: value.shape for name, value in net.named_parameters()}
        if learned != "no":
            for name in self.names:
                shape = shapes[name] if learned == "number" else ()
                self.rates[_plain(name)] = nn.Parameter(torch.zeros(shape))
            if self.private:
                self.rates[_plain(TABLE)] = nn.Parameter(torch.zeros(net.row_dim if learned == "number" else ()))

    def rates_of(self, params: Params) -> Mapping[str, Tensor | float]:
        """Name -> rate of every weight that adapts."""
        names = [*self.names, *([TABLE] if self.private else [])]
        learned = {name: params.get(RATES + _plain(name)) for name in names}
        rates = {name: self.lr.get(name, self.usual) for name in names}
        return {name: rates[name] if log is None else rates[name] * log.exp() for name, log in learned.items()}


def _plain(name: str) -> str:
    return name.replace(".", "_")


def adapting(net: RatingNet, adapt: Adapt) -> tuple[str, ...]:
    """Names of the dense weights that adapt."""
    names = [name for name, _ in net.named_parameters()]
    begins = {"none": (), "rows": (), "head": (net.head,), "decision": net.decision}.get(adapt, ("",))
    return tuple(NET + name for name in names if begins and name.startswith(begins))


@dataclass(frozen=True)
class MetaRating:
    """``Objective`` of a batch of tasks; with no weight that adapts, of all their records.

    Args:
        steps: K of the inner loop.
        joint: every record is an example, and nothing adapts.
        factors: layers that are less work so descend as factors (``objectives.factored``); the same numbers.
    """

    model: Meta
    layout: Layout
    loss: Loss
    steps: int
    order: Order
    shrink: float = 0.0
    joint: bool = False
    factors: bool = True
    spent: Spent = field(default_factory=Spent)

    def __call__(self, params: Params, batch: TaskBatch) -> Outcome:
        """The outcome; ``count`` is tasks, or records of joint training."""
        loss = torch.stack([self._loss(params, block) for block in batch.blocks]).sum()
        return Outcome(loss, batch.records if self.joint else batch.count)

    def _loss(self, params: Params, block: Block) -> Tensor:
        """Sum over the tasks of a block, or over its records."""
        present = block.present()
        if self.joint:
            scores = self._scores(params, params[TABLE], block, slice(None))
            return (self._losses(scores, block.y) * present).sum()
        began = time.perf_counter()
        fast = self.fast(params, block, self.order)
        between = time.perf_counter()
        queries = slice(block.width, None)
        scores = self._scores({**params, **fast}, fast.get(TABLE, params[TABLE]), block, queries)
        losses = (self._losses(scores, block.y[:, queries]) * present[:, queries]).sum(1)
        loss = (losses / block.asked.clamp(min=1)).sum()
        self.spent.inner += between - began
        self.spent.outer += time.perf_counter() - between
        return loss

    def scores(self, params: Params, block: Block) -> Tensor:
        """[T, largest query] scores of the queries after adaptation, for evaluation: no graph is kept."""
        fast = {} if self.joint else self.fast(params, block, "none")
        with torch.no_grad():
            table = fast.get(TABLE, params[TABLE])
            return self._scores({**params, **fast}, table, block, slice(block.width, None))

    def fast(self, params: Params, block: Block, order: Order) -> Params:
        """Weights of every task after the inner loop, by name; ``rows.embedding`` [T, v, d] where rows adapt."""
        rates = self.model.rates_of(params)
        factored = layers(params, self.model.names, self.steps * block.width, rates) if self.factors else ()
        whole = {name + end for name in factored for end in (WEIGHT, BIAS)}
        fast = stacked(params, block.size, [name for name in self.model.names if name not in whole])
        if block.own is not None:
            fast[TABLE] = torch.nn.functional.embedding(block.own, params[TABLE])
        if not block.width:  # no task shows a record
            return fast
        support = slice(None, block.width)
        ids, dense, y = block.ids[:, support], block.dense[:, support], block.y[:, support]
        shared = None if block.own is not None else pooled(params[TABLE], ids, self.layout, whole=block.whole)
        here, count = block.present()[:, support], (block.shown + self.shrink).clamp(min=1e-9)

        def loss(weights: Params, tape: Tape) -> Inner:
            rows = pooled(weights[TABLE], ids, self.layout, whole=block.whole) if shared is None else shared
            losses = (self._losses(self._score({**params, **weights}, rows, dense, tape), y) * here).sum(1)
            return Inner(losses / count)

        for step in adapted(fast, params, factored, loss, steps=self.steps, rates=rates, order=order):
            fast = step.fast
        return fast

    def _scores(self, params: Params, table: Tensor, block: Block, places: slice) -> Tensor:
        rows = pooled(table, block.ids[:, places], self.layout, whole=block.whole)
        return self._score(params, rows, block.dense[:, places], {})

    def _score(self, params: Params, rows: Tensor, dense: Tensor, tape: Tape) -> Tensor:
        net = {name.removeprefix(NET): value for name, value in params.items() if name.startswith(NET)}
        met: Tape = {}
        scores = self.model.net.score(net, rows, dense, met)
        tape |= {NET + name: passed for name, passed in met.items()}
        return scores

    def _losses(self, scores: Tensor, y: Tensor) -> Tensor:
        """Of each record."""
        if self.loss == "mse":
            return (scores - y) ** 2
        return torch.nn.functional.binary_cross_entropy_with_logits(scores, y.to(scores.dtype), reduction="none")
