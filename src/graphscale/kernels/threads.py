"""Compiled loops on as many threads as torch has."""

from __future__ import annotations

from typing import Any

import numba
import torch
from torch import Tensor

# Asked for by numba.get_num_threads(), this number would start numba's threads, and set torch's, at the import.
_MOST = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def looped(loop: Any, *arguments: Any) -> None:
    """Run a compiled loop over contiguous tensors on the CPU."""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, _MOST))
    if torch.get_num_threads() != threads:
        # The first time numba starts its threads, and tells OpenMP their number, which is torch's OpenMP too.
        torch.set_num_threads(threads)
    loop(*(a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments))
