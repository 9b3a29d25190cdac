"""A trained recommender in use: what users do is observed, what they may do is scored, by weights adapted to each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from graphscale import folder
from graphscale.batches.task_decoder import Decoder
from graphscale.errors import InputError
from graphscale.places import stored
from graphscale.rating_adapt import Encoded, Encoder, foretold, ready
from graphscale.rating_scores import TaskScores
from graphscale.recipes.gmeta_dlrm import GMetaDLRMConfig

Log = str | Path | Mapping[str, Any]  # a file, or columns by name


class Users:
    """Made by ``users``. A record has the columns that ``prepare-tasks`` was told of."""

    def __init__(self, scores: TaskScores, decoder: Decoder, encoder: Encoder) -> None:
        self._scores, self._decoder, self._encoder = scores, decoder, encoder
        self._seen: dict[str, list[np.ndarray]] = {}

    @property
    def num_records(self) -> int:
        """Records observed."""
        return sum(len(words) for blocks in self._seen.values() for words in blocks)

    def observe(self, records: Log) -> None:
        """Add records with labels to the support of their tasks, in the order given.

        Raises:
            InputError: where a column or a label is missing.
        """
        found = self._encoder(records, label="needed")
        y = found.words[:, 0].view(np.float32)
        if self._scores.clicks and not bool(((y == 0) | (y == 1)).all()):
            raise InputError("labels of a run on clicks are 0 or 1, and others were observed.")
        for name in dict.fromkeys(found.task.tolist()):
            self._seen.setdefault(name, []).append(found.words[found.task == name])

    def score(self, records: Log) -> Tensor:
        """[n] ratings, or probabilities of clicks, of records in their order; changes nothing.

        A task adapts to what was observed of it; one that was not is scored by the weights that all begin with.

        Raises:
            InputError: where a column is missing.
        """
        query = self._encoder(records, label="none")
        known = [name for name in dict.fromkeys(query.task.tolist()) if name in self._seen]
        words = [np.concatenate(self._seen[name]) for name in known]
        task = np.repeat(np.array(known, dtype=object), [len(some) for some in words])
        width = self._encoder.tasks.layout.words
        whole = np.concatenate([np.empty((0, width), dtype=np.int32), *words])
        return foretold(
            self._scores,
            self._decoder,
            Encoded(whole, task, np.ones(len(task), dtype=bool), np.zeros(len(task), dtype=np.int64)),
            query,
        )

    def forget(self, task: str) -> None:
        """Drop what was observed of a task."""
        self._seen.pop(str(task), None)


def users(run: str | Path) -> Users:
    """A trained run of ``gmeta_dlrm``, in use; nobody is known yet.

    Args:
        run: folder of a run of one seed.

    Raises:
        InputError: where the run or its store cannot be used.
    """
    run = Path(run)
    _, config = stored(run)
    if not isinstance(config, GMetaDLRMConfig):
        raise InputError(f"{run} is no run of gmeta_dlrm, and only those know users.")
    return Users(*ready(config, folder.best(run / "checkpoints" / "best.pt")))
