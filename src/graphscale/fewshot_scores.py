"""Scores of fixed episodes: validation and test are the same ones for a seed, whatever trains on what.

Accuracy is the mean over episodes, each with equal weight, as in the papers; ``accuracy@0`` is what the network says
before it adapts. The released code's "early stopped" figure averages two models; here the best epoch by validation is
scored alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from graphscale import rng
from graphscale.batches.episodes import Pools
from graphscale.batches.tasks import Maker, TaskBatch, task_batch
from graphscale.run import Scores

METRICS = ("accuracy", "logloss", "accuracy_ci", "accuracy@0")
# (a batch) -> logits [T, m, W] before any adaptation, or None; and after it
Answer = Callable[[TaskBatch], tuple[Tensor | None, Tensor]]


class EpisodeScores:
    """``Run.evaluate`` of few-shot learning.

    Args:
        maker: of batches.
        pools: what episodes are drawn from, by split; only ``val`` and ``test`` are scored.
        answer: what is said of a batch's queries.
        shots, queries: K and Q.
        tasks: episodes a split.
        per_step: episodes at a time.
        seed: of the episodes.
        device: where ``answer`` computes.
    """

    def __init__(
        self, maker: Maker, pools: Mapping[str, Pools], answer: Answer, *, shots: int, queries: int, tasks: int,
        per_step: int, seed: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.maker, self.pools, self.answer = maker, pools, answer
        self.shots, self.queries, self.tasks, self.per_step = shots, queries, tasks, per_step
        self.seed, self.device = seed, device

    def batches(self, split: str) -> Iterator[TaskBatch]:
        """The split's episodes."""
        pools = self.pools[split]
        number = ("train", "val", "test").index(split)
        seeds = torch.tensor([rng.derive(rng.DATA, self.seed, number, i) for i in range(self.tasks)])
        for some in seeds.split(self.per_step):
            drawn = pools.draw(some, self.shots, self.queries)
            yield task_batch(self.maker, pools.points, drawn, int(some[0]))

    def __call__(self) -> Scores:
        """Split -> metric -> value."""
        return {split: self._scored(split) for split in ("val", "test")}

    def _scored(self, split: str) -> dict[str, float]:
        right, before, loss = [], [], []
        for batch in self.batches(split):
            there = batch.to(self.device)
            first, last = self.answer(there)
            right.append(accuracy(last, there))
            before.append(torch.full_like(right[-1], math.nan) if first is None else accuracy(first, there))
            loss.append(_logloss(last, there))
        each = torch.cat(right)
        deviation = float(each.std()) if each.numel() > 1 else 0.0
        return {
            "accuracy": float(each.mean()),
            "logloss": float(torch.cat(loss).mean()),
            "accuracy_ci": 1.96 * deviation / each.numel() ** 0.5,  # half the 95 % interval over episodes
            "accuracy@0": float(torch.cat(before).mean()),
        }


def accuracy(logits: Tensor, batch: TaskBatch) -> Tensor:
    """[T] float64: share of every episode's queries that are right; NaN where a network has diverged."""
    right = ((logits.argmax(-1) == batch.query_y) & batch.mask).sum(1).double() / batch.mask.sum(1)
    return torch.where(logits.isnan().flatten(1).any(1), math.nan, right).cpu()


def _logloss(logits: Tensor, batch: TaskBatch) -> Tensor:
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), batch.query_y.flatten(), reduction="none")
    return ((loss.view(batch.mask.shape) * batch.mask).sum(1) / batch.mask.sum(1)).cpu()
