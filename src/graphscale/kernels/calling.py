"""How torch's tensors reach a compiled loop."""

from __future__ import annotations

from typing import Any

import numba
import torch
from torch import Tensor

_MOST_THREADS = numba.get_num_threads()


def looped(loop: Any, *arguments: Any) -> None:
    """Run a compiled loop over contiguous tensors on the CPU, with as many threads as torch has."""
    numba.set_num_threads(min(torch.get_num_threads(), _MOST_THREADS))
    loop(*(a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments))


def wide_of(x: Tensor) -> Tensor:
    """What the loops take: contiguous float32 or float64."""
    return (x if x.dtype == torch.float64 else x.float()).contiguous()
