"""What the machine can do: bytes a second of a copy, operations a second of a product of matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_NUMBERS = 1 << 25  # 128 MiB of float32, beyond most caches
_SECONDS = 0.15  # of each measurement


@dataclass(frozen=True)
class Rates:
    """Best of some tries, on the device and with the threads of training."""

    bandwidth: float  # bytes a second, read and written
    products: float  # operations a second

    def floor(self, moved: float, flops: float) -> float:
        """Seconds that so many bytes and operations take at these rates, one after the other."""
        return moved / self.bandwidth + flops / self.products


def measure(device: torch.device, dtype: torch.dtype) -> Rates:
    """Copy 128 MiB, and multiply square matrices of ``dtype``; nothing is drawn at random."""
    source = torch.ones(_NUMBERS, device=device)
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source), device)
    size = 8192 if device.type == "cuda" else 1024
    square = torch.ones(size, size, device=device, dtype=dtype)
    product = _best(lambda: square @ square, device)
    return Rates(2 * source.nbytes / copy, 2 * size**3 / product)


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the quickest of three tries or more, after one to warm up."""
    seconds: list[float] = []
    while len(seconds) < 4 or sum(seconds) < _SECONDS:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
