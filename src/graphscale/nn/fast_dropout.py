"""The dropout of a model that is not ours: by the house's kernel, or none while it is on trial."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from graphscale.kernels.dropout import dropout

_DROPS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}


class FastDropout(TorchFunctionMode):
    """While it is entered, ``torch.nn.functional.dropout``, whoever calls it, draws by ``kernels.dropout``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any other function is torch's."""
        kwargs = kwargs or {}
        if func is F.dropout and not NoChance.entered:
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if inplace or not 0 <= p < 1 or not input.is_floating_point():
        return F.dropout(input, p, training, inplace)
    return dropout(input, p, training)


class NoChance(TorchFunctionMode):
    """While it is entered, dropout drops nothing, and uniform numbers are so large that every edge is kept."""

    entered = 0

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
            return func(*args, **kwargs).fill_(1 - 1e-6)
        if func in (torch.bernoulli, torch.Tensor.bernoulli):
            return torch.ones_like(args[0])
        return func(*args, **kwargs)
