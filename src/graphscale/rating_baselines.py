"""What meta-learned ratings have to beat: the mean, shrunken offsets of users and items, chance.

Offsets (Koren 2010, section 2.1, with both sides fitted in turn): r = mu + b_i + b_u; each is the sum of what the
others leave of its records, divided by their number plus a damping. A new task's b_u is that of its support alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from graphscale import rng
from graphscale.rating_scores import Scored
from graphscale.task_metrics import task_scores
from graphscale.tasks import TRAIN, Tasks

_PASSES = 20


@dataclass(frozen=True)
class Offsets:
    """What the training records tell."""

    mean: float
    item: np.ndarray  # [rows of the item's table]
    damping: tuple[float, float]  # of items, of users


def offsets(tasks: Tasks, field: str, *, damping: tuple[float, float] = (5.0, 5.0)) -> Offsets:
    """Fit offsets of items, with those of training's users beside them.

    Args:
        field: of items, one slot.
    """
    first, end = tasks.span(TRAIN)
    slot, size = _slot(tasks, field)
    item = tasks.records[first:end, slot].numpy().astype(np.int64).clip(0)
    y = tasks.labels(first, end).double().numpy()
    begins, stops = tasks.parts[TRAIN]
    user = np.repeat(np.arange(stops - begins), tasks.offset[begins : stops + 1].diff().numpy())
    mean, of_item, of_user = float(y.mean()), np.zeros(size), np.zeros(stops - begins)
    for _ in range(_PASSES):
        rest = y - mean - of_user[user]
        of_item = np.bincount(item, rest, size) / (np.bincount(item, minlength=size) + damping[0])
        rest = y - mean - of_item[item]
        of_user = np.bincount(user, rest, len(of_user)) / (np.bincount(user, minlength=len(of_user)) + damping[1])
    return Offsets(mean, of_item, damping)


def foretold(tasks: Tasks, field: str, fitted: Offsets, part: str, *, shots: int | None = None) -> Scored:
    """Queries of a part by offsets; a user's is that of the last ``shots`` records of the support."""
    slot, _ = _slot(tasks, field)
    first, end = tasks.parts[part]
    low, high = tasks.span(part)
    item = tasks.records[low:high, slot].numpy().astype(np.int64).clip(0)
    y = tasks.labels(low, high)
    sizes, support = tasks.offset[first : end + 1].diff().numpy(), tasks.support[first:end].numpy()
    user = np.repeat(np.arange(end - first), sizes)
    place = np.arange(high - low) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    query = place >= support[user]
    shown = ~query if shots is None else ~query & (place >= (support - shots)[user])
    rest = y.double().numpy() - fitted.mean - fitted.item[item]
    count = np.bincount(user, shown, end - first)
    of_user = np.bincount(user, rest * shown, end - first) / np.maximum(count + fitted.damping[1], 1e-9)
    score = fitted.mean + fitted.item[item] + of_user[user]
    return Scored(*(torch.from_numpy(c[query]) for c in (user, y.numpy(), score)))


def bias_scores(
    tasks: Tasks, field: str, *, grid: tuple[float, ...] = (0.5, 1, 2, 5, 10, 20)
) -> dict[str, dict[str, float]]:
    """Validation and test scores of ``best_offsets``."""
    best = best_offsets(tasks, field, grid=grid)
    return {part: scored(foretold(tasks, field, best, part)) for part in ("val", "test")}


def best_offsets(tasks: Tasks, field: str, *, grid: tuple[float, ...] = (0.5, 1, 2, 5, 10, 20)) -> Offsets:
    """Offsets whose damping validation MAE chooses."""
    fits = [offsets(tasks, field, damping=(a, b)) for a in grid for b in grid]
    return min(fits, key=lambda fit: scored(foretold(tasks, field, fit, "val"))["mae"])


def random_scores(tasks: Tasks, field: str, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Scores of the mean rating and a random order."""
    fitted = offsets(tasks, field)
    found = {}
    for number, part in enumerate(("val", "test")):
        flat = foretold(tasks, field, Offsets(fitted.mean, np.zeros_like(fitted.item), (0.0, 1e18)), part)
        noise = 1e-6 * torch.rand(
            flat.score.numel(), generator=rng.generator(rng.DATA, seed, number), dtype=torch.float64
        )
        found[part] = scored(flat._replace(score=flat.score + noise))
    return found


def scored(found: Scored) -> dict[str, float]:
    """Metrics of ratings."""
    return task_scores(found.score, found.y, found.task, clicks=False)


def _slot(tasks: Tasks, field: str) -> tuple[int, int]:
    """(word of a field's slot, rows of its table)."""
    layout = tasks.layout
    place = [f.name for f in layout.fields].index(field)
    return 1 + len(layout.dense) + layout.starts[place], layout.tables[layout.fields[place].table]
