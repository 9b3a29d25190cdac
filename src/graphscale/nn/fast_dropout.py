"""The dropout of a model that is not ours, by the house's kernel."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from graphscale.kernels.dropout import dropout


class FastDropout(TorchFunctionMode):
    """While it is entered, ``torch.nn.functional.dropout``, whoever calls it, draws by ``kernels.dropout``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any other function is torch's."""
        kwargs = kwargs or {}
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if inplace or not 0 <= p < 1 or not input.is_floating_point():
        return F.dropout(input, p, training, inplace)
    return dropout(input, p, training)
