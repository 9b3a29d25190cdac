"""Scores of tasks that training has not seen: each adapts to its support, and its queries are scored.

Rows lie over ranks, so all ranks take part: each scores its share of the tasks, and the first one has all scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from graphscale.batches.ahead import ahead
from graphscale.batches.task_decoder import Block, Decoder, TaskBatch
from graphscale.batches.task_reader import TaskReader
from graphscale.loop import fetch
from graphscale.objectives.rating import MetaRating
from graphscale.run import Scores
from graphscale.step import Params
from graphscale.table import Table
from graphscale.task_metrics import CLICKS, RATINGS, task_scores
from graphscale.tasks import TRAIN
from graphscale.world import World


class Scored(NamedTuple):
    """Queries."""

    task: Tensor  # [q] numbers of tasks, ascending
    y: Tensor  # [q]
    score: Tensor  # [q]


class TaskScores:
    """``Run.evaluate`` and the pass before it in which all ranks take part.

    Args:
        decoder: of the tasks, as training has it.
        size: tasks a step, of all ranks together.
    """

    def __init__(
        self, objective: MetaRating, tables: Mapping[str, Table], decoder: Decoder, *, size: int,
        world: World | None = None, device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self.objective, self.tables, self.decoder, self.size = objective, tables, decoder, size
        self.world, self.device = world or World(), device or torch.device("cpu")
        self.clicks = objective.loss == "bce"
        self.names = CLICKS if self.clicks else RATINGS
        self.splits = tuple(name for name, (a, b) in decoder.tasks.parts.items() if name != TRAIN and a < b)
        self._found: Scores = {}

    def ready(self) -> None:
        """Score all parts but training's; collective. The first rank's next call gives them."""
        self._found = {}
        for split in self.splits:
            scored = self.part(split)
            if self.world.leads:
                found = task_scores(scored.score, scored.y, scored.task, clicks=self.clicks)
                self._found = {**self._found, split: found}

    def __call__(self) -> Scores:
        """Split -> metric -> value, of the last pass."""
        return self._found

    def part(self, name: str) -> Scored:
        """Scores of a part's queries at the first rank; others get what they like. Collective."""
        reader = TaskReader(self.decoder, self.size, part=name, world=self.world, shuffled=False)
        parts = [self.batch(batch) for batch in ahead(reader.epoch(0), 2)]
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        gathered = [self.world.gather(column) for column in columns]
        order = gathered[0].argsort(stable=True)
        return Scored(*(column[order] for column in gathered))

    def batch(self, batch: TaskBatch) -> Scored:
        """Scores of the queries of a batch, its tasks in the order of their numbers; collective."""
        rows = fetch(self.tables, batch.needs)
        parts = [self._block({**self._params(), **rows}, block) for block in batch.blocks]
        if not parts:
            return Scored(torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(0))
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        order = columns[0].argsort(stable=True)
        return Scored(*(column[order] for column in columns))

    def _block(self, params: Params, block: Block) -> Scored:
        score = self.objective.scores(params, block.to(self.device)).cpu()
        asked = block.present()[:, block.width :]
        task = block.tasks[:, None].expand_as(asked)
        return Scored(task[asked], block.y[:, block.width :][asked], score[asked].float())

    def _params(self) -> Params:
        return {name: value.detach() for name, value in self.objective.model.named_parameters()}
