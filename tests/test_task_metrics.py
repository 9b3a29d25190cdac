"""Scores by task, beside definitions written out task by task."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from graphscale.task_metrics import task_scores


def drawn(clicks, seed=0, ties=False):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 12, size=40)
    task = np.repeat(np.arange(40) * 3, sizes)
    score = draw.normal(size=len(task)).astype(np.float32)
    if ties:
        score = np.round(score)
    y = (draw.random(len(task)) < 0.3) if clicks else draw.integers(1, 6, size=len(task))
    return task, score, y.astype(np.float32)


def found(task, score, y, clicks):
    return task_scores(torch.from_numpy(score), torch.from_numpy(y), torch.from_numpy(task), clicks=clicks)


def groups(task):
    return [np.flatnonzero(task == t) for t in np.unique(task)]


def test_clicks():
    task, score, y = drawn(True, ties=True)
    got = found(task, score, y, True)
    probability = 1 / (1 + np.exp(-score.astype(np.float64)))
    assert got["auc"] == pytest.approx(roc_auc_score(y, score))
    assert got["logloss"] == pytest.approx(log_loss(y, probability))
    both = [g for g in groups(task) if 0 < y[g].sum() < len(g)]
    expected = sum(len(g) * roc_auc_score(y[g], score[g]) for g in both) / sum(len(g) for g in both)
    assert got["group_auc"] == pytest.approx(expected)


def test_ratings():
    task, score, y = drawn(False)
    got = found(task, score, y, False)
    assert got["mae"] == pytest.approx(np.abs(score - y).mean(), rel=1e-6)
    assert got["rmse"] == pytest.approx(math.sqrt(((score - y) ** 2).mean()), rel=1e-6)
    for k in (1, 3, 5):
        gains = [ndcg_score([2.0 ** y[g] - 1], [score[g]], k=k) for g in groups(task)]
        assert got[f"ndcg@{k}"] == pytest.approx(np.mean(gains), rel=1e-6)
    hits, binary = [], []
    for g in groups(task):
        best = g[np.argsort(-y[g], kind="stable")][:5]
        first = g[np.argsort(-score[g], kind="stable")][:5]
        hits.append(len(set(best) & set(first)) / min(5, len(g)))
        binary.append(ndcg_score([np.isin(g, best).astype(float)], [score[g]], k=5))
    assert got["precision@5"] == pytest.approx(np.mean(hits))
    assert got["ndcg_binary@5"] == pytest.approx(np.mean(binary))


def test_what_cannot_be_scored_is_nan():
    task, score, y = drawn(True)
    assert math.isnan(found(task, score, np.zeros_like(y), True)["group_auc"])
    assert all(math.isnan(v) for v in found(task, score * np.nan, y, True).values())
    assert all(math.isnan(v) for v in found(task[:0], score[:0], y[:0], False).values())
