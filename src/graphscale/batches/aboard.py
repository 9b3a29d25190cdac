"""Batches go to a GPU while it works on the one before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import torch

from graphscale.batches.ahead import ahead


class Movable(Protocol):
    """A batch of any recipe."""

    def to(self, device: torch.device) -> Any:
        """The same batch on ``device``."""
        ...


M = TypeVar("M", bound=Movable)


def aboard(batches: Iterator[M], device: torch.device, depth: int) -> Iterator[M]:
    """The same batches, ``depth`` of them made ahead by a thread; for a GPU a second thread has the next one there.

    A GPU then holds up to three: one that is worked on, one that waits, one that arrives.
    """
    made = ahead(batches, depth)
    if device.type != "cuda" or depth < 1:
        return made
    trains, travels = torch.cuda.current_stream(device), torch.cuda.Stream(device)

    def moved() -> Iterator[M]:
        for batch in made:
            # The memory that a new batch is given was an old one's, which the training stream may not have read yet.
            travels.wait_stream(trains)
            with torch.cuda.stream(travels):
                there = batch.to(device)
            travels.synchronize()
            yield there

    return ahead(moved(), 1)
