"""Advice on the size of batches for a network over a stream, from what can be measured before it is trained.

Larger batches are faster, and lose what happens inside them: more ends are pending, and the memory's coherence mu
(``stream_coherence``) falls. The bound of PRES's theorem 2 on the gradient has a term sqrt(K) / mu^2, K batches an
epoch; its other term, sqrt(K) times a variance, is not measured. The paper's mu is a minimum; what 19 of 20 events
reach stands for it here, and 1 at the most, which events without a pending one have. The largest batch is advised at
which the pending share and this mu keep to a threshold each, the library's choice, and sqrt(K) / mu^2 is no larger
than at the smallest one.

The work is bounded: one pass of at most ``TRAINED`` events in the smallest batches, then at most ``LARGEST`` events
once more, one size after the other on the same memory and the same sample of events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from graphscale import heap, stream_runs, stream_views
from graphscale.batches.schedule import by_count
from graphscale.batches.stream import MEMORY, StreamBatches
from graphscale.errors import DivergenceError, InputError
from graphscale.loop import train_step
from graphscale.nn.temporal import TemporalNet
from graphscale.run import Run
from graphscale.stream_monitors import pending_share
from graphscale.tables.memory import Memory

if TYPE_CHECKING:
    from rich.table import Table

    from graphscale.recipes.pres import PRESConfig
    from graphscale.stream_coherence import Coherence
    from graphscale.stream_views import StreamViews

SMALLEST, LARGEST, TRAINED = 50, 12_800, 20_000  # events
PENDING, COHERENT = 0.75, 0.5  # the most ends that may be pending, the least that mu_low may be


@dataclass(frozen=True)
class Rung:
    """What is known of one size of batches."""

    batch_size: int
    batches: int  # an epoch
    pending: float  # share of ends with an earlier event of theirs in the batch
    events_a_node: float  # of a node that has any, in a batch
    mu: float  # weighted mean
    mu_low: float  # what 19 of 20 sampled events reach
    mu_least: float
    bound: float  # sqrt(K) / mu_low^2, over the smallest batch's; infinite where that is not above 0


@dataclass(frozen=True)
class Advice:
    """A ladder of sizes, and the one to begin with."""

    data: str
    seed: int
    trained: int  # events
    measured: int
    rungs: tuple[Rung, ...]
    batch_size: int
    reason: str

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "recipe": "pres", "thresholds": {"pending": PENDING, "mu_low": COHERENT}}


def ladder(count: int) -> list[int]:
    """50, 100, 200, ... up to 12,800 or a tenth of the events; the first in any case.

    Raises:
        InputError: where there are too few events to train on some and measure on others.
    """
    if count < 4 * SMALLEST:
        raise InputError(f"{count} events to train on are too few for advice. Give {4 * SMALLEST} or more.")
    top = min(LARGEST, count // 10)
    return [SMALLEST, *(s for k in range(1, 9) if (s := SMALLEST << k) <= top)]


def advise(config: PRESConfig) -> Advice:
    """Train briefly in small batches, measure every size on the memory that this leaves, and choose one.

    Args:
        config: as for training; the size of its batches, its epochs and where it lies are left out of account.

    Raises:
        InputError: where there is no memory or no number of events to choose, or too few events.
        DivergenceError: where the brief training's loss is not finite.
    """
    if config.model == "tgat":
        raise InputError("tgat has no memory: the size of its batches loses nothing. Choose it by speed.")
    if config.cut != "count":
        raise InputError(f"--cut {config.cut} has no number of events to choose. Leave it out.")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    heap.keep_freed()
    views = stream_views.read(config)
    sizes = ladder(views.numbers.numel())
    config = replace(config, batch_size=sizes[0], mu_every=0)
    run = stream_runs.build(config, views, config.seed)
    table = run.tables[MEMORY]
    assert isinstance(table, Memory) and isinstance(run.model, TemporalNet)
    trained, measured = views.numbers[: -sizes[-1]][-TRAINED:], views.numbers[-sizes[-1] :]
    _train(run, trained, sizes[0], config.seed)
    probe = stream_runs.coherence_probe(config, views, run.model, table, run.device, config.seed)
    rungs = _rungs(views, probe(measured, sizes), sizes)
    size, reason = chosen(rungs)
    return Advice(config.data, config.seed, trained.numel(), measured.numel(), rungs, size, reason)


def _train(run: Run, numbers: torch.Tensor, size: int, seed: int) -> None:
    """One pass, from an empty memory."""
    made: Any = run.batches  # StreamBatches, of all events of training
    batches = StreamBatches(made.sampler, numbers, by_count(numbers.numel(), size), made.negatives, seed=seed)
    run.model.train()
    for step, batch in enumerate(batches.epoch(0)):
        loss, _ = train_step(run, batch.to(run.device), step)  # type: ignore[arg-type]
        if not math.isfinite(loss):
            raise DivergenceError(f"the training before the measurement diverged in step {step + 1}. Lower --lr.")


def _rungs(views: StreamViews, found: dict[int, Coherence], sizes: Sequence[int]) -> tuple[Rung, ...]:
    rungs: list[Rung] = []
    for size in sizes:
        starts, mu = by_count(views.numbers.numel(), size), found[size]
        batches = starts.numel() - 1
        pending = pending_share(views.events, views.numbers, starts)
        bound = math.sqrt(batches) / min(1.0, mu.low) ** 2 if mu.low > 0 else math.inf
        rungs.append(Rung(size, batches, pending, 1 / (1 - pending), mu.mu, mu.low, mu.least, bound))
    first = rungs[0].bound
    return tuple(replace(r, bound=r.bound / first if first < math.inf else math.inf) for r in rungs)


def chosen(rungs: Sequence[Rung]) -> tuple[int, str]:
    """(A size, why): the largest that keeps to all three; the smallest where none does."""
    fine = [r for r in rungs if r.pending <= PENDING and r.mu_low >= COHERENT and r.bound <= 1]
    thresholds = f"at most {PENDING:.0%} of the ends pending and a low mu of at least {COHERENT:g}"
    if not fine:
        return rungs[0].batch_size, f"no size has {thresholds}: begin with the smallest, and compare others with it"
    best = fine[-1]
    above = [r for r in rungs if r.batch_size > best.batch_size]
    reason = f"the largest with {thresholds}, and a bound no larger than at {rungs[0].batch_size}"
    if above:
        reason += f"; at {above[0].batch_size:,} {_breach(above[0])}"
    return best.batch_size, reason


def _breach(rung: Rung) -> str:
    if rung.pending > PENDING:
        return f"{rung.pending:.0%} of the ends are pending"
    return f"low mu is {rung.mu_low:.2f}" if rung.mu_low < COHERENT else f"the bound is {rung.bound:.2f}"


def table_of(advice: Advice) -> Table:
    """A row a size."""
    from rich.table import Table

    table = Table()
    heads = ("batch size", "batches", "pending", "events a node", "mu", "low mu", "least mu", "bound")
    for head in heads:
        table.add_column(head, justify="right")
    for r in advice.rungs:
        table.add_row(
            f"{r.batch_size:,}", f"{r.batches:,}", f"{r.pending:.1%}", f"{r.events_a_node:.2f}", f"{r.mu:.3f}",
            f"{r.mu_low:.3f}", f"{r.mu_least:.3f}", f"{r.bound:.2f}",
            style="bold" if r.batch_size == advice.batch_size else None,
        )  # fmt: skip
    return table


def legend(advice: Advice) -> str:
    """What the columns are."""
    return (
        "batches: an epoch's. pending: ends with an earlier event of theirs in the batch. events a node: of one that"
        " has any, in a batch. mu, low, least: mean, 5th percentile and minimum over events with a pending one,"
        f" measured on {advice.measured:,} events after training on {advice.trained:,}, seed {advice.seed}."
        " bound: theorem 2's sqrt(batches) / low mu^2, over the first row's."
    )
