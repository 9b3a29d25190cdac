"""The work of a stage: operations of its dense products, and bytes of its aggregations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from graphscale.kernels.meter import metered


class _Products(TorchDispatchMode):
    """Adds up the operations of products as torch's ``FlopCounterMode`` knows them.

    That mode itself also follows the tree of modules by hooks, which a stage in the middle of a step, the
    backward pass without the forward one, would leave half undone.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation as it is, and count it where it is a product."""
        out = func(*args, **(kwargs or {}))
        # A sparse product is an aggregation: counted as a dense one it would be as large as the square of the block.
        dense = all(a.layout == torch.strided for a in args if isinstance(a, torch.Tensor))
        if dense and func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@dataclass
class Work:
    """Sums over all blocks that were counted."""

    flops: int = 0  # a multiplication and an addition are two
    moved: int = 0  # bytes, as in ``kernels.meter``
    least: int = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what the block does."""
        with metered() as meter, _Products() as products:
            yield
        self.flops += products.flops
        self.moved, self.least = self.moved + meter.moved, self.least + meter.least
