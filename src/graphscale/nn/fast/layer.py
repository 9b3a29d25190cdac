"""What the fast layers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphscale.edge_view import BlockEdges
from graphscale.feature_view import dense


class Fast:
    """Mixed into a PyG layer: its class is exchanged, so it has no state of its own."""

    stock: ClassVar[Any]  # PyG's class
    keeping: ClassVar[bool] = False  # whether ``sums_first`` writes down what it finds

    @classmethod
    def fits(cls, module: Any) -> bool:
        """Whether a layer's settings are those that the fast forward pass handles."""
        return bool(module.flow == "source_to_target" and not getattr(module, "cached", False))

    def at_hand(self, edges: Any) -> bool:
        """Whether the block is ours; one whose edges are to be explained goes PyG's way."""
        return isinstance(edges, BlockEdges) and not getattr(self, "explain", False)

    def sums_first(self, x: Tensor, linear: Any) -> bool:
        """``sum_first``, or what it was when it was kept: then a history means the same in every pass."""
        kept = self.__dict__.get("_sums_first")
        found = sum_first(x, linear) if kept is None else bool(kept)
        if Fast.keeping:
            self.__dict__["_sums_first"] = found
        return found

    def sent(self, edges: BlockEdges, out: Tensor) -> Tensor:
        """What a neighbourhood gave, after PyG's hooks on propagations (``nn.splice``) have had it.

        It may stand before or after the layer's linear map: either way each row is a node's.
        """
        for hook in self._propagate_forward_hooks.values():  # type: ignore[attr-defined]
            changed = hook(self, (edges, None, {}), out)
            out = out if changed is None else changed
        return out


def narrow(x: Tensor) -> Tensor:
    """X as sums over neighbours take it: dense, in the type of a product under autocast, which is half the bytes."""
    x, device = dense(x), x.device.type
    if torch.is_autocast_enabled(device) and x.dtype == torch.float32:
        return x.to(torch.get_autocast_dtype(device))
    return x


@contextmanager
def orders_kept() -> Iterator[None]:
    """Inside, every layer writes down whether it sums or multiplies first, and keeps to it from then on."""
    Fast.keeping = True
    try:
        yield
    finally:
        Fast.keeping = False


def sum_first(x: Tensor, linear: Any) -> bool:
    """Whether summing x over neighbours costs less than summing its product with the weights.

    A sum's backward pass costs as much as the sum, and is not needed where x has no gradient.
    """
    passes = 2 if x.requires_grad or not torch.is_grad_enabled() else 1
    return bool(passes * x.shape[1] < 2 * linear.weight.shape[0])
