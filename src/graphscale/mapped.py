"""Arrays that stay in their files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def mapped(path: Path) -> Tensor:
    """An ``.npy`` file as a tensor whose memory is the file, shared and read-only: nothing may write to it.

    A private (copy-on-write) map would count against a limit on the data segment as if it were read.

    Raises:
        OSError, ValueError, EOFError: as ``numpy.load``, where the file is missing, damaged or pickled.
    """
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
