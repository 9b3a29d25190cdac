"""Scores of predictions, as fractions. Computed by torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional import classification as tm

from graphscale.objectives.node import node_loss_sum

LOWER_IS_BETTER = frozenset({"logloss", "mae", "rmse"})


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
        # Given logits that all lie in [0, 1], torchmetrics would take them for probabilities.
        truth, told = y.long(), (logits > 0).long()
        for kind in ("micro", "macro"):
            out[f"f1_{kind}"] = tm.multilabel_f1_score(told, truth, classes, average=kind)
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
    per_class = tm.multiclass_f1_score(logits, y, logits.shape[1], average="none")
    return per_class[y.unique()].mean()


def ranking(margin: Tensor, y: Tensor) -> dict[str, Tensor]:
    """``auc`` and ``ap`` of margins [k], larger ones for class 1, and classes [k]; NaN where one class is missing."""
    if y.unique().numel() < 2:
        nan = torch.tensor(float("nan"))
        return {"auc": nan, "ap": nan}
    # The margin is a logit already; torchmetrics would squash values outside [0, 1] by a sigmoid in float32,
    # which ties the most certain predictions. Ranks keep the order.
    rank = margin.unique(return_inverse=True)[1].double() / max(1, y.numel())
    return {"auc": tm.binary_auroc(rank, y), "ap": tm.binary_average_precision(rank, y)}


def better(name: str, new: float, old: float) -> bool:
    """Whether ``new`` beats ``old``; NaN beats nothing and is beaten by everything."""
    if new != new:
        return False
    return old != old or (new < old if name in LOWER_IS_BETTER else new > old)
