"""A copy of somebody's model on which claims about it are tried, before it trains.

Weights are moved off their initial values, which may hide what a layer does (a head of zeros gives the same logits
whatever comes before it). In training mode nothing is left to chance: code that only training reaches runs, and
its dropout drops nothing.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

TRIED = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError, AssertionError)
# (Training, whether chance is low): who keeps where ``rand > p`` keeps all where it is high, or low where ``<``.
MODES = ((False, False), (True, False), (True, True))
_HARDLY = 1e-12  # above 0, so that what depends on dropout being on is on


def on_trial(model: nn.Module, *, training: bool = False, dtype: torch.dtype | None = torch.float64) -> nn.Module:
    """A copy with other weights, in ``dtype``; BatchNorm stays in evaluation, since it mixes rows by design.

    Args:
        training: the rest in training mode, with dropout that is on and drops nothing (inside ``NoChance``).
    """
    trial = copy.deepcopy(model).to(dtype=dtype).train(training)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in trial.parameters():
            if p.is_floating_point():
                scale = 0.3 / math.sqrt(p.shape[-1]) if p.dim() > 1 else 0.1
                p.add_((scale * torch.randn(p.shape, generator=draw, dtype=torch.float64)).to(p))
    for module in trial.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        for name, value in vars(module).items():
            if isinstance(value, float) and value > 0 and _is_dropout(module, name):
                setattr(module, name, _HARDLY)
    return trial


def _is_dropout(module: nn.Module, name: str) -> bool:
    return "drop" in name or (name == "p" and isinstance(module, nn.modules.dropout._DropoutNd))


def alike(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal but for rounding, which is of their largest number."""
    tight = expected.dtype == torch.float64
    atol = (1e-9 if tight else 1e-5) * max(1e-3, float(expected.abs().max()) if expected.numel() else 0.0)
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-7 if tight else 1e-4, atol=atol)
