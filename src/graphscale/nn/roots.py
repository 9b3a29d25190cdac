"""BatchNorm whose statistics are of the roots alone: halo rows are there twice an epoch or more, and stale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def roots_only(model: nn.Module, roots: int, *, learn: bool = False) -> Iterator[None]:
    """Inside, every BatchNorm in training takes its statistics from the first ``roots`` rows, for all rows.

    Args:
        learn: whether its weights learn from these rows alone too.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.forward = partial(_forward, norm, roots, learn)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: Any, roots: int, learn: bool, x: Tensor) -> Tensor:
    plain = type(norm).forward
    if not norm.training or x.shape[0] <= roots:
        out: Tensor = plain(norm, x)
        return out
    own = x[:roots]
    var, mean = torch.var_mean(own, 0, correction=0)
    halo = (x[roots:] - mean) * torch.rsqrt(var + norm.eps)  # F.batch_norm takes given statistics as constants
    if norm.affine:
        weight, bias = (norm.weight.detach(), norm.bias.detach()) if learn else (norm.weight, norm.bias)
        halo = torch.addcmul(bias, halo, weight)
    return torch.cat([plain(norm, own), halo.to(x.dtype)])
