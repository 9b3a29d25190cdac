"""Taking part in every propagation of a model that is not ours, without editing it.

PyG's layers send messages in ``MessagePassing.propagate``, once or (APPNP, TAGConv) several times a
layer, and offer a hook after each. What it gives is the neighbourhood's sum before the layer's own
bias, norm, activation or dropout, all of which treat rows apart: putting the right rows in there makes
whatever follows right too. This is where historical embeddings enter (Fey et al., ICML 2021, equation
(2)), and where exact rows enter when a graph is passed through a model in tiles.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Visit = Callable[[int, Tensor], Tensor]  # (number of the propagation in this forward pass, its output) -> what stands


Rows = Callable[
    [int, int, int, Tensor], None
]  # (number of the propagation, first row, row past the last, their values)


@contextmanager
def spliced(model: nn.Module, visit: Visit) -> Iterator[None]:
    """For one forward pass: ``visit`` sees, and may replace, what every propagation of ``model`` gives."""
    numbers = itertools.count()

    def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(f"a propagation of {type(module).__name__} gives no single tensor of rows")
        return visit(next(numbers), output)

    handles = [layer.register_propagate_forward_hook(hook) for layer in layers_of(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def last_input(model: nn.Module) -> Iterator[list[Tensor]]:
    """What enters the layer that sends messages last, in the last forward pass of the block: the last hidden layer.

    Empty where no layer sends messages.
    """
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        # The first tensor of rows, alone or the target's in a pair of (source, target) rows.
        for given in (*arguments, *keywords.values()):
            rows = given[-1] if isinstance(given, tuple | list) and given else given
            if isinstance(rows, Tensor) and rows.is_floating_point():
                seen[:] = [rows.detach()]
                return

    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers_of(model)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def layers_of(model: nn.Module) -> list[Any]:
    """The layers that send messages."""
    from torch_geometric.nn import MessagePassing

    return [module for module in model.modules() if isinstance(module, MessagePassing)]


def cut(rows: Tensor, out: Tensor) -> Tensor:
    """Rows that need a gradient where ``out`` does, with nothing before them kept for it.

    A layer may write into them (PyG's GCN2Conv does), which a leaf forbids.
    """
    return rows.requires_grad_().clone() if out.requires_grad else rows
