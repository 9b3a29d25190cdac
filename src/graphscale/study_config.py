"""How a search goes about it, and for how long. Imports neither torch nor optuna: its flags stand in the help."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from graphscale.config import Settings


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """Settings of a search, whatever the recipe."""

    trials: int = 20
    """Trials in all, failed and refused ones too; a search that is resumed makes those that are left."""
    seconds: float | None = None
    """Begin no trial after so many seconds of this command; the one in progress ends."""
    sampler: Literal["tpe", "random"] = "tpe"
    """TPE draws where earlier trials were good, after 10 random ones; random draws independently."""
    seeds_per_trial: int = 1
    """Seeds by whose mean a trial is scored: --seed and those after it, the same for every trial."""
    prune: bool = False
    """End a trial at an epoch where it scores below the median of the trials before it."""
    storage: str | None = None
    """Database of the trials, as an SQLAlchemy URL; by default study.db, an SQLite file in the folder."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        self.demand(("trials", "seconds", "seeds_per_trial"), lambda v: v > 0, "must be above 0")
        self.demand(("seconds",), lambda v: v < math.inf, "must be finite")


# What may differ between a search and its continuation.
CONTINUES = ("trials", "seconds", "storage")
