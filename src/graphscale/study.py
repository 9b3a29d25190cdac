"""The trials of a search, in a database that several processes share.

Who works on a trial holds a lock on a file of its number, which the system lets go where the process ends, however it
ends: a trial that runs in the database and is held by nobody was lost, and is taken up again under its number.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from graphscale import rng
from graphscale.errors import InputError, first_sentence
from graphscale.folder import Lock
from graphscale.search_space import Space
from graphscale.study_config import StudyConfig

COMPLETE, FAILED, PRUNED, RUNNING = TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING
_LOCKS, _SAID = ".locks", "said"
_MAKE: dict[str, Callable[..., BaseSampler]] = {"tpe": TPESampler, "random": RandomSampler}
_WAIT = 60.0  # seconds for a database that another process writes to


class Keyed(BaseSampler):
    """A sampler made anew for every draw, from a seed that follows from the search's and the trial's number.

    So what a trial draws depends on nothing but that and, for TPE, on the trials before it: not on how often the search
    was stopped, nor on who draws.
    """

    def __init__(self, make: Callable[..., BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed

    def _at(self, *key: int) -> BaseSampler:
        return self._make(seed=rng.derive(rng.SEARCH, self._seed, *key) % 2**32)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """What is drawn together: everything, by TPE, once there are trials to learn from."""
        return self._at(trial.number).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:  # fmt: skip
        """The values that are drawn together."""
        return self._at(trial.number).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """A value that is drawn by itself."""
        sampler = self._at(trial.number, zlib.crc32(param_name.encode()))
        return sampler.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class Taken:
    """A trial that this process works on."""

    trial: Trial
    lock: Lock
    again: bool  # it was begun by a process that is gone

    @property
    def number(self) -> int:
        """From 0, in the order in which trials were begun."""
        return self.trial.number


def said_of(trial: FrozenTrial) -> dict[str, Any]:
    """What ``tell`` was told of a trial beside its value."""
    said: dict[str, Any] = trial.user_attrs.get(_SAID, {})
    return said


class Study:
    """A search's trials; those that are taken are held until they are told."""

    def __init__(self, study: optuna.Study, storage: RDBStorage, out: Path, space: Space) -> None:
        self._study, self._storage, self._out, self._space = study, storage, out, space

    def trials(self) -> list[FrozenTrial]:
        """All trials by number."""
        return self._study.get_trials(deepcopy=False)

    def take(self, limit: int) -> Taken | None:
        """A trial that was lost, or else a new one with its settings drawn; None where there are ``limit``."""
        with alone(self._out):
            trials = self.trials()
            for trial in trials:
                if trial.state == RUNNING and (lock := self._held(trial.number)) is not None:
                    if self.trials()[trial.number].state == RUNNING:  # else it was told since, and then let go
                        return self._drawn(self._lost(trial.number), lock, again=True)
                    lock.close()
            if len(trials) >= limit:
                return None
            begun = self._study.ask()
            lock = self._held(begun.number)
            assert lock is not None, "a number is given once"
            return self._drawn(begun, lock, again=False)

    def _drawn(self, trial: Trial, lock: Lock, *, again: bool) -> Taken:
        """What a lost trial had drawn already stays."""
        try:
            for name, values in self._space.items():
                values.suggest(trial, name)
        except BaseException:
            lock.close()
            raise
        return Taken(trial, lock, again)

    def _lost(self, number: int) -> Trial:
        study = self._storage.get_study_id_from_name(self._study.study_name)
        return Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study, number))

    def _held(self, number: int) -> Lock | None:
        """The lock of a trial; None where another process holds it."""
        lock = Lock()
        try:
            lock.take(self._out / _LOCKS, f"trial-{number:04d}")
        except InputError:
            return None
        return lock

    def tell(self, taken: Taken, state: TrialState, value: float | None = None, **said: Any) -> None:
        """End a trial.

        Args:
            state: COMPLETE with a value, FAILED or PRUNED.
            value: larger is better.
            said: what else is to be known of it: numbers, texts, mappings of them.
        """
        taken.trial.set_user_attr(_SAID, said)
        self._study.tell(taken.trial, value, state=state)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """While the block runs, no other process is inside such a block of this folder, which is made if need be.

    Raises:
        InputError: where it holds something else than a search, or cannot be made.
    """
    locks = out / _LOCKS
    try:
        holds = list(out.iterdir()) if out.exists() else []
        if holds and not locks.is_dir():  # asked in this order: another process may just be making them
            raise InputError(f"{out} is in use by something else than a search. Give another --out.")
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {out} cannot be made ({error}). Give another --out.") from error
    with closing(Lock()) as lock:
        lock.take(locks, "study", wait=True)
        yield


@contextmanager
def opened(out: Path, space: Space, how: StudyConfig, *, seed: int, warmup: int, fresh: bool) -> Iterator[Study]:
    """The study of a folder, while the block runs; to be entered ``alone``.

    Args:
        out: its folder.
        seed: of all that is drawn.
        warmup: epoch from which on trials are pruned.
        fresh: the study must not be there yet.

    Raises:
        InputError: where its database cannot be opened, or another search of the same name lies in it.
    """
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every study and trial
    url = how.storage or f"sqlite:///{out / 'study.db'}"
    pruner = optuna.pruners.MedianPruner(n_warmup_steps=warmup) if how.prune else optuna.pruners.NopPruner()
    storage: RDBStorage | None = None
    try:
        storage = _storage(url)
        study = optuna.create_study(
            storage=storage,
            study_name=out.resolve().name if how.storage else "search",  # a folder may be moved
            sampler=Keyed(_MAKE[how.sampler], seed),
            pruner=pruner,
            direction="maximize",
            load_if_exists=not fresh,
        )
        yield Study(study, storage, out, space)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise InputError(f"{url} holds a search called {out.name}. Give an --out with another name.") from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        optuna.logging.set_verbosity(said)


def _storage(url: str) -> RDBStorage:
    try:
        return RDBStorage(url, {"connect_args": {"timeout": _WAIT}} if url.startswith("sqlite") else None)
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the trials' database {url} cannot be opened ({first_sentence(error)}). Check --storage, or give another"
            " --out."
        ) from error
