"""Rows from the host's memory to a device beside its work: page-locked memory, a stream of their own, an event.

On a CPU nothing has to move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_STREAMS: dict[torch.device, Any] = {}


class Moved:
    """Rows that are on their way to a device."""

    def __init__(self, rows: Tensor, event: Any = None) -> None:
        self.rows, self.event = rows, event

    def here(self) -> Tensor:
        """The rows, for work that the calling thread's stream is given from now on."""
        if self.event is not None:
            stream = torch.cuda.current_stream(self.rows.device)
            stream.wait_event(self.event)  # of the two streams, not of the device
            self.rows.record_stream(stream)  # their memory is not given away before that work is done
        return self.rows


def moved(rows: Tensor, device: torch.device) -> Moved:
    """Begin to copy rows of the host to ``device``."""
    if device.type != "cuda":
        return Moved(rows)
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    stream = _STREAMS[device]
    with torch.cuda.stream(stream):
        there = rows.pin_memory().to(device, non_blocking=True)
        event = torch.cuda.Event()
        event.record(stream)
    return Moved(there, event)


def pinned(make: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """``make``, in page-locked memory where a CUDA device reads it."""
    return make if device.type != "cuda" else lambda *shape, **options: make(*shape, **options, pin_memory=True)
