"""Calls of a model that is not ours which the house's kernels answer: dropout, and products of sparse features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from graphscale.feature_view import SparseRows
from graphscale.kernels.dropout import dropout
from graphscale.nn.in_batch import InBatchWeights

_DROPS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}


class FastCalls(TorchFunctionMode):
    """While it is entered, ``dropout`` and ``linear`` of ``torch.nn.functional``, whoever calls them, are fast.

    The first draws by ``kernels.dropout``; both keep sparse features sparse.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any other function is torch's."""
        kwargs = kwargs or {}
        if func is F.dropout and not NoChance.entered:
            return _dropout(*args, **kwargs)
        if func is F.linear and not InBatchWeights.entered:  # that one splits the product itself
            return _linear(*args, **kwargs)
        return func(*args, **kwargs)


def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if isinstance(input, SparseRows) and input.sparse and not input.requires_grad and weight.dtype == input.dtype:
        return input.linear(weight, bias)
    return F.linear(input, weight, bias)


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if inplace or not 0 <= p < 1 or not input.is_floating_point():
        return F.dropout(input, p, training, inplace)
    if isinstance(input, SparseRows) and input.sparse:
        return input.dropped(p) if training else input
    return dropout(input, p, training)


class NoChance(TorchFunctionMode):
    """While it is entered, dropout drops nothing, and every uniform number is almost 1: ``rand > p`` keeps all.

    Args:
        low: uniform numbers are almost 0 in place of it, for code that keeps where ``rand < p``.
    """

    entered = 0

    def __init__(self, *, low: bool = False) -> None:
        super().__init__()
        self.low = low

    def __enter__(self) -> Any:
        NoChance.entered += 1
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        NoChance.entered -= 1
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any other function is torch's."""
        kwargs = kwargs or {}
        if func in _DROPS:
            return args[0] if args else kwargs["input"]
        if func in (torch.rand, torch.rand_like):
            return func(*args, **kwargs).fill_(1e-6 if self.low else 1 - 1e-6)
        if func in (torch.bernoulli, torch.Tensor.bernoulli):
            return torch.zeros_like(args[0]) if self.low else torch.ones_like(args[0])
        return func(*args, **kwargs)
