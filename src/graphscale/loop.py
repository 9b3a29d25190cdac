"""The only loop in the house: sample, fetch, loss, backward, reduce, step, commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphscale.batch import Batch
from graphscale.metrics import better
from graphscale.run import Run, Scores
from graphscale.step import ROWS, Outcome, Params, Slot, Write
from graphscale.table import Table


def fetch(tables: Mapping[str, Table], needs: Mapping[str, Tensor]) -> Params:
    """The rows that a batch needs, as ``rows.<table>``; those of a learning table are leaves."""
    rows: Params = {}
    for name in sorted(needs):
        rows[ROWS + name] = tables[name].read(needs[name]).requires_grad_(tables[name].learns)
    return rows


def commit(tables: Mapping[str, Table], writes: Mapping[str, Write]) -> None:
    """Apply the writes of a step, table by table in the order of names: writing is collective."""
    for name in sorted(tables):
        table = tables[name]
        table.write(*writes.get(name, Write(torch.empty(0, dtype=torch.int64), torch.empty(0, table.dim))))


def train_step(run: Run, batch: Batch, step: int) -> tuple[float, int]:
    """One step of every slot on one batch; returns (loss sum, count) of this rank, over slots."""
    loss, count = 0.0, 0
    for slot in run.sync.slots():
        slot.optimiser.zero_grad(set_to_none=True)
        rows = fetch(run.tables, batch.needs)
        outcome = None if batch.padding else slot.objective({**slot.params(), **rows}, batch)
        if outcome is not None and outcome.count > 0:
            outcome.loss_sum.backward()
            loss, count = loss + float(outcome.loss_sum.detach()), count + outcome.count
        total = run.sync.reduce(slot, 0 if outcome is None else outcome.count)
        if total > 0:  # without any label there is no gradient: momentum and decay alone must not move weights
            slot.optimiser.step()
        _commit(run, slot, batch, rows, outcome, total)
    run.sync.finish(step)
    return loss, count


def _commit(run: Run, slot: Slot, batch: Batch, rows: Params, outcome: Outcome | None, total: int) -> None:
    writes = dict(outcome.writes) if outcome is not None else {}
    for name, table in run.tables.items():
        gradient = rows[ROWS + name].grad if ROWS + name in rows else None
        if table.learns and gradient is not None:
            writes[name] = Write(batch.needs[name], gradient / total)
    commit(run.tables, writes)
    if outcome is not None and outcome.buffers:
        with torch.no_grad():
            for name, buffer in slot.module.named_buffers():
                if name in outcome.buffers:
                    buffer.copy_(outcome.buffers[name])


@dataclass(frozen=True)
class Record:
    """One epoch: mean loss over its examples, scores where it was evaluated, seconds of training."""

    epoch: int
    loss: float
    seconds: float
    scores: Scores | None = None


@dataclass
class Log:
    """What a fit has seen so far: everything that early stopping and the result depend on."""

    epochs: int = 0  # completed
    steps: int = 0
    best_epoch: int = -1
    best: Scores = field(default_factory=dict)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    final: Scores = field(default_factory=dict)
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    records: list[Record] = field(default_factory=list)

    def improves(self, monitor: str, scores: Scores) -> bool:
        """Whether validation got better; between equal scores the lower log loss decides."""
        if not self.best:
            return True
        new, old = scores["val"], self.best["val"]
        if new[monitor] == old[monitor] and "logloss" in new:
            return better("logloss", new["logloss"], old["logloss"])
        return better(monitor, new[monitor], old[monitor])


def fit(
    run: Run,
    *,
    epochs: int,
    eval_every: int = 1,
    patience: int | None = None,
    log: Log | None = None,
    on_epoch: Callable[[Log, Record], Any] | None = None,
) -> Log:
    """Train, score on validation, remember the best epoch.

    Args:
        epochs: in all; those that ``log`` holds already count.
        eval_every: epochs between two evaluations; the last epoch is always evaluated.
        patience: stop after this many epochs without a better validation score.
        log: to continue from.
        on_epoch: called after every epoch, with the log and the epoch's record.
    """
    log = log or Log()
    for epoch in range(log.epochs, epochs):
        record = _epoch(run, log, epoch, evaluate=(epoch + 1) % eval_every == 0 or epoch == epochs - 1)
        log.records.append(record)
        if on_epoch is not None:
            on_epoch(log, record)
        if patience is not None and record.scores is not None and epoch - log.best_epoch >= patience:
            break
    return log


def _epoch(run: Run, log: Log, epoch: int, *, evaluate: bool) -> Record:
    run.model.train()
    began = time.perf_counter()
    loss, count = 0.0, 0
    for batch in run.batches.epoch(epoch):
        step_loss, step_count = train_step(run, batch.to(run.device), log.steps)
        loss, count, log.steps = loss + step_loss, count + step_count, log.steps + 1
    seconds = time.perf_counter() - began
    log.epochs, log.train_seconds = epoch + 1, log.train_seconds + seconds
    scores = None
    if evaluate:
        began = time.perf_counter()
        scores = log.final = run.evaluate()
        if log.improves(run.monitor, scores):
            log.best_epoch, log.best = epoch, scores
            log.best_state = {name: value.detach().clone() for name, value in run.model.state_dict().items()}
        log.evaluate_seconds += time.perf_counter() - began
    return Record(epoch, loss / max(1, count), seconds, scores)
