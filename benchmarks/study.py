"""What studies share: runs that are made once, works that are timed in turn, and the machine."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from graphscale import configure, train
from graphscale.config import plain


def trained(
    work: Path, name: str, settings: dict[str, Any], seeds: int, recipe: str = "cluster_gcn"
) -> list[dict[str, Any]]:
    """Results of seeds 0, 1, ...: each run is a folder under ``work``, and is not repeated once it has a result."""
    found = []
    for seed in range(seeds):
        out = work / f"{name}-{seed}"
        if not (out / "result.json").is_file():
            train(recipe, configure(recipe, **settings, seed=seed, out=out, overwrite=True))
        found.append(json.loads((out / "result.json").read_text()))
    return found


def special(settings: dict[str, Any], recipe: str = "cluster_gcn") -> dict[str, Any]:
    """The settings of a run that differ from the recipe's defaults."""
    usual = plain(configure(recipe, data="planted", preset="none"))
    return {name: value for name, value in settings.items() if name != "seed" and value != usual.get(name)}


def machine() -> str:
    """Processor, cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        model = f"{names[0]}, {len(names)} cores" if names else model
    return model


def finished(work: Callable[[], Any], device: str) -> float:
    """Seconds of a work, to the end of what it started on the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def in_turn(
    works: dict[str, Callable[[], Any]], repeats: int, slow: tuple[str, ...] = (), device: str = "cpu"
) -> dict[str, float]:
    """Median seconds of every work, one after the other in every round, warm-up apart; slow ones in 3 rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(repeats + 1):
        for name, work in works.items():
            if name in slow and round_ > 3:
                continue
            took = finished(work, device)
            if round_:
                seconds[name].append(took)
    return {name: statistics.median(values) for name, values in seconds.items()}
