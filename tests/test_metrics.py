from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from graphscale.metrics import LOWER_IS_BETTER, better, names, score


def draw_logits(k: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(seed)
    y = draw.integers(classes, size=k)
    logits = draw.standard_normal((k, classes)) + 1.2 * np.eye(classes)[y]
    return torch.from_numpy(logits).float(), torch.from_numpy(y)


@pytest.mark.parametrize("classes", [2, 3, 9])
@pytest.mark.parametrize("seed", [0, 1])
def test_single_label_scores_equal_scikit_learn(classes, seed):
    logits, y = draw_logits(200, classes, seed)
    got = score(logits, y)
    truth, told = y.numpy(), logits.numpy().argmax(1)
    probability = torch.softmax(logits.double(), 1).numpy()
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(truth, told), abs=1e-12)
    assert got["f1_micro"] == pytest.approx(sk.f1_score(truth, told, average="micro"), abs=1e-12)
    assert got["f1_macro"] == pytest.approx(sk.f1_score(truth, told, average="macro"), abs=1e-6)
    assert got["logloss"] == pytest.approx(sk.log_loss(truth, probability, labels=range(classes)), abs=1e-5)
    assert set(got) == set(names(classes, multilabel=False))


def test_macro_f1_is_a_mean_over_the_classes_that_occur():
    # Class 3 of four has no example in the split: it can be neither found nor missed.
    y = torch.tensor([0, 0, 1, 1, 2])
    logits = torch.eye(4)[torch.tensor([0, 3, 1, 0, 2])] * 5
    expected = sk.f1_score(y, logits.argmax(1), average="macro", labels=[0, 1, 2])
    assert score(logits, y)["f1_macro"] == pytest.approx(expected, abs=1e-6)


def test_binary_ranking_scores_equal_scikit_learn_with_ties():
    draw = np.random.default_rng(0)
    y = draw.integers(2, size=300)
    margin = np.round(draw.standard_normal(300) + y, 1)  # rounding makes ties
    assert len(np.unique(margin)) < 100
    logits = torch.from_numpy(np.stack([np.zeros(300), margin], 1)).float()
    got = score(logits, torch.from_numpy(y))
    assert got["auc"] == pytest.approx(sk.roc_auc_score(y, margin), abs=1e-6)
    assert got["ap"] == pytest.approx(sk.average_precision_score(y, margin), abs=1e-6)


def test_the_most_certain_predictions_are_not_tied():
    # A sigmoid in float32 maps 30, 40 and 50 to 1: their order would be lost.
    margin = torch.tensor([30.0, 40.0, 50.0, -30.0, -40.0, -50.0])
    y = torch.tensor([0, 1, 1, 1, 0, 0])
    logits = torch.stack([-margin / 2, margin / 2], 1)
    got = score(logits, y)
    assert got["auc"] == pytest.approx(sk.roc_auc_score(y, margin), abs=1e-6)
    assert got["ap"] == pytest.approx(sk.average_precision_score(y, margin), abs=1e-6)


@pytest.mark.parametrize("spread", [3.0, 0.4])
def test_multilabel_scores_equal_scikit_learn(spread):
    # With spread 0.4 all logits lie in [0, 1], where a metric could take them for probabilities.
    draw = np.random.default_rng(1)
    y = (draw.random((150, 5)) < [0.5, 0.3, 0.1, 0.6, 0.0]).astype(np.float32)  # the last label never occurs
    logits = spread * (draw.standard_normal((150, 5)) + y)
    if spread < 1:
        logits = np.clip(np.abs(logits), 0.01, 0.99)
    got = score(torch.from_numpy(logits), torch.from_numpy(y))
    told = logits > 0
    probability = 1 / (1 + np.exp(-logits))
    loss = -(y * np.log(probability) + (1 - y) * np.log(1 - probability)).mean()
    assert got["f1_micro"] == pytest.approx(sk.f1_score(y, told, average="micro"), abs=1e-6)
    assert got["f1_macro"] == pytest.approx(sk.f1_score(y, told, average="macro", zero_division=0), abs=1e-6)
    assert got["logloss"] == pytest.approx(loss, abs=1e-6)
    assert set(got) == set(names(5, multilabel=True))


@pytest.mark.parametrize("label", [0, 1])
def test_ranking_one_class_alone_is_undefined(label):
    logits, _ = draw_logits(20, 2)
    got = score(logits, torch.full((20,), label))
    assert math.isnan(got["auc"])
    assert math.isnan(got["ap"])
    assert not math.isnan(got["accuracy"])


@pytest.mark.parametrize("classes", [2, 4])
def test_a_diverged_model_has_no_score(classes):
    # Any number would do harm: argmax of NaN is a class, and the model would seem to have chosen it.
    logits, y = draw_logits(20, classes)
    logits[3, 1] = float("nan")
    got = score(logits, y)
    assert set(got) == set(names(classes, multilabel=False))
    assert all(math.isnan(value) for value in got.values())


def test_a_diverged_model_has_no_multilabel_score():
    got = score(torch.full((5, 3), float("nan")), torch.ones(5, 3))
    assert set(got) == set(names(3, multilabel=True))
    assert all(math.isnan(value) for value in got.values())


def test_scores_are_plain_fractions():
    got = score(*draw_logits(50, 2))
    assert all(type(value) is float for value in got.values())
    assert all(0 <= value <= 1 for name, value in got.items() if name != "logloss")


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "new", "old", "expected"),
    [
        ("accuracy", 0.8, 0.7, True),
        ("accuracy", 0.7, 0.7, False),
        ("accuracy", 0.6, 0.7, False),
        ("logloss", 0.6, 0.7, True),
        ("logloss", 0.8, 0.7, False),
        ("accuracy", NAN, 0.1, False),
        ("accuracy", 0.1, NAN, True),
        ("logloss", NAN, 9.0, False),
        ("logloss", 9.0, NAN, True),
        ("auc", NAN, NAN, False),
    ],
)
def test_better(name, new, old, expected):
    assert better(name, new, old) is expected


def test_the_default_monitor_is_the_first_name():
    assert names(7, multilabel=False)[0] == "accuracy"
    assert names(2, multilabel=False)[0] == "accuracy"
    assert names(39, multilabel=True)[0] == "f1_micro"
    assert {"auc", "ap"} <= set(names(2, multilabel=False))
    assert "auc" not in names(3, multilabel=False)
    assert {"logloss", "mae", "rmse"} == LOWER_IS_BETTER
