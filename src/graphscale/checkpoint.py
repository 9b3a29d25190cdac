"""Files that survive a crash: written aside, flushed, renamed; read without unpickling code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from graphscale.errors import InputError


def write_aside(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` so that a reader sees the old file or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(aside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Tensors, numbers, strings and containers of them, in torch's zip format."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(aside, "wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def load(path: Path) -> dict[str, Any]:
    """What ``save`` wrote, on the CPU.

    Raises:
        InputError: where the file is missing, damaged, or holds anything but plain data.
    """
    if not path.is_file():
        raise InputError(f"no checkpoint {path}. Was the run stopped before its first save? Train it again.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a checkpoint ({str(error).splitlines()[0]}). It is damaged or not ours:"
            " use another checkpoint of the run, or train it again."
        ) from error
    return state
