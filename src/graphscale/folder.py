"""A run is a folder: what was asked, what happened, what came out.

``config.toml`` (feed it back with ``--config``), ``metrics.jsonl`` (a line an epoch), TensorBoard
events, ``checkpoints/`` (``best.pt`` and the last ``keep``), ``result.json``.
"""

from __future__ import annotations

import json
import math
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import tomli_w
from torch.utils.tensorboard import SummaryWriter

from graphscale import checkpoint
from graphscale.errors import InputError, first_sentence
from graphscale.loop import Log, Record
from graphscale.run import Run
from graphscale.step import Sharded

_LOCK = ".lock"


def demand_free(path: Path, *, overwrite: bool) -> None:
    """Let ``path`` be claimed, or refuse it.

    Raises:
        InputError: where it holds something and ``overwrite`` is not set, or holds no run at all.
    """
    if not path.exists() or (path.is_dir() and all(inside.name == _LOCK for inside in path.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{path} is in use. Give another --out, or --overwrite to replace the run in it.")
    if not _is_run(path):
        raise InputError(f"{path} is not a run's folder; it is not replaced. Give another --out.")


def _is_run(path: Path) -> bool:
    """Whether the folder's ``config.toml`` names a recipe: other programs write files of that name too."""
    try:
        return "recipe" in tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def claim(path: Path, lock: Lock, *, overwrite: bool) -> None:
    """Make an empty folder of ``path``, and hold it.

    Raises:
        InputError: where ``demand_free`` refuses, another process trains there, or the folder cannot be made.
    """
    demand_free(path, overwrite=overwrite)
    try:
        if _is_run(path):
            lock.take(path)
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        lock.take(path)
    except OSError as error:
        raise InputError(f"the folder {path} cannot be made ({error}). Give another --out.") from error


class Lock:
    """Keeps other processes from writing into a run's folder, until it is released or this process ends."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def take(self, path: Path, name: str = _LOCK, *, wait: bool = False) -> None:
        """Hold ``path``, which must exist, and nothing else.

        Args:
            name: of the file in ``path`` that is held.
            wait: for another process that holds it.

        Raises:
            InputError: where another process holds it.
        """
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            return
        self.close()
        file = open(path / name, "wb")  # noqa: SIM115 - open as long as it is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise InputError(
                f"another process is training in {path}. Wait for it or end it; or give another --out."
            ) from error
        self._file = file

    def close(self) -> None:
        """Let others in."""
        if self._file is not None:
            self._file.close()
            self._file = None


def dumps(value: Any, **options: Any) -> str:
    """JSON text; numbers that JSON cannot hold (NaN, infinity) become null."""
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_config(path: Path, recipe: str, settings: Mapping[str, Any]) -> None:
    """The resolved settings as TOML; what is not set is left out."""
    kept = {name: value for name, value in settings.items() if value is not None}
    checkpoint.write_aside(path, tomli_w.dumps({"recipe": recipe, **kept}).encode())


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """``result.json``, indented."""
    checkpoint.write_aside(path, (dumps(result, indent=1) + "\n").encode())


def gathered(log: Log, run: Run) -> dict[str, Any]:
    """What a checkpoint holds of all ranks; collective."""
    # Rows that are learned lie over ranks, and are saved with what no rank holds whole.
    tables = {name: run.tables[name].state_dict() for name in sorted(run.tables) if not _in_shards(run, name)}
    return {"log": log.state_dict(run.world), "tables": tables}


def _in_shards(run: Run, table: str) -> bool:
    return isinstance(run.sync, Sharded) and run.tables[table].learns


def save_shards(path: Path, log: Log, run: Run) -> str:
    """Write what no rank holds whole beside the checkpoint to come, and name it; collective.

    The checkpoint's file names the folder, so a run that is killed in between goes on from the file before.
    """
    if not isinstance(run.sync, Sharded):
        return ""
    name = f"epoch-{log.epochs:06d}.step-{log.steps:09d}"
    place, aside = path / "checkpoints" / name, path / "checkpoints" / f".{name}"
    if run.world.share(place.is_dir()):  # of this step already
        return name
    if run.world.leads:
        for left in aside.parent.glob(".epoch-*.step-*"):
            shutil.rmtree(left)
    run.world.share(0)
    run.sync.save(aside)
    run.world.share(0)
    if run.world.leads:
        aside.rename(place)
    return name


class RunFolder:
    """Writes one run's folder while it trains.

    Args:
        epochs: of a run that is continued: what was written of later ones is forgotten.
    """

    def __init__(self, path: Path, *, keep: int, epochs: int = 0) -> None:
        self.path, self.keep = path, keep
        self.checkpoints = path / "checkpoints"
        self.checkpoints.mkdir(exist_ok=True)
        _forget_after(path / "metrics.jsonl", epochs)
        self._metrics = open(path / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._board = SummaryWriter(str(path), purge_step=epochs + 1 if epochs else None)
        self._best_saved = 0

    def record(self, record: Record) -> None:
        """A line of metrics and TensorBoard's scalars of one epoch."""
        line = asdict(record)
        if not record.measures:
            del line["measures"]
        self._metrics.write(dumps(line) + "\n")
        self._metrics.flush()
        self._board.add_scalar("loss/train", record.loss, record.epoch)
        self._board.add_scalar("seconds/epoch", record.seconds, record.epoch)
        for name, value in record.measures.items():
            self._board.add_scalar(name, value, record.epoch)
        for split, scores in (record.scores or {}).items():
            for name, value in scores.items():
                self._board.add_scalar(f"{name}/{split}", value, record.epoch)

    def save(self, log: Log, run: Run, state: Mapping[str, Any]) -> None:
        """The last state, and the best one where it is new; older checkpoints go.

        Args:
            state: what ``gathered`` gave on this rank.
        """
        self.save_best(log, run)
        whole = {**state, "slots": run.sync.state(), **run.keeps}
        checkpoint.save(self.checkpoints / f"epoch-{log.epochs:06d}.pt", whole)
        for old in sorted(self.checkpoints.glob("epoch-*.pt"))[: -self.keep]:
            old.unlink()
        kept = {file.stem for file in self.checkpoints.glob("epoch-*.pt")}
        for folder in self.checkpoints.glob("epoch-*.step-*"):  # what no rank holds whole, by the file it belongs to
            stem = folder.name.partition(".")[0]
            if folder.name == log.best_shards:
                continue
            if stem not in kept or (stem == f"epoch-{log.epochs:06d}" and folder.name != state["shards"]):
                shutil.rmtree(folder)

    def save_best(self, log: Log, run: Run) -> None:
        """The weights of the best epoch, where they are not yet saved."""
        if log.best_epoch > self._best_saved:
            kept = {"model": log.best_state, "shards": log.best_shards, "tables": log.best_tables}
            best = {"epoch": log.best_epoch, **kept, **run.keeps}
            checkpoint.save(self.checkpoints / "best.pt", best)
            self._best_saved = log.best_epoch

    def close(self) -> None:
        """Flush and close the files."""
        self._metrics.close()
        self._board.close()


def _forget_after(metrics: Path, epochs: int) -> None:
    """Keep the lines of the first ``epochs`` epochs: a run that was killed wrote on after its checkpoint."""
    if metrics.is_file():
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        checkpoint.write_aside(metrics, "".join(lines[:epochs]).encode())


def best(file: Path) -> dict[str, Any]:
    """A run's best weights, and ``beside``: the folder of those that no rank held whole, where there are any.

    Raises:
        InputError: where the file is missing, damaged or of something else.
    """
    state = checkpoint.load(file, needs=("epoch", "model"))
    shards = state.get("shards")
    return {**state, "beside": file.parent / shards if shards else None}


def restore(path: Path, run: Run) -> Log:
    """Bring a run to the state of the newest checkpoint under ``path``; a fresh log where there is none.

    Raises:
        InputError: where the checkpoint is damaged or of another model.
    """
    there = sorted((path / "checkpoints").glob("epoch-*.pt"))
    if not there:
        return Log()
    try:
        state = checkpoint.load(there[-1], needs=("log", "slots", "tables"), mapped=True)
    except InputError as error:
        if len(there) == 1:
            raise
        raise InputError(f"{error} Or delete it: the run then goes on from {there[-2].name}.") from error
    if state.get("graph") != run.keeps.get("graph"):
        raise InputError(
            f"{path} was trained on another graph, or on other clusters of it: going on would mix two runs."
            " Bring the data back as it was, or start another run."
        )
    try:
        if isinstance(run.sync, Sharded):
            run.sync.load(there[-1].parent / state["shards"])
        run.sync.restore(state["slots"])
        for name, table in run.tables.items():
            if not _in_shards(run, name):
                table.load_state_dict(state["tables"][name])
        return Log.from_state(state["log"], run.world, elastic=isinstance(run.sync, Sharded))
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{there[-1]} is not a checkpoint of this configuration ({first_sentence(error)}). Resume with the"
            " settings and the number of processes (--nproc) that the run was started with."
        ) from error
