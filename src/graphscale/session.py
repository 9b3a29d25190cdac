"""From a configuration to a result: read once, run every seed, write folders, report."""

from __future__ import annotations

import functools
import importlib
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from graphscale import checkpoint, folder, probe
from graphscale.catalog import RECIPES
from graphscale.config import Device, TrainConfig, checked, plain
from graphscale.console import Console
from graphscale.errors import InputError
from graphscale.loop import Log, Record, fit
from graphscale.run import Run, check


def recipe_of(name: str) -> Any:
    """The module of a recipe.

    Raises:
        InputError: on an unknown name.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe '{name}'. There are: {', '.join(RECIPES)} (graphscale list).")
    return importlib.import_module(f"graphscale.recipes.{name}")


def train(recipe: str, config: TrainConfig, *, console: Console | None = None) -> dict[str, Any]:
    """Train a recipe, once per seed, and return the result that ``result.json`` holds.

    Args:
        recipe: such as ``cluster_gcn``.
        config: the recipe's configuration.
        console: where progress goes; silent by default.

    Raises:
        InputError: on anything a user can mend, before training starts.
    """
    module = recipe_of(recipe)
    console = console or Console(quiet=True)
    if config.out is not None:
        folder.demand_free(config.out, overwrite=config.overwrite)
    home = functools.cache(lambda: _claimed(recipe, config))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with probe.PeakMemory() as memory:
        began = time.perf_counter()
        views = module.read(config)
        read_seconds = time.perf_counter() - began
        results = []
        for seed in range(config.seed, config.seed + config.seeds):
            results.append(_one(module, recipe, config, views, seed, home, read_seconds, memory, console))
    result = results[0] if config.seeds == 1 else _together(results, config, read_seconds)
    folder.write_result(home() / "result.json", result)
    console.finished(result, home())
    return result


def _claimed(recipe: str, config: TrainConfig) -> Path:
    """The run's folder, made or replaced."""
    out = config.out or _default_out(recipe, config.data)
    folder.claim(out, overwrite=config.overwrite)
    folder.write_config(out / "config.toml", recipe, plain(config))
    return out


def _default_out(recipe: str, data: str) -> Path:
    """runs/RECIPE-DATA-TIME, with a number where two start in one second."""
    stem = Path(data).stem if data.endswith(".npz") else data.replace(":", "-").replace("/", "-")
    base = Path("runs") / f"{recipe}-{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    path, count = base, 1
    while path.exists():
        path, count = base.with_name(f"{base.name}-{count}"), count + 1
    return path


def _one(
    module: Any,
    recipe: str,
    config: TrainConfig,
    views: Any,
    seed: int,
    home: Callable[[], Path],
    read_seconds: float,
    memory: probe.PeakMemory,
    console: Console,
) -> dict[str, Any]:
    began = time.perf_counter()
    run: Run = module.build(config, views, seed)
    check(run)
    # Only now, when nothing is left that a user must mend, is a folder made or an old run replaced.
    place = home() if config.seeds == 1 else home() / f"seed-{seed}"
    place.mkdir(exist_ok=True)
    prepare_seconds = read_seconds + time.perf_counter() - began
    console.begins(run, seed, config)
    store = folder.RunFolder(place, keep=config.keep, save_every=config.save_every)

    log = Log()

    def on_epoch(log: Log, record: Record) -> None:
        store.record(record)
        console.epoch(run, record)
        if log.epochs % config.save_every == 0:
            store.save(log, run.sync, run.keeps)

    try:
        fit(
            run,
            epochs=config.epochs,
            eval_every=config.eval_every,
            patience=config.patience,
            log=log,
            on_epoch=on_epoch,
        )
    finally:
        # Also after Ctrl-C: what has been trained is not lost.
        if log.epochs:
            store.save(log, run.sync, run.keeps)
        store.close()
        console.ends()
    seconds = {"prepare": prepare_seconds, "train": log.train_seconds, "evaluate": log.evaluate_seconds}
    result = {
        "recipe": recipe,
        "data": config.data,
        "config": {**plain(config), "seed": seed, "seeds": 1},
        "monitor": run.monitor,
        "val": dict(log.best["val"]),
        "test": dict(log.best["test"]),
        "final": {split: dict(scores) for split, scores in log.final.items()},
        "best_epoch": log.best_epoch,
        "epochs": log.epochs,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "peak_anon_mb": memory.peak_mb,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "partition": dict(run.partition),
        "versions": probe.versions(),
        "commit": probe.commit(),
        "seed": seed,
    }
    folder.write_result(place / "result.json", result)
    return result


def _together(results: list[dict[str, Any]], config: TrainConfig, read_seconds: float) -> dict[str, Any]:
    """The first run's result, the whole session's settings and costs, and all runs with mean and deviation."""
    seconds = {name: sum(r["seconds"][name] for r in results) for name in results[0]["seconds"]}
    seconds["prepare"] -= (len(results) - 1) * read_seconds  # every run counts the one reading
    return {
        **results[0],
        "config": plain(config),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "peak_anon_mb": results[-1]["peak_anon_mb"],
        **_spread(results),
        "runs": results,
    }


def _spread(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over runs, by split and metric; NaN where a run's score is."""
    spread: dict[str, Any] = {"mean": {}, "std": {}}
    for split in ("val", "test"):
        table = {name: [r[split][name] for r in results] for name in results[0][split]}
        columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in table.items()}
        spread["mean"][split] = {name: float(column.mean()) for name, column in columns.items()}
        spread["std"][split] = {name: float(column.std()) for name, column in columns.items()}
    return spread


def stored(path: Path) -> tuple[str, TrainConfig]:
    """Recipe and configuration of a run's folder.

    Raises:
        InputError: where the folder holds no run.
    """
    try:
        values = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
        recipe = str(values.pop("recipe"))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} holds no run ({error}). Give the folder that graphscale train printed.") from error
    kind = recipe_of(recipe).Config
    return recipe, kind(**checked(kind, values, str(path / "config.toml")))


def evaluate(path: Path, *, data: str | None = None, device: Device | None = None) -> dict[str, Any]:
    """Exact scores of a run's best checkpoint, on its own data or on other data of the same features.

    Args:
        path: a run's folder; of a run of several seeds, all are scored.
        data: another data set.
        device: auto, cpu or cuda; by default the run's.

    Raises:
        InputError: where the run, its checkpoint or the data cannot be used.
    """
    recipe, config = stored(path)
    module = recipe_of(recipe)
    config = replace(config, data=data or config.data, device=device or config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)  # as in training: another order of summation is another score
    seeds = range(config.seed, config.seed + config.seeds)
    places = [path / f"seed-{seed}" for seed in seeds] if config.seeds > 1 else [path]
    best = [place / "checkpoints" / "best.pt" for place in places]
    results = []
    for file in [file for file in best if file.is_file()] or best[:1]:
        state = checkpoint.load(file, needs=("epoch", "model"))
        scores = module.scores(config, state)
        results.append({"epoch": state["epoch"], **{split: dict(values) for split, values in scores.items()}})
    common = {"recipe": recipe, "data": config.data}
    if len(results) == 1:
        return {**common, **results[0]}
    return {**common, **_spread(results), "runs": results}
