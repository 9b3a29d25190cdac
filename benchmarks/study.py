"""What studies share: runs that are made once, and the machine that made them."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

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
