"""Linear layers that every task has descended from: what a descent adds to a weight, as factors.

The gradient of x W^T to W is D^T X, of rank n at most: X [T, n, i] is what the layer was fed, D [T, n, o] the gradient
of what it gave. After K steps a task's weight is W - sum_k alpha D_k^T X_k, so

    x W_t^T = x W^T - (x X^T) (alpha D),    X [T, m, i] and D [T, m, o] of all steps, m = K n.

Nothing of the weight's size is made for a task, products with W are one for all tasks, and so is its outer gradient. It
is exact, to either order; where m (i + o) is more than i o the stacked weights of ``adapt`` are less work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphscale.nn.affine import BIAS, FED, MOVED, WEIGHT, Tape
from graphscale.objectives.adapt import Inner, Order, Step
from graphscale.step import Params

Rates = Mapping[str, float | Tensor]


def layers(params: Params, names: Iterable[str], rows: int, rates: Rates) -> tuple[str, ...]:
    """Those of the layers whose weight and bias are among ``names`` that are less work as factors.

    Args:
        rows: m, of all steps.
        rates: by name; one a number of a weight has no factors.
    """
    there, found = set(names), []
    for name in (n.removesuffix(WEIGHT) for n in sorted(there) if n.endswith(WEIGHT)):
        if name + BIAS not in there:
            continue
        weight, rate = params[name + WEIGHT], rates[name + WEIGHT]
        single = not isinstance(rate, Tensor) or rate.dim() == 0
        if weight.dim() == 2 and rows * sum(weight.shape) < weight.numel() and single:
            found.append(name)
    return tuple(found)


def adapted(
    fast: Params, shared: Params, of: tuple[str, ...],
    loss: Callable[[Params, Tape], Inner], *, steps: int, rates: Rates, order: Order,
) -> Iterator[Step]:  # fmt: skip
    """``adapt.adapted`` with the layers ``of`` as factors.

    Args:
        fast: stacked weights of everything else that adapts.
        shared: W and b of the layers.
        of: names of layers (``layers``).
        loss: of the weights, and of a tape that it hands to ``affine``.
    """
    start: dict[str, Tensor] = dict(fast)
    moved: dict[str, Tensor] = {}
    factors: dict[str, Tensor] = {}
    for _ in range(steps):
        if order == "none":
            start, moved = {name: value.detach().requires_grad_() for name, value in fast.items()}, {}
            fast = start
        second = order == "second"
        with torch.enable_grad():
            tape: Tape = {}
            before = loss({**fast, **factors}, tape)
            inputs = [tape[name][1] for name in of]
            found: Sequence[Tensor | None] = torch.autograd.grad(
                before.loss.sum(), [*inputs, *fast.values()], create_graph=second,
                retain_graph=second or before.extra is not None, allow_unused=True,
            )  # fmt: skip
            if all(gradient is None for gradient in found):
                raise ValueError("the loss of the support set depends on none of the weights that are to adapt.")
            gradients = {n: g for n, g in zip(fast, found[len(of) :], strict=True) if g is not None}
            for name, gradient in zip(of, found, strict=False):
                if gradient is None:
                    continue  # it stays as it is
                x = tape[name][0] if second else tape[name][0].detach()
                factors |= _further(factors, shared, name, x, gradient, rates)
            if second:
                start, moved = dict(fast), gradients
            else:
                moved = {name: moved[name] + g if name in moved else g for name, g in gradients.items()}
            fast = {**fast, **{name: start[name] - rates[name] * total for name, total in moved.items()}}
        yield Step({**fast, **factors}, before)


def _further(factors: Params, shared: Params, name: str, x: Tensor, gradient: Tensor, rates: Rates) -> dict[str, Any]:
    """The factors and the bias of a layer after a step more."""
    down = rates[name + WEIGHT] * gradient
    bias = factors.get(name + BIAS, shared[name + BIAS]) - rates[name + BIAS] * gradient.sum(1)
    if name + FED in factors:
        x, down = torch.cat([factors[name + FED], x], 1), torch.cat([factors[name + MOVED], down], 1)
    return {name + FED: x, name + MOVED: down, name + BIAS: bias}
