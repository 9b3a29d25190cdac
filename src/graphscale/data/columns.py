"""Arrays that grow at their end, for what is made graph by graph: in memory while small, in nameless files beyond."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphscale import scratch

_IN_MEMORY = 1 << 26  # bytes of a column


class Column:
    """Rows of one type and width.

    Args:
        files: closes the column's file.
        width: of a row; a number where it is left out.
    """

    def __init__(self, files: ExitStack, dtype: Any, *width: int) -> None:
        self._dtype, self._width = np.dtype(dtype), width
        file = SpooledTemporaryFile(max_size=_IN_MEMORY, dir=scratch.folder())  # noqa: SIM115 - closed by files
        self._file = files.enter_context(file)
        self._length = 0

    def add(self, rows: np.ndarray) -> None:
        """Put rows at the end."""
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data.cast("B") if rows.size else b"")
        self._length += len(rows)

    def done(self) -> Tensor:
        """All rows."""
        out = _room(self._length, *self._width, dtype=torch.from_numpy(np.empty(0, self._dtype)).dtype)
        self._file.seek(0)
        flat = out.view(-1).numpy()
        for some in scratch.blocks(flat.size, 1):
            flat[some] = np.frombuffer(self._file.read((some.stop - some.start) * self._dtype.itemsize), self._dtype)
        return out


def cast(array: Tensor, dtype: torch.dtype) -> Tensor:
    """The array in another type, itself where it has it."""
    return array if array.dtype == dtype else _room(*array.shape, dtype=dtype).copy_(array)


def _room(*shape: int, dtype: torch.dtype) -> Tensor:
    large = prod(shape) * dtype.itemsize > _IN_MEMORY
    return scratch.zeros_on_disk(*shape, dtype=dtype) if large else torch.empty(shape, dtype=dtype)


@contextmanager
def one_thread() -> Iterator[None]:
    """Graphs are many and small: threads would wait for each other several times longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
