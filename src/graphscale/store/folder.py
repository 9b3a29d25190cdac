"""What makes a folder a store: its manifest, and how it comes to be whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphscale.errors import InputError

FORMAT, VERSION = "graphscale.graph", 2
EVENTS = ("graphscale.events", 1)
TASKS = ("graphscale.tasks", 1)
MANIFEST = "manifest.json"
BLOCK = 1 << 22  # entries or values that are read or written at a time: some tens of megabytes


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with a checksum of itself."""
    return {**manifest, "seal": _seal(manifest)}


def _seal(manifest: dict[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "seal"}
    text = json.dumps(rest, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def is_store(path: Path) -> bool:
    """Whether a folder says of itself that it is a store."""
    return (path / MANIFEST).is_file()


def is_stream(path: Path) -> bool:
    """Whether a folder says of itself that it is a stored stream."""
    return format_of(path) == EVENTS[0]


def is_tasks(path: Path) -> bool:
    """Whether a folder says of itself that it holds stored tasks."""
    return format_of(path) == TASKS[0]


def format_of(path: Path) -> str:
    """What a folder says of itself that it is; nothing where it says nothing."""
    try:
        return str(json.loads((path / MANIFEST).read_text(encoding="utf-8"))["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def known_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a store of whatever kind.

    Raises:
        InputError: as ``manifest_of``.
    """
    kinds = {name: (name, version) for name, version in (EVENTS, TASKS)}
    return manifest_of(path, *kinds.get(format_of(path), (FORMAT, VERSION)))


@contextmanager
def created(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` at the end; after an error nothing is left of it.

    Raises:
        InputError: where ``path`` is in use and is not a store to be overwritten.
    """
    if path.exists() and not (overwrite and is_store(path)):
        raise InputError(f"{path} is in use. Give another --to, or --overwrite to replace a store.")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():  # a kill between the two renames leaves the old store beside, whole
            os.replace(path, old)
        os.replace(aside, path)
        flush_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def flush_folder(path: Path) -> None:
    """Bring a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def manifest_of(path: Path, format: str = FORMAT, version: int = VERSION) -> dict[str, Any]:
    """The manifest of a store.

    Raises:
        InputError: where it is missing, damaged, or of a format that this version does not read.
    """
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        known = manifest["format"] == format and manifest["version"] == version
        whole = not known or manifest["seal"] == _seal(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no readable store ({error}). Make one with graphscale prepare SOURCE --to {path}."
        ) from error
    if not whole:
        raise InputError(f"the manifest of {path} is damaged: it was changed since it was written. Prepare it again.")
    if not known:
        raise InputError(
            f"{path} is {manifest['format']} version {manifest['version']}; {format}"
            f" version {version} is needed here. Prepare it again."
        )
    return manifest
