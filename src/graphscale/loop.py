"""The only loop in the house: sample, fetch, loss, backward, reduce, step, commit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from graphscale import scratch
from graphscale.batch import Batch
from graphscale.batches.aboard import aboard
from graphscale.batches.ahead import announced
from graphscale.errors import DivergenceError
from graphscale.metrics import better
from graphscale.profile.clock import OFF, Clock
from graphscale.run import Run, Scores
from graphscale.step import ROWS, Outcome, Params, Slot, Write
from graphscale.table import Parted, Table
from graphscale.world import World


def fetch(tables: Mapping[str, Table], needs: Mapping[str, Tensor]) -> Params:
    """The rows that a batch needs, as ``rows.<table>`` or ``rows.<table>.<part>``; a learning table's are leaves."""
    rows: Params = {}
    for name in sorted(needs):
        table = tables[name]
        if isinstance(table, Parted):
            rows |= {f"{ROWS}{name}.{part}": value for part, value in table.parts(needs[name]).items()}
        else:
            rows[ROWS + name] = table.read(needs[name]).requires_grad_(table.learns)
    return rows


def prefetch(tables: Mapping[str, Table], needs: Mapping[str, Tensor]) -> None:
    """Announce what the next batch needs."""
    for name in sorted(needs):
        tables[name].prefetch(needs[name])


def commit(tables: Mapping[str, Table], writes: Mapping[str, Write]) -> None:
    """Apply the writes of a step, table by table in the order of names: writing is collective."""
    for name in sorted(tables):
        table = tables[name]
        table.write(*writes.get(name, Write(torch.empty(0, dtype=torch.int64), torch.empty(0, table.dim))))


def train_step(run: Run, batch: Batch, step: int, clock: Clock = OFF) -> tuple[float, int]:
    """One step of every slot on one batch; returns (loss sum, count) of this rank, over slots."""
    loss, count = 0.0, 0
    for slot in run.sync.slots():
        with clock.stage("step"):
            slot.optimiser.zero_grad(set_to_none=True)
        with clock.stage("fetch"):
            rows = fetch(run.tables, batch.needs)
        with clock.stage("forward"):
            outcome = None if batch.padding else slot.objective({**slot.params(), **rows}, batch)
        learns = 0 if outcome is None else outcome.count
        if outcome is not None and (learns or outcome.taps):  # compensated rows bring gradients of other batches
            with clock.stage("backward"):
                outcome.loss_sum.backward()
            loss, count = loss + float(outcome.loss_sum.detach()), count + outcome.count
            learns = max(learns, 1)
        with clock.stage("reduce"):
            total = run.sync.reduce(slot, learns)
        with clock.stage("step"):
            if total > 0:  # without any label there is no gradient: momentum and decay alone must not move weights
                slot.optimiser.step()
        with clock.stage("commit"):
            _commit(run, slot, batch, rows, outcome, total)
    with clock.stage("reduce"):
        run.sync.finish(step)
    return loss, count


def _commit(run: Run, slot: Slot, batch: Batch, rows: Params, outcome: Outcome | None, total: int) -> None:
    writes = dict(outcome.writes) if outcome is not None else {}
    for name, taps in outcome.taps.items() if outcome is not None else ():
        writes[name] = taps.gradients()
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

    epoch: int  # from 1
    loss: float
    seconds: float
    scores: Scores | None = None
    measures: Mapping[str, float] = field(default_factory=dict)  # of the run's tables


@dataclass
class Log:
    """What a fit has seen so far: everything but weights that a resumed run depends on."""

    epochs: int = 0  # completed
    steps: int = 0
    batches: int = 0  # of the epoch in progress, done by this rank
    loss: float = 0.0  # sum over the epoch in progress, this rank's
    count: int = 0
    epoch_seconds: float = 0.0
    best_epoch: int = 0  # from 1; 0 before the first evaluation
    best: Scores = field(default_factory=dict)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    best_shards: str = ""  # the folder of its weights, where no rank holds them all
    best_tables: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # those that are part of the model
    final: Scores = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)  # of the last epoch that has them all
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0

    def improves(self, monitor: str, scores: Scores) -> bool:
        """Whether validation got better; between equal scores the lower log loss decides."""
        if not self.best:
            return True
        new, old = scores["val"], self.best["val"]
        if new[monitor] == old[monitor] and "logloss" in new:
            return better("logloss", new["logloss"], old["logloss"])
        return better(monitor, new[monitor], old[monitor])

    def state_dict(self, world: World) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint; collective, since each rank has its share of an epoch."""
        shares = world.gather(torch.tensor([[self.loss, self.count]], dtype=torch.float64))  # [size, 2]
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "shares": shares}

    @staticmethod
    def from_state(state: Mapping[str, Any], world: World, *, elastic: bool = False) -> Log:
        """The reverse of ``state_dict``.

        Args:
            elastic: another number of ranks may go on: what they did in sum is then the first one's.

        Raises:
            ValueError: where the state is of another number of ranks, and may not be.
        """
        values = dict(state)
        shares = values.pop("shares")
        if len(shares) != world.size:
            if not elastic:
                raise ValueError(f"it was written by {len(shares)} processes, and these are {world.size}")
            shares = torch.cat([shares.sum(0, keepdim=True), torch.zeros(world.size - 1, 2, dtype=shares.dtype)])
        loss, count = shares[world.rank].tolist()
        return Log(**{**values, "loss": loss, "count": int(count)})


def fit(
    run: Run,
    *,
    epochs: int,
    eval_every: int = 1,
    patience: int | None = None,
    log: Log | None = None,
    on_step: Callable[[Log], Any] | None = None,
    on_epoch: Callable[[Log, Record], Any] | None = None,
    clock: Clock = OFF,
) -> Log:
    """Train, score on validation, remember the best epoch.

    Args:
        epochs: in all; those that ``log`` holds already count.
        eval_every: epochs between two evaluations; the last epoch is always evaluated.
        patience: stop after this many epochs without a better validation score.
        log: to continue from, in the middle of an epoch too.
        on_step: called after every step; what it raises ends the run there.
        on_epoch: called after every epoch, with the log and the epoch's record.
        clock: is told of every stage.

    Raises:
        DivergenceError: at the end of an epoch whose loss or scores are not finite.
    """
    log = log or Log()
    while log.epochs < epochs and not _out_of_patience(log, patience, eval_every):
        epoch = log.epochs
        _steps(run, log, epoch, on_step, clock)
        evaluate = (epoch + 1) % eval_every == 0 or epoch == epochs - 1
        record = _close(run, log, epoch, clock, evaluate=evaluate)
        if on_epoch is not None:
            on_epoch(log, record)
    if log.epochs and not log.final:  # continued to where it stood already, and never scored
        if run.ends is not None:
            run.ends(True)
        _score(run, log, log.epochs - 1, clock)
    return log


def _out_of_patience(log: Log, patience: int | None, eval_every: int) -> bool:
    if patience is None or not log.best or log.epochs % eval_every:
        return False
    return log.epochs - log.best_epoch >= patience


def _steps(run: Run, log: Log, epoch: int, on_step: Callable[[Log], Any] | None, clock: Clock) -> None:
    """The rest of an epoch's steps."""
    if run.begins is not None and log.batches == 0:
        run.begins()
    run.model.train()
    clock.begins(epoch + 1)
    began = time.perf_counter()
    batches = aboard(clock.made(run.batches.epoch(epoch, log.batches)), run.device, run.prefetch)
    if run.tables and run.prefetch:
        batches = announced(batches, lambda batch: prefetch(run.tables, batch.needs))
    for batch in clock.waited(batches):
        with clock.stage("fetch"):
            batch = batch.to(run.device)
        loss, count = train_step(run, batch, log.steps, clock)
        now = time.perf_counter()
        log.loss, log.count = log.loss + loss, log.count + count
        log.batches, log.steps = log.batches + 1, log.steps + 1
        log.epoch_seconds += now - began
        clock.done(now - began)
        if on_step is not None:
            on_step(log)
        began = time.perf_counter()  # what a checkpoint takes is not training


def _close(run: Run, log: Log, epoch: int, clock: Clock, *, evaluate: bool) -> Record:
    """End an epoch: its mean loss over all ranks, its scores, the best weights so far."""
    loss, count = run.world.totals(log.loss, log.count)
    seconds = log.epoch_seconds
    log.epochs, log.train_seconds = epoch + 1, log.train_seconds + seconds
    log.batches, log.loss, log.count, log.epoch_seconds = 0, 0.0, 0, 0.0
    _demand_finite(loss, epoch, log)
    measures: Mapping[str, float] = {}
    if run.ends is not None:
        began = time.perf_counter()
        with clock.stage("evaluate"):
            measures = run.ends(evaluate)
        log.evaluate_seconds += time.perf_counter() - began
    scores = None
    if evaluate:
        log.measures = dict(measures)
        scores = _score(run, log, epoch, clock)
    return Record(epoch + 1, loss / max(1.0, count), seconds, scores, measures)


def _score(run: Run, log: Log, epoch: int, clock: Clock) -> Scores:
    """Score the model as it is; the weights are kept where they are the best so far."""
    began = time.perf_counter()
    with clock.stage("evaluate"):
        scores = run.world.share(run.evaluate() if run.world.leads else {})
    _demand_finite(scores["val"].get("logloss", 0.0), epoch, log)
    log.final = scores
    if log.improves(run.monitor, scores):
        log.best_epoch, log.best = epoch + 1, scores
        state = run.model.state_dict()  # on meta where no rank holds the whole model: its shards are saved next
        log.best_shards = ""
        log.best_state = {name: value.detach().clone() for name, value in state.items() if not value.is_meta}
        log.best_tables = {
            name: {part: scratch.copied(value) for part, value in table.state_dict().items()}
            for name, table in run.tables.items()
            if isinstance(table, Parted)
        }
    log.evaluate_seconds += time.perf_counter() - began
    return scores


def _demand_finite(value: float, epoch: int, log: Log) -> None:
    if not math.isfinite(value):
        best = f"the best weights are of epoch {log.best_epoch}" if log.best_epoch else "no epoch was scored"
        raise DivergenceError(
            f"training diverged in epoch {epoch + 1}: its loss is {value}; {best}. Lower --lr, set --clip 1,"
            " or scale the features (--scaling standard)."
        )
