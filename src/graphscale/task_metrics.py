"""Scores of records by task: of clicks (AUC, log loss, AUC within tasks) or of ratings (MAE, RMSE), and of
the order within a task.

``precision@5`` counts as relevant the five best-rated queries of a task, or what was clicked; ``ndcg@k`` has gains
2^label - 1 (Burges et al. 2005), ``ndcg_binary@5`` gains 1 of what is relevant. Ties of scores lie in the order of
their records, ties of labels likewise.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphscale.metrics import ranking

RATINGS = ("mae", "rmse", "precision@5", "ndcg@1", "ndcg@3", "ndcg@5", "ndcg_binary@5")
CLICKS = ("auc", "logloss", "group_auc", "precision@5", "ndcg@1", "ndcg@3", "ndcg@5")
Array = NDArray[np.float64]


def task_scores(scores: Tensor, y: Tensor, task: Tensor, *, clicks: bool) -> dict[str, float]:
    """All metrics.

    Args:
        scores: [q] of queries: logits of clicks, or ratings.
        y: [q] labels.
        task: [q] ascending numbers of their tasks.
    """
    names = CLICKS if clicks else RATINGS
    if not y.numel() or bool(scores.isnan().any()):
        return dict.fromkeys(names, float("nan"))
    out = _clicks(scores, y, task) if clicks else _ratings(scores, y)
    out |= _orders(scores.double().numpy(), y.double().numpy(), task.numpy(), clicks=clicks)
    return {name: out[name] for name in names}


def _ratings(scores: Tensor, y: Tensor) -> dict[str, float]:
    error = scores.double() - y.double()
    return {"mae": float(error.abs().mean()), "rmse": float((error**2).mean().sqrt())}


def _clicks(scores: Tensor, y: Tensor, task: Tensor) -> dict[str, float]:
    logloss = torch.nn.functional.binary_cross_entropy_with_logits(scores.double(), y.double())
    return {
        "auc": float(ranking(scores, y.long())["auc"]),
        "logloss": float(logloss),
        "group_auc": group_auc(scores.double().numpy(), y.numpy(), task.numpy()),
    }


def group_auc(scores: Array, y: NDArray[np.float32], task: NDArray[np.int64]) -> float:
    """AUC within tasks that have both classes, weighted by their records (Zhu et al., KDD 2017); NaN without any.

    A task's AUC is (sum of ranks of positives - p (p + 1) / 2) / (p q), ties sharing their mean rank.
    """
    order = np.lexsort((scores, task))
    task, scores, positive = task[order], scores[order], y[order] > 0.5
    first = np.r_[True, task[1:] != task[:-1]]
    start = np.flatnonzero(first)
    group = np.cumsum(first) - 1
    place = np.arange(len(task)) - start[group] + 1.0
    tied = np.cumsum(np.r_[True, (scores[1:] != scores[:-1]) | first[1:]]) - 1
    place = (np.bincount(tied, place) / np.bincount(tied))[tied]
    size = np.bincount(group)
    p = np.bincount(group, positive)
    ranks = np.bincount(group, place * positive)
    both = (p > 0) & (p < size)
    if not both.any():
        return float("nan")
    auc = (ranks - p * (p + 1) / 2)[both] / (p * (size - p))[both]
    return float((auc * size[both]).sum() / size[both].sum())


def _orders(scores: Array, y: Array, task: NDArray[np.int64], *, clicks: bool) -> dict[str, float]:
    """Means over tasks of what depends on the order within each."""
    found = _places(scores, task)
    best = _places(y, task)
    group = np.unique(task, return_inverse=True)[1]
    tasks = group[-1] + 1
    size = np.bincount(group)
    relevant = (y > 0.5) if clicks else (best < 5)
    hits = np.bincount(group, relevant & (found < 5), minlength=tasks) / np.minimum(size, 5)
    out = {"precision@5": float(hits.mean())}
    gain = 2.0**y - 1
    for k in (1, 3, 5):
        out[f"ndcg@{k}"] = _ndcg(gain, found, best, group, k)
    if not clicks:
        flat = relevant.astype(np.float64)
        out["ndcg_binary@5"] = _ndcg(flat, found, best, group, 5)
    return out


def _places(values: Array, task: NDArray[np.int64]) -> NDArray[np.int64]:
    """[q] place of every record among its task's, the largest value first."""
    order = np.lexsort((np.arange(len(task)), -values, task))
    first = np.flatnonzero(np.r_[True, task[order][1:] != task[order][:-1]])
    sizes = np.diff(np.r_[first, len(task)])
    place = np.empty(len(task), dtype=np.int64)
    place[order] = np.arange(len(task)) - np.repeat(first, sizes)
    return place


def _ndcg(gain: Array, found: NDArray[np.int64], best: NDArray[np.int64], group: NDArray[np.int64], k: int) -> float:
    """Mean over tasks that have something to find."""
    tasks = group[-1] + 1
    reached = np.bincount(group, np.where(found < k, gain / np.log2(found + 2.0), 0), minlength=tasks)
    ideal = np.bincount(group, np.where(best < k, gain / np.log2(best + 2.0), 0), minlength=tasks)
    some = ideal > 0
    return float((reached[some] / ideal[some]).mean()) if some.any() else float("nan")
