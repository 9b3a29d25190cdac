"""A search over a recipe's settings by the score on validation.

A search is a folder: ``study.toml`` (what is searched), ``study.db`` (the trials; optuna's), ``trial-0007`` (an
ordinary run's folder), ``best.toml`` (the configuration of the best trial so far, for ``--config``), ``result.json``.
Scores of the test decide nothing, and are told of the chosen trial alone.
"""

from __future__ import annotations

import math
import time
import tomllib
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import tomli_w
import torch

from graphscale import checkpoint, folder, session
from graphscale.config import CONTINUES, TrainConfig, checked, plain
from graphscale.console import Console
from graphscale.errors import DivergenceError, InputError
from graphscale.interrupt import Interrupted
from graphscale.loop import Record
from graphscale.metrics import LOWER_IS_BETTER
from graphscale.places import default_out
from graphscale.run import Run
from graphscale.search_space import Space, demand_accepted, parse, texts
from graphscale.settings import demand_applied, recipe_of
from graphscale.study import COMPLETE, FAILED, PRUNED, Study, Taken, alone, opened
from graphscale.study_config import CONTINUES as STUDY_CONTINUES
from graphscale.study_config import StudyConfig
from graphscale.study_result import best_of, demand_hope, result_of, row_of
from graphscale.world import launched

_FILE = "study.toml"
# What may differ between a search and its continuation: nothing that a trial's score depends on.
_FREE = ({*CONTINUES} - {"epochs", "patience"}) | {f"study.{name}" for name in STUDY_CONTINUES}


def tune(
    recipe: str,
    config: TrainConfig,
    search: Mapping[str, Any] | None = None,
    *,
    console: Console | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Search over settings of a recipe, and return what ``result.json`` of the search holds.

    The same call goes on with a search that was stopped. Several processes may make it at once.

    Args:
        recipe: such as ``cluster_gcn``.
        config: the settings that are not searched; ``out`` is the folder of the search.
        search: by setting: a text such as ``1e-4..1e-1:log`` or ``64,128``, or a list of values; by default the
            recipe's ``SEARCH``.
        console: where progress goes; silent by default.
        how: ``trials``, ``seconds``, ``sampler`` and the other fields of ``StudyConfig``.

    Raises:
        InputError: on anything a user can mend, before the first trial; and where no trial gives a score.
        Interrupted: on Ctrl-C; the trial in progress is saved.

    Example:
        >>> config = configure("cluster_gcn", data="digits", out=Path("studies/digits"))  # doctest: +SKIP
        >>> tune("cluster_gcn", config, {"lr": "1e-3..1e-1:log", "hidden": [64, 128]}, trials=10)  # doctest: +SKIP
    """
    study = StudyConfig(**checked(StudyConfig, how, "tune"))
    demand_applied(recipe, config)
    _demand_alone(config)
    module = recipe_of(recipe)
    space = parse(module.Config, search or getattr(module, "SEARCH", {}))
    demand_accepted(config, space)
    out = config.out or default_out(f"tune-{recipe}", config.data)
    if config.resume and not (out / _FILE).is_file():
        raise InputError(f"{out} holds no search to resume. Give its folder with --out, or leave --resume out.")
    console = Console(quiet=True) if console is None else console
    console.say(f"search in {out}: {study.sampler} over " + ", ".join(f"{k} = {v}" for k, v in texts(space).items()))
    with ExitStack() as stack:
        with alone(out):  # two processes would both find it new, and make the same tables
            fresh = _began(out / _FILE, recipe, config, space, study)
            warmup = 1 + config.epochs // 4
            trials = stack.enter_context(opened(out, space, study, seed=config.seed, warmup=warmup, fresh=fresh))
        return _Search(recipe, config, study, space, out, trials, console).run()


def _demand_alone(config: TrainConfig) -> None:
    """Refuse what belongs to a single run."""
    if config.nproc > 1 or config.restarts or launched() is not None:
        raise InputError(
            "every trial of a search trains in one process. Leave --nproc, --restarts and torchrun out; to use several"
            " processes, give the same command as often: they share the trials."
        )
    if config.seeds > 1:
        raise InputError(
            f"--seeds {config.seeds}: a search has its own. Give --seeds-per-trial {config.seeds} instead."
        )
    if config.overwrite:
        raise InputError("--overwrite: a search goes on with what is in its folder. Delete it, or give another --out.")


def _began(file: Path, recipe: str, config: TrainConfig, space: Space, study: StudyConfig) -> bool:
    """Write down what is searched, or find it written; whether the search is new.

    Raises:
        InputError: where it began otherwise.
    """
    now = _set({"recipe": recipe, **plain(config), "search": texts(space), "study": asdict(study)})
    fresh = not file.is_file()
    if not fresh:
        try:
            was, new = _flat(tomllib.loads(file.read_text(encoding="utf-8"))), _flat(now)
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be used ({error}). Give another --out.") from error
        changed = sorted(n for n in was.keys() | new.keys() if n not in _FREE and was.get(n) != new.get(n))
        if changed:
            raise InputError(
                f"{file.parent} holds a search with {', '.join(f'{name} = {was.get(name)}' for name in changed)}; it"
                " must go on as it began. Give the same settings, --resume alone with --out, or another --out."
            )
    checkpoint.write_aside(file, tomli_w.dumps(now).encode())
    return fresh


def _set(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is set: TOML has no word for nothing."""
    return {k: _set(v) if isinstance(v, Mapping) else v for k, v in settings.items() if v is not None}


def _flat(settings: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {inside + name: value}
    return flat


@dataclass(frozen=True)
class _Search:
    """This process's part of a search."""

    recipe: str
    config: TrainConfig
    how: StudyConfig
    space: Space
    out: Path
    study: Study
    console: Console

    def run(self) -> dict[str, Any]:
        """Trials until the budget is used up; then the result."""
        began = time.monotonic()
        try:
            while (taken := self.study.take(self.how.trials)) is not None:
                with closing(taken.lock):
                    self._one(taken)
                self._kept(taken.number)
                if self.how.seconds is not None and time.monotonic() - began >= self.how.seconds:
                    break
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: the trials are saved in {self.out}. {self._again()}") from None
        with alone(self.out):
            trials = self.study.trials()
            result = result_of(trials, self.recipe, self.config, self.how, texts(self.space), self.out)
            folder.write_result(self.out / "result.json", result)
        self.console.searched(result, self.out)
        return result

    def _again(self) -> str:
        return f"Go on with: graphscale tune {self.recipe} --resume --out {self.out}"

    def _one(self, taken: Taken) -> None:
        """Train with a trial's settings, and tell how it ended."""
        place, params = self.out / f"trial-{taken.number:04d}", taken.trial.params
        if not taken.again:
            folder.demand_free(place, overwrite=False)
        began = time.monotonic()
        self.console.trial_begins(taken.number, params, again=taken.again)
        try:
            again = taken.again and (place / "config.toml").is_file()
            config = replace(self._config(params), out=place, resume=again)
            result = session.train(self.recipe, config, watch=self._watch(taken) if self.how.prune else None)
            monitor, val = str(result["monitor"]), (result.get("mean") or result)["val"]
            if math.isnan(val[monitor]):
                raise DivergenceError(f"the validation {monitor} is undefined")
        except InputError as error:
            state, value, said = PRUNED, None, {"reason": str(error), "refused": True}
        except optuna.TrialPruned as error:
            state, value, said = PRUNED, None, {"reason": str(error)}
        except (DivergenceError, torch.OutOfMemoryError) as error:
            state, value, said = FAILED, None, {"reason": str(error)}
        else:
            state, value = COMPLETE, _larger_is_better(monitor, val[monitor])
            said = {"monitor": monitor, "val": {k: v for k, v in val.items() if math.isfinite(v)}}
        self.study.tell(taken, state, value, **said, seconds=round(time.monotonic() - began, 3))

    def _config(self, params: Mapping[str, Any]) -> TrainConfig:
        return replace(self.config, **params, seeds=self.how.seeds_per_trial, resume=False, json=False)

    def _watch(self, taken: Taken) -> session.Watch:
        """Reports the first seed's scores, and ends a trial that the pruner gives up."""
        known = set(self.study.trials()[taken.number].intermediate_values)  # of a trial that was lost

        def watch(run: Run, seed: int, record: Record) -> None:
            if seed != self.config.seed or record.scores is None:
                return
            score = record.scores["val"][run.monitor]
            if record.epoch not in known and not math.isnan(score):
                taken.trial.report(_larger_is_better(run.monitor, score), record.epoch)
            if taken.trial.should_prune():
                raise optuna.TrialPruned(f"below the median of other trials at epoch {record.epoch}")

        return watch

    def _kept(self, number: int) -> None:
        """After a trial: keep the best configuration so far, and say where the search stands."""
        with alone(self.out):
            trials = self.study.trials()
            best = best_of(trials)
            if best is not None:
                settings = {**plain(self._config(best.params)), "nproc": 1}
                folder.write_config(self.out / "best.toml", self.recipe, settings)
        self.console.trial_ends(row_of(trials[number]), None if best is None else row_of(best))
        demand_hope(trials, self.how.trials)


def _larger_is_better(monitor: str, score: float) -> float:
    return -score if monitor in LOWER_IS_BETTER else score
