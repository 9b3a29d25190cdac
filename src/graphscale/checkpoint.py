"""Files that survive a crash: written aside, flushed, renamed; read without unpickling code."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from graphscale.errors import InputError, first_sentence


@contextmanager
def _aside(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` once it is whole; where writing fails, nothing of it stays."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_aside(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` so that a reader sees the old file or the new one, never a part."""
    with _aside(path) as file:
        file.write(content)


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Tensors, numbers, strings and containers of them, in torch's zip format."""
    with _aside(path) as file:
        torch.save(dict(state), file)


def load(path: Path, *, needs: tuple[str, ...] = (), mapped: bool = False) -> dict[str, Any]:
    """What ``save`` wrote, on the CPU.

    Args:
        needs: keys that it must have.
        mapped: tensors are pages of the file, for state that may be larger than memory.

    Raises:
        InputError: where the file is missing, damaged, holds anything but plain data, or lacks a key.
    """
    if not path.is_file():
        raise InputError(f"no checkpoint {path}. Was the run stopped before its first save? Train it again.")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch does not look: it would load weights with a flipped bit
                raise zipfile.BadZipFile("a checksum does not match")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (
        zipfile.BadZipFile, zlib.error, UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path} cannot be read as a checkpoint ({first_sentence(error)}). It is damaged or not ours:"
            " use another checkpoint of the run, or train it again."
        ) from error
    missing = [name for name in needs if not isinstance(state, dict) or name not in state]
    if missing:
        raise InputError(f"{path} is no such checkpoint: it lacks {', '.join(missing)}. Use best.pt of a run.")
    return state
