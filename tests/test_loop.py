"""What a log remembers, and where a fit ends."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from graphs import random_graph
from torch import nn

from graphscale.batches.full import FullBatch
from graphscale.errors import DivergenceError
from graphscale.loop import Log, fit
from graphscale.run import Run
from graphscale.step import Outcome
from graphscale.sync.replicas import Replicas


def scored(accuracy, logloss):
    return {"val": {"accuracy": accuracy, "logloss": logloss}, "test": {"accuracy": 0.0, "logloss": 0.0}}


@pytest.mark.parametrize(
    ("monitor", "new", "better"),
    [
        ("accuracy", (0.6, 9.0), True),
        ("accuracy", (0.4, 0.1), False),
        ("accuracy", (0.5, 0.6), True),  # a tie: the lower log loss
        ("accuracy", (0.5, 0.7), False),  # the same in both: the earlier epoch
        ("accuracy", (0.5, 0.8), False),
        ("logloss", (0.1, 0.6), True),
        ("logloss", (0.9, 0.8), False),
        ("accuracy", (math.nan, 0.1), False),
    ],
)
def test_what_improves(monitor, new, better):
    assert Log(best=scored(0.5, 0.7)).improves(monitor, scored(*new)) is better


def test_the_first_scores_are_the_best_so_far():
    assert Log().improves("accuracy", scored(0.0, 9.0))


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))


def run_of(losses, scores=()):
    """A run whose k-th step has the k-th loss, and whose k-th evaluation gives the k-th scores."""
    model, left, told = Weight(), iter(losses), iter(scores)
    return Run(
        model=model,
        batches=FullBatch(random_graph(12)),
        sync=Replicas(
            model, torch.optim.SGD(model.parameters(), lr=0.0), lambda p, b: Outcome(p["w"].sum() + next(left), 2)
        ),
        evaluate=lambda: next(told, scored(0.5, 0.7)),
        metrics=("accuracy", "logloss"),
        monitor="accuracy",
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_fit_there(bad):
    records = []
    with pytest.raises(DivergenceError, match=r"diverged in epoch 3: .*best weights are of epoch 1\. Lower --lr"):
        fit(run_of([1.0, 1.0, bad, 1.0]), epochs=4, on_epoch=lambda log, record: records.append(record))
    assert [(record.epoch, record.loss) for record in records] == [(1, 0.5), (2, 0.5)]


def test_scores_that_are_not_finite_end_the_fit_too():
    log = Log()
    with pytest.raises(DivergenceError, match="epoch 1.*no epoch was scored"):
        fit(run_of([1.0], [scored(math.nan, math.nan)]), epochs=1, log=log)
    assert log.best_epoch == 0 and not log.final


def test_patience_counts_epochs_since_the_best():
    scores = [scored(a, 0.7) for a in (0.1, 0.3, 0.2, 0.2, 0.2, 0.2)]
    log = fit(run_of([1.0] * 9, scores), epochs=9, patience=2)
    assert (log.best_epoch, log.epochs) == (2, 4)


def test_epochs_that_are_done_are_not_done_again():
    log = fit(run_of([1.0] * 5), epochs=3)
    seen = []
    fit(run_of([1.0] * 5), epochs=5, log=log, on_epoch=lambda log, record: seen.append(record.epoch))
    assert seen == [4, 5]


def test_a_state_of_other_ranks_is_refused():
    from graphscale.world import World

    state = Log(loss=2.0, count=3).state_dict(World())
    assert Log.from_state(state, World()).count == 3
    with pytest.raises(ValueError, match="written by 1 processes, and these are 2"):
        Log.from_state(state, replace(World(), rank=0, size=2))
