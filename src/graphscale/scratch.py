"""Arrays of work in progress: anonymous memory while they are small, pages of a nameless file beyond.

The system can drop pages of a file where memory is short, and gives the file back when the last array on
it is gone, however the process ends. The file lies in ``TMPDIR``, or in /var/tmp: /tmp is memory on many systems.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from math import prod

import numpy as np
import torch
from torch import Tensor

from graphscale import heap
from graphscale.errors import InputError

_IN_MEMORY = 1 << 28  # bytes
_LARGE = 1 << 24  # bytes of an array that is worth large pages
_BLOCK = 1 << 22  # numbers


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An array of any values, to be written before it is read.

    Raises:
        InputError: where the folder has no room for it, or is none.
    """
    if prod(shape) * dtype.itemsize <= _IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    return zeros_on_disk(*shape, dtype=dtype)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An array of zeros in memory, whose rows are read here and there: in large pages where the system has them.

    A row of 400 bytes from a random place of 2 GB costs 0.4 us in pages of 4 kB, for the processor has to look up where
    the page is, and 0.05 us in pages of 2 MB.

    Raises:
        InputError: where there is no memory for it.
    """
    size = prod(shape) * dtype.itemsize
    if size < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, dtype=dtype)
    if size > _IN_MEMORY:
        heap.give_back()  # what reading the data took and left would lie beside it
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise InputError(
            f"there is no memory for a table of {size / 1e6:,.0f} MB ({error.strerror}). Let it lie on disk (--memory,"
            " --histories or --rows disk, as the recipe calls it), or give it fewer numbers a row."
        ) from error
    with contextlib.suppress(OSError):  # a system without them: small ones
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.from_numpy(np.frombuffer(pages, dtype=np.uint8)).view(dtype).view(shape)


def zeros_on_disk(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An array of zeros in a nameless file, however small.

    Raises:
        InputError: where the folder has no room for it.
    """
    size = prod(shape) * dtype.itemsize
    if size == 0:
        return torch.zeros(shape, dtype=dtype)
    place = folder()
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            reserve(file.fileno(), size)
            pages = np.frombuffer(mmap.mmap(file.fileno(), size), dtype=np.uint8)
    except OSError as error:
        raise InputError(
            f"no file of {size / 1e6:,.0f} MB could be made for work in {place} ({error.strerror}). Free some room, or"
            " let TMPDIR name a writable folder on a larger disk."
        ) from error
    return torch.from_numpy(pages).view(dtype).view(shape)


def reserve(file: int, size: int) -> None:
    """Give an open file its size and its room: else a full disk would end the process at some write to its pages.

    Raises:
        OSError: where there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


def copied(array: Tensor) -> Tensor:
    """A copy of an array on the CPU."""
    return empty(*array.shape, dtype=array.dtype).copy_(array)


def joined(first: Tensor, second: Tensor) -> Tensor:
    """The rows of one array on the CPU and then those of another, in the type that holds both."""
    kind = torch.promote_types(first.dtype, second.dtype)
    out = empty(len(first) + len(second), *first.shape[1:], dtype=kind)
    out[: len(first)], out[len(first) :] = first, second
    return out


def taken(rows: Tensor, index: Tensor) -> Tensor:
    """``rows[index]`` of an array on the CPU, in blocks."""
    out = empty(index.numel(), *rows.shape[1:], dtype=rows.dtype)
    for some in blocks(index.numel(), rows[:1].numel()):
        torch.index_select(rows, 0, index[some], out=out[some])
    return out


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Ranges of rows of ``width`` numbers each, some millions of numbers a range."""
    step = max(1, _BLOCK // max(1, width))
    return (slice(a, min(a + step, rows)) for a in range(0, rows, step))


def folder() -> str:
    """Where the files lie: the user's choice as it stands, for another folder may be memory.

    Raises:
        InputError: where TMPDIR names no writable folder.
    """
    chosen = os.environ.get("TMPDIR")
    if chosen:
        if not (os.path.isdir(chosen) and os.access(chosen, os.W_OK)):
            raise InputError(f"TMPDIR names {chosen}, which is no writable folder. Correct it, or unset it.")
        return chosen
    if os.access("/var/tmp", os.W_OK):
        return "/var/tmp"
    return tempfile.gettempdir()
