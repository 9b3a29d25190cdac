"""Adaptation by gradient, of all tasks of a step at once (MAML; Finn, Abbeel, Levine; ICML 2017).

Fast weights are *stacked*: name -> [T, ...], a slice a task. A task's loss depends on its own slice alone, so one
gradient of the sum of all tasks' losses holds every task's own, and T tasks cost one pass of larger products.

| MAML, algorithm 1          | here                                      |
|----------------------------|-------------------------------------------|
| theta                      | a parameter, the same in every slice      |
| theta_i' (line 6)          | ``Step.fast``                             |
| alpha                      | ``rates``                                 |
| L_Ti(f_theta), line 5      | ``loss``: [T], and anything else of value |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from graphscale.step import Params

Order = Literal["first", "second", "none"]
Rates = float | Mapping[str, float | Tensor]


class Inner(NamedTuple):
    """What a support loss gives."""

    loss: Tensor  # [T]
    extra: Any = None  # of the weights before the descent: prototypes, say
    along: Mapping[str, Tensor] = {}  # name -> what stands for a fast weight in the derivative, of the weight's shape


class Step(NamedTuple):
    """After a step of descent."""

    fast: Params  # name -> [T, ...]
    before: Inner  # under the weights before the step


def stacked(params: Params, tasks: int, names: Iterable[str] | None = None) -> Params:
    """[T, ...] views of the parameters that are to adapt; nothing is copied.

    Args:
        params: name -> [...].
        tasks: T.
        names: those that adapt; by default all.
    """
    return {name: params[name].expand(tasks, *params[name].shape) for name in (params if names is None else names)}


def adapted(
    fast: Params, loss: Callable[[Params], Inner], *, steps: int, rates: Rates, order: Order = "first"
) -> Iterator[Step]:
    """Descend ``steps`` times, one yield a step.

    Args:
        fast: stacked weights; with no names nothing is adapted and ``loss`` is called all the same.
        loss: of the support set; pure.
        rates: alpha, one for all or by name; tensors may be learned, and get a gradient in either order.
        order: ``first`` takes inner gradients as constants, so memory does not grow with ``steps``; ``second``
            differentiates them; ``none`` keeps no graph at all (evaluation), weights then being leaves.

    A weight that the loss does not depend on stays as it is.

    Raises:
        ValueError: where it depends on none.
    """
    start, moved = fast, dict[str, Tensor]()
    for _ in range(steps):
        if order == "none":
            start = fast = {name: value.detach().requires_grad_() for name, value in fast.items()}
            moved = {}
        with torch.enable_grad():
            before = loss(fast)
            gradients = _gradients(fast, before, second=order == "second")
            if order == "second":
                start, moved = fast, gradients
            else:
                # Rates are the same in every step: one product with the sum of constants, or a learned rate would
                # keep every step's gradient for its own.
                moved = {name: moved[name] + g if name in moved else g for name, g in gradients.items()}
            fast = {**fast, **{name: start[name] - _rate(rates, name) * total for name, total in moved.items()}}
        yield Step(fast, before)


def _rate(rates: Rates, name: str) -> float | Tensor:
    return rates[name] if isinstance(rates, Mapping) else rates


def _gradients(fast: Params, inner: Inner, *, second: bool) -> Params:
    """Gradients of the weights that the loss depends on; a model may have others, which stay as they are."""
    if not fast:
        return {}
    wrt = [inner.along.get(name, value) for name, value in fast.items()]
    # The graph of the forward pass is kept where something of it may still be differentiated: ``extra``.
    found = torch.autograd.grad(
        inner.loss.sum(), wrt, create_graph=second, retain_graph=second or inner.extra is not None, allow_unused=True
    )
    if all(gradient is None for gradient in found):
        raise ValueError("the loss of the support set depends on none of the weights that are to adapt.")
    return {name: gradient for name, gradient in zip(fast, found, strict=True) if gradient is not None}
