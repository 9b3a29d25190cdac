"""Scores of predictions, as fractions; tests hold them against scikit-learn's.

A library of metrics takes longer to import than torch (torchmetrics: 1.5 s and 76 MB, most of it matplotlib and scipy),
and every process of every run would pay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphscale.objectives.node import node_loss_sum

LOWER_IS_BETTER = frozenset({"logloss"})


def names(num_classes: int, *, multilabel: bool) -> tuple[str, ...]:
    """Metrics of a task, the default monitor first."""
    if multilabel:
        return ("f1_micro", "f1_macro", "logloss")
    if num_classes == 2:
        return ("accuracy", "f1_micro", "f1_macro", "auc", "ap", "logloss")
    return ("accuracy", "f1_micro", "f1_macro", "logloss")


def score(logits: Tensor, y: Tensor) -> dict[str, float]:
    """All metrics of a task from logits [k, C] and labels [k] or [k, C].

    ``f1_micro`` of single-label classes equals accuracy. ``auc`` and ``ap`` belong to the second of
    two classes. A metric that the sample leaves undefined (AUC of one class) is NaN, and so are all
    metrics of a model that has diverged to NaN: an argmax would pass for a choice of the model's.
    """
    classes = logits.shape[1]
    if bool(logits.isnan().any()):
        return dict.fromkeys(names(classes, multilabel=y.dim() == 2), float("nan"))
    out: dict[str, Tensor] = {}
    if y.dim() == 2:
        truth, told = y > 0, logits > 0
        hits, all_ = (truth & told).sum(0), told.sum(0) + truth.sum(0)  # [C]
        out["f1_micro"], out["f1_macro"] = _f1(hits.sum(), all_.sum()), _f1(hits, all_).mean()
    else:
        out["accuracy"] = (logits.argmax(1) == y).double().mean()
        out["f1_micro"] = out["accuracy"]
        out["f1_macro"] = _f1_macro(logits, y)
        if classes == 2:
            out |= ranking(logits[:, 1] - logits[:, 0], y)
    out["logloss"] = node_loss_sum(logits, y) / y.shape[0]
    return {name: float(value) for name, value in out.items()}


def _f1_macro(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over the classes that occur in the labels."""
    told, classes = logits.argmax(1), logits.shape[1]
    truth, all_told, hits = (torch.bincount(of, minlength=classes) for of in (y, told, y[told == y]))  # [C] each
    return _f1(hits, all_told + truth)[truth > 0].mean()


def _f1(hits: Tensor, both: Tensor) -> Tensor:
    """Harmonic mean of precision and recall; 0 where nothing was said or true.

    Args:
        hits: examples said to be of the class that are.
        both: examples said to be of it, and again those that are.
    """
    return 2 * hits.double() / both.clamp(min=1)


def ranking(margin: Tensor, y: Tensor) -> dict[str, Tensor]:
    """``auc`` and ``ap`` of margins [k], larger ones for class 1, and classes [k]; NaN where one class is missing.

    Equal margins are one step of either curve: a pair of them counts half in ``auc``.
    """
    if y.unique().numel() < 2:
        nan = torch.tensor(float("nan"))
        return {"auc": nan, "ap": nan}
    value, place = margin.unique(return_inverse=True)  # ascending
    true, false = (torch.bincount(place[y == c], minlength=value.numel()).double() for c in (1, 0))  # [values]
    auc = (true * (false.cumsum(0) - false / 2)).sum() / (true.sum() * false.sum())
    true_above, false_above = (n.flip(0).cumsum(0).flip(0) for n in (true, false))  # at this margin or a larger one
    ap = (true * true_above / (true_above + false_above)).sum() / true.sum()
    return {"auc": auc, "ap": ap}


def better(name: str, new: float, old: float) -> bool:
    """Whether ``new`` beats ``old``; NaN beats nothing and is beaten by everything."""
    if new != new:
        return False
    return old != old or (new < old if name in LOWER_IS_BETTER else new > old)
