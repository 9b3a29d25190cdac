"""Linear layers under weights that are shared by all tasks, a slice a task, or shared with factors that tasks own."""

from __future__ import annotations

import torch
from torch import Tensor

from graphscale.step import Params

WEIGHT, BIAS, FED, MOVED = ".weight", ".bias", ".fed", ".moved"
Tape = dict[str, tuple[Tensor, Tensor]]  # layer -> what it was fed [T, n, i] and what it gave [T, n, o]


def affine(params: Params, name: str, x: Tensor, tape: Tape | None = None) -> Tensor:
    """[T, n, o]: ``x W^T + b`` of the layer ``name``, whose weights are shared, a slice a task, or shared with factors.

    Args:
        tape: where what the layer is fed and gives is left, by its name.
    """
    weight, bias = params[name + WEIGHT], params[name + BIAS]
    if weight.dim() == 3:
        own = bias[:, None] if bias.dim() == 2 else bias.expand(x.shape[0], 1, -1)
        out = torch.baddbmm(own, x, weight.transpose(1, 2))
    elif bias.dim() == 2:
        out = torch.nn.functional.linear(x, weight) + bias[:, None]
    else:
        out = torch.nn.functional.linear(x, weight, bias)
    if name + FED in params:
        near = torch.bmm(x, params[name + FED].transpose(1, 2))
        out = torch.baddbmm(out, near, params[name + MOVED], alpha=-1)
    if tape is not None:
        tape[name] = (x, out)
    return out
