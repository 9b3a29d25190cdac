"""Rows from the host's memory to a device beside its work: page-locked memory, a stream of their own, an event.

On a CPU nothing has to move.
"""

from __future__ import annotations

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


def gathered(table: Tensor, ids: Tensor, device: torch.device) -> Moved:
    """Begin to copy rows ``ids`` of a table of the host to ``device``."""
    if device.type != "cuda":
        return Moved(table.index_select(0, ids))
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    stream = _STREAMS[device]
    # The rows are page-locked, not the table: it may be a file, or most of the memory.
    rows = torch.empty(ids.numel(), table.shape[1], dtype=table.dtype, pin_memory=True)
    torch.index_select(table, 0, ids, out=rows)
    with torch.cuda.stream(stream):
        there = rows.to(device, non_blocking=True)
        event = torch.cuda.Event()
        event.record(stream)
    return Moved(there, event)
