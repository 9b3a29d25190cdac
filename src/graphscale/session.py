"""From a configuration to a result: read once, run every seed, write folders, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from graphscale import folder, heap, launch, probe
from graphscale.config import Device, TrainConfig, checked, plain
from graphscale.console import Console
from graphscale.errors import DivergenceError, InputError
from graphscale.interrupt import Stop
from graphscale.loop import Log, Record, fit
from graphscale.places import place_of, stored
from graphscale.profile.clock import OFF
from graphscale.profiling import Profiler
from graphscale.progress import Progress
from graphscale.run import SCORED, Run, check, device_name, device_peak_mb
from graphscale.saving import Saving
from graphscale.settings import demand_applied, recipe_of
from graphscale.world import World, joined, launched

Watch = Callable[[Run, int, Record], None]


def train(
    recipe: str, config: TrainConfig, *, console: Console | None = None, watch: Watch | None = None
) -> dict[str, Any]:
    """Train a recipe, once per seed, and return the result that ``result.json`` holds.

    In a process that torchrun or SLURM started, this rank trains its share; one rank writes.

    Args:
        recipe: such as ``cluster_gcn``.
        config: the recipe's configuration.
        console: where progress goes; silent by default.
        watch: called with the run, its seed and its record after every epoch; what it raises ends the run there.

    Raises:
        InputError: on anything a user can mend, before training starts.
        Interrupted: on Ctrl-C, after a checkpoint.
    """
    module = recipe_of(recipe)
    demand_applied(recipe, config)
    if config.lives() and config.out is None and launched():
        raise InputError(
            "torchrun would start this run's lost processes again, and they must find its folder. Give it with --out."
        )
    with joined(config.device) as world:
        console = console if console is not None and world.leads else Console(quiet=True)
        out = _agreed(recipe, config, world)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        heap.keep_freed()
        with probe.PeakMemory() as memory, Stop() as stop, closing(folder.Lock()) as lock:
            began = time.perf_counter()
            if ":" in config.data and not world.leads:
                world.share(0)  # PyG and OGB download and process files: the first rank does, the others find them
            views = module.read(config)
            if ":" in config.data and world.leads:
                world.share(0)
            read = time.perf_counter() - began
            session = _Session(recipe, config, out, world, console, watch, memory, stop, lock, read)
            seeds = range(config.seed, config.seed + config.seeds)
            results = [session.one(module, views, seed) for seed in seeds]
        result = results[0] if config.seeds == 1 else _together(results, config, session.read_seconds)
        if world.leads:
            folder.write_result(out / "result.json", result)
        console.finished(result, out)
    return result


def _agreed(recipe: str, config: TrainConfig, world: World) -> Path:
    """The run's folder as the first rank finds it; all ranks refuse together where it refuses."""
    found: tuple[str, str] = ("", "")
    if world.leads:
        try:
            found = (str(place_of(recipe, config, world.size)), "")
        except InputError as error:
            found = ("", str(error))
    out, refusal = world.share(found)
    if refusal:
        raise InputError(refusal)
    return Path(out)


@dataclass(frozen=True)
class _Session:
    """What the runs of all seeds share."""

    recipe: str
    config: TrainConfig
    out: Path
    world: World
    console: Console
    watch: Watch | None
    memory: probe.PeakMemory
    stop: Stop
    lock: folder.Lock
    read_seconds: float

    def one(self, module: Any, views: Any, seed: int) -> dict[str, Any]:
        """Train one seed, from its last checkpoint where it is resumed and has one."""
        config, began = self.config, time.perf_counter()
        run: Run = module.build(config, views, seed)
        check(run)
        # Only now, when nothing is left that a user must mend, is a folder made or an old run replaced.
        place = self._place(seed)
        log = folder.restore(place, run) if config.resume else Log()
        progress = Progress.of(place, log, self.world, config)
        if progress is not None and launch.restarted() and self.world.leads:
            self.console.say(progress.lost(log, launch.restarted()))
        prepare_seconds = self.read_seconds + time.perf_counter() - began
        self.console.begins(run, seed, config, log.epochs)
        store = folder.RunFolder(place, keep=config.keep, epochs=log.epochs) if self.world.leads else None
        self._fit(run, seed, log, store, place, progress)
        result = self._result(run, log, seed, prepare_seconds)
        if self.world.leads:
            folder.write_result(place / "result.json", result)
        return result

    def _place(self, seed: int) -> Path:
        """The run's folder, made by the rank that leads, with its configuration inside."""
        config = self.config
        place = self.out if config.seeds == 1 else self.out / f"seed-{seed}"
        if self.world.leads:
            if seed == config.seed and config.resume:
                self.lock.take(self.out)
            elif seed == config.seed:
                folder.claim(self.out, self.lock, overwrite=config.overwrite)
            place.mkdir(exist_ok=True)
            settings = {**plain(config), "nproc": self.world.size}  # how many it must be resumed by
            folder.write_config(self.out / "config.toml", self.recipe, settings)
            if place != self.out:
                folder.write_config(place / "config.toml", self.recipe, {**settings, "seed": seed, "seeds": 1})
        self.world.share(0)  # no rank reads before it is there
        return place

    def _fit(
        self, run: Run, seed: int, log: Log, store: folder.RunFolder | None, place: Path, progress: Progress | None
    ) -> None:
        config = self.config
        profiler = Profiler.of(store.path, run, log, config) if config.profile and store is not None else None
        clock = OFF if profiler is None else profiler.clock
        saving = Saving(
            run, log, config, self.world, place, store, progress, self.console, self.stop, self._again(), clock
        )

        def on_epoch(log: Log, record: Record) -> None:
            saving.on_epoch(log, record)
            if self.watch is not None:
                self.watch(run, seed, record)

        try:
            fit(
                run,
                epochs=config.epochs,
                eval_every=config.eval_every,
                patience=config.patience,
                log=log,
                on_step=saving.on_step,
                on_epoch=on_epoch,
                clock=clock,
            )
            saving.save()
        except DivergenceError:
            if store is not None:
                store.save_best(log, run)
            raise
        finally:
            if store is not None:
                store.close()
            self.console.ends()
            if profiler is not None:
                self.console.profiled(profiler.ends(), profiler.folder)

    def _again(self) -> str:
        """What is said where Ctrl-C has ended a run."""
        processes = f" --nproc {self.world.size}" if self.world.size > 1 else ""
        command = f"graphscale train {self.recipe} --resume --out {self.out}{processes}"
        return f"interrupted: saved in {self.out}. Go on with: {command}"

    def _result(self, run: Run, log: Log, seed: int, prepare_seconds: float) -> dict[str, Any]:
        seconds = {"prepare": prepare_seconds, "train": log.train_seconds, "evaluate": log.evaluate_seconds}
        return {
            "recipe": self.recipe,
            "data": self.config.data,
            "config": {**plain(self.config), "seed": seed, "seeds": 1},
            "monitor": run.monitor,
            **{split: dict(log.best[split]) for split in SCORED if split in log.best},
            "final": {split: dict(scores) for split, scores in log.final.items()},
            "best_epoch": log.best_epoch,
            **(
                {"histories" if "history_age" in log.measures else "measures": dict(log.measures)}
                if log.measures
                else {}
            ),
            "epochs": log.epochs,
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "device": device_name(run.device),
            "peak_anon_mb": self.memory.peak_mb,
            "peak_device_mb": device_peak_mb(run.device),
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "partition": dict(run.partition),
            "versions": probe.versions(),
            "commit": probe.commit(),
            "seed": seed,
        }


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
    for split in (split for split in SCORED if split in results[0]):
        table = {name: [r[split][name] for r in results] for name in results[0][split]}
        columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in table.items()}
        spread["mean"][split] = {name: float(column.mean()) for name, column in columns.items()}
        spread["std"][split] = {name: float(column.std()) for name, column in columns.items()}
    return spread


def evaluate(
    path: str | Path, *, data: str | None = None, device: Device | None = None, negatives: str | None = None,
    ranked: int | None = None, baselines: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Exact scores of a run's best checkpoint, on its own data or on other data of the same features.

    Args:
        path: a run's folder; of a run of several seeds, all that have a checkpoint are scored, and
            ``missing_seeds`` names the others.
        data: another data set.
        device: auto, cpu or cuda; by default the run's.
        negatives, ranked: of a stream's links, beside which destinations an event is ranked, and how many; by default
            the run's.
        baselines: score what needs no training beside the run, of a stream's links.

    Raises:
        InputError: where the run, its checkpoint or the data cannot be used.
    """
    path = Path(path)
    recipe, config = stored(path)
    module = recipe_of(recipe)
    asked: dict[str, Any] = {k: v for k, v in (("negatives", negatives), ("ranked", ranked)) if v is not None}
    if (asked or baselines) and not hasattr(module, "baselines"):
        raise InputError(
            f"{path} is a run of {recipe}: negatives, ranked and baselines are of links in a stream (pres)."
        )
    if (asked or baselines) and getattr(config, "task", "links") != "links":
        raise InputError(
            f"{path} foretells states, which are told from no negatives. Leave negatives and baselines out."
        )
    asked = checked(type(config), asked, "evaluate")
    config = replace(config, data=data or config.data, device=device or config.device, **asked)
    if config.threads is not None:
        torch.set_num_threads(config.threads)  # as in training: another order of summation is another score
    seeds = range(config.seed, config.seed + config.seeds)
    places = [path / f"seed-{seed}" for seed in seeds] if config.seeds > 1 else [path]
    best = [place / "checkpoints" / "best.pt" for place in places]
    results = []
    for file in [file for file in best if file.is_file()] or best[:1]:
        state = folder.best(file)
        scores = module.scores(config, state)
        results.append({"epoch": state["epoch"], **{split: dict(values) for split, values in scores.items()}})
    common: dict[str, Any] = {"recipe": recipe, "data": config.data, **asked}
    if missing := [seed for seed, file in zip(seeds, best, strict=True) if not file.is_file()]:
        common["missing_seeds"] = missing
    if baselines:
        common["baselines"] = module.baselines(config)
    if len(results) == 1:
        return {**common, **results[0]}
    return {**common, **_spread(results), "runs": results}
