"""GAS's regulariser: what follows a propagation is taught to change little where its input does (section 3).

The error of a history reaches the next layer multiplied by that layer's Lipschitz constant. PyGAS adds, in one
example (GIN), the mean over nodes of |mlp(h) - mlp(h + noise)| a layer, h being the neighbourhood's sum. Here
the second half of every layer is whatever stands between two propagations, in any model: a second pass puts
noise upon what each propagation gave in the first, and compares what the next one gives. n nodes, r roots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from graphscale.nn.splice import Visit


class Noise(NamedTuple):
    """How much the regulariser counts in the loss, and the deviation of its noise."""

    weight: float
    deviation: float = 0.1


def penalty(
    passed: Callable[[Visit], Tensor], given: Sequence[Tensor], logits: Tensor, roots: int, noise: Noise, seed: int
) -> Tensor:
    """[] weight * mean over layers and roots of the distance between a layer's outputs with and without noise.

    Args:
        passed: a forward pass with a visitor of its propagations; gives logits.
        given: what every propagation gave in the pass without noise, [n, ...].
        logits: [n, C] of that pass.
        seed: of the noise.
    """
    draw = torch.Generator(logits.device).manual_seed(seed)
    distances: list[Tensor] = []

    def distance(one: Tensor, other: Tensor) -> Tensor:
        # From 1e-12 on: the norm has no gradient at zero, where rectified rows often are.
        return (one[:roots] - other[:roots]).float().flatten(1).square().sum(1).clamp(min=1e-12).sqrt().mean()

    def visit(number: int, out: Tensor) -> Tensor:
        if number:
            distances.append(distance(out, given[number]))
        before = given[number]
        shift = torch.randn(before.shape, generator=draw, device=before.device, dtype=torch.float32)
        return before + noise.deviation * shift.to(before.dtype)

    distances.append(distance(passed(visit), logits))
    return noise.weight * torch.stack(distances).mean()
