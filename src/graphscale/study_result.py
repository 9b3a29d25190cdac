"""What came out of a search: the chosen trial, and the account of all."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from graphscale import probe
from graphscale.config import TrainConfig, plain
from graphscale.errors import InputError
from graphscale.study import COMPLETE, FAILED, PRUNED, RUNNING, said_of
from graphscale.study_config import StudyConfig

STATES = {COMPLETE: "complete", FAILED: "failed", PRUNED: "pruned", RUNNING: "running"}
_HOPELESS = 10  # trials that are all refused for one reason: it is not a matter of the settings that are drawn


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The trial of the best validation score; between equal ones the lower log loss decides, then the earlier trial."""

    def order(trial: FrozenTrial) -> tuple[float, float, int]:
        assert trial.value is not None
        return trial.value, -said_of(trial)["val"].get("logloss", math.inf), -trial.number

    return max((trial for trial in trials if trial.state == COMPLETE), key=order, default=None)


def demand_hope(trials: Sequence[FrozenTrial], limit: int) -> None:
    """Let a search go on, unless all that it has tried was refused alike, or its trials are used up without a score.

    Args:
        limit: trials in all.

    Raises:
        InputError: with the trials' own reasons.
    """
    ended = [trial for trial in trials if trial.state != RUNNING]
    if any(trial.state == COMPLETE for trial in ended):
        return
    reasons = Counter(str(said_of(trial).get("reason")) for trial in ended)
    refused = all(said_of(trial).get("refused") for trial in ended)
    if len(ended) >= min(limit, _HOPELESS) and refused and len(reasons) == 1:
        raise InputError(f"{reasons.popitem()[0]} (All {len(ended)} trials were refused so.)")
    if len(ended) >= limit:
        said = "; ".join(f"{count} of them: {reason}" for reason, count in reasons.most_common(3))
        raise InputError(f"no trial of {len(ended)} gave a score. {said} Search elsewhere, in another --out.")


def result_of(
    trials: Sequence[FrozenTrial],
    recipe: str,
    config: TrainConfig,
    how: StudyConfig,
    space: Mapping[str, str],
    out: Path,
) -> dict[str, Any]:
    """What ``result.json`` holds: the budget and what was spent, the chosen trial with its test, all others without."""
    count = Counter(STATES[trial.state] for trial in trials)
    seconds = sum(said_of(trial).get("seconds", 0.0) for trial in trials)
    best = best_of(trials)
    return {
        "recipe": recipe,
        "data": config.data,
        "search": dict(space),
        "sampler": how.sampler,
        "prune": how.prune,
        "seeds_per_trial": how.seeds_per_trial,
        "seed": config.seed,
        "budget": {"trials": how.trials, "seconds": how.seconds},
        "spent": {"trials": len(trials), "seconds": round(seconds, 3), **{s: count[s] for s in STATES.values()}},
        "best": None if best is None else {**row_of(best), **_chosen(out / _folder(best))},
        "trials": [row_of(trial) for trial in trials],
        "config": plain(config),
        "versions": {**probe.versions(), "optuna": optuna.__version__},
        "commit": probe.commit(),
    }


def _folder(trial: FrozenTrial) -> str:
    return f"trial-{trial.number:04d}"


def row_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as files and people are told of it."""
    said = said_of(trial)
    row = {
        "trial": trial.number,
        "folder": _folder(trial),
        "state": STATES[trial.state],
        "params": dict(trial.params),
        "monitor": said.get("monitor"),
        "score": said["val"][said["monitor"]] if trial.state == COMPLETE else None,  # on validation
        "seconds": said.get("seconds"),
    }
    return row | ({"reason": said["reason"]} if "reason" in said else {})


def _chosen(place: Path) -> dict[str, Any]:
    """The scores of the chosen trial, from its folder: the only place where a search reads those of the test."""
    try:
        result = json.loads((place / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # somebody has tidied up; best.toml gives it again
        return {}
    if "mean" in result:
        return {name: _numbers(result[name]) for name in ("mean", "std")}
    return {"best_epoch": result["best_epoch"], **{name: _numbers(result[name]) for name in ("val", "test")}}


def _numbers(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores as they were before JSON, which has no NaN."""
    return {k: _numbers(v) if isinstance(v, Mapping) else math.nan if v is None else v for k, v in scores.items()}
