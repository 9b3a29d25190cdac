"""Even numbers of rows for products in bfloat16 on a CPU.

oneDNN compiles a product for its shapes and keeps what it compiled. Compiling takes 0.4 ms, a product of 600 rows
0.2 ms, and no two batches of a stream have as many rows: at a multiple of 64 most shapes have been met.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_STEP = 64


def even(x: Tensor, dim: int = 0) -> Tensor:
    """X under autocast on a CPU: in its type, with zeros behind to a multiple of 64 rows; anywhere else x itself.

    Args:
        x: of any shape.
        dim: along which rows are counted.
    """
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return x
    x, more = x.to(torch.get_autocast_dtype("cpu")), -x.shape[dim] % _STEP
    return F.pad(x, [0, 0] * (x.dim() - 1 - dim) + [0, more]) if more else x


def even_number(rows: int, most: int) -> int:
    """The multiple of 64 that ``rows`` are in, where an ``even`` tensor has ``most``; else ``rows``."""
    up = rows + -rows % _STEP
    return up if most % _STEP == 0 and up <= most else rows
