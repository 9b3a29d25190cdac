"""State whose parts lie on many ranks, in files that any number of ranks can read (torch.distributed.checkpoint)."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import StorageMeta

from graphscale import scratch
from graphscale.world import World

_SUMS = "checksums.json"
_KNOWN = {
    ("torch", "Size"), ("torch.serialization", "_get_layout"), ("torch", "strided"), ("pathlib", "PosixPath"),
    ("pathlib", "Path"), ("collections", "OrderedDict"), ("torch", "device"),
    *(("torch.distributed.checkpoint.metadata", name) for name in (
        "Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata",
        "ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING",
    )),
    *(("torch.distributed.checkpoint.filesystem", name) for name in ("_StorageInfo", "_StoragePrefix")),
    *(("torch", name) for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")),
}  # fmt: skip


def part(rows: Tensor, shape: tuple[int, ...], world: World, everybody: World) -> Tensor:
    """Rows as a part of a whole that knows its shape, so that other numbers of ranks can read it.

    Args:
        rows: of axis 0, as ``torch.chunk`` cuts it.
        shape: of the whole.
        world: ranks that hold a part each.
        everybody: all ranks; those that hold the same parts are side by side.
    """
    if everybody.size == 1:
        return rows
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Replicate, Shard

    ranks = torch.arange(everybody.size).view(world.size, everybody.size // world.size)
    mesh = DeviceMesh(rows.device.type, ranks, mesh_dim_names=("subnet", "data"), _init_backend=False)
    stride = torch.empty(shape, device="meta").stride()
    local: Tensor = DTensor.from_local(
        rows, mesh, [Shard(0), Replicate()], run_check=False, shape=torch.Size(shape), stride=stride
    )
    return local


def save(parts: dict[str, Tensor], folder: Path, everybody: World) -> None:
    """Write every rank's parts, and checksums of the files; collective.

    Raises:
        OSError: where a rank could not write.
    """
    try:
        with _alone_without_a_word():
            dcp.save(parts, checkpoint_id=str(folder))  # type: ignore[attr-defined]
    except CheckpointException as error:
        inner = next((e for e in error.failures.values() if isinstance(_cause(e), OSError)), None)
        raise (OSError(str(error)) if inner is None else _cause(inner)) from error
    if everybody.leads:
        sums = {file.name: _digest(file) for file in sorted(folder.iterdir())}
        (folder / _SUMS).write_text(json.dumps(sums), encoding="utf-8")
    everybody.share(0)


def load(parts: dict[str, Tensor], folder: Path, everybody: World) -> None:
    """Fill this rank's parts from what any number of ranks wrote; collective.

    Raises:
        RuntimeError: where it is of another model or damaged.
    """
    if wrong := everybody.share(_damage(folder) if everybody.leads else ""):
        raise RuntimeError(f"{folder.name}: {wrong}")
    try:
        _Reader(str(folder)).read_metadata()  # its error is hidden by what some versions of torch make of it
        with _alone_without_a_word():
            dcp.load(parts, storage_reader=_Reader(str(folder)))  # type: ignore[attr-defined]
    except (CheckpointException, Exception) as error:  # its errors are of many kinds
        raise RuntimeError(f"{folder.name} cannot be read ({type(error).__name__}: {error})") from error


def read(folder: Path, stem: str, *, leaves: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors whose names begin with ``stem``, whole, by the rest of their names; large ones are pages of files.

    Args:
        leaves: beginnings of the rest, of what is not read.

    Raises:
        RuntimeError: where it is damaged or missing.
    """
    try:
        there = _Reader(str(folder)).read_metadata().state_dict_metadata
    except Exception as error:  # its errors are of many kinds
        raise RuntimeError(f"{folder.name} cannot be read ({type(error).__name__}: {error})") from error
    names = [name for name in there if name.startswith(stem) and not name.removeprefix(stem).startswith(leaves)]
    parts = {name: scratch.empty(*there[name].size, dtype=there[name].properties.dtype) for name in names}
    load(parts, folder, World())
    return {name.removeprefix(stem): tensor for name, tensor in parts.items()}


def _cause(failure: Any) -> Any:
    return failure[0] if isinstance(failure, tuple) else failure


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _damage(folder: Path) -> str:
    """What is wrong with the files of a folder, if anything."""
    try:
        sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
        for name, digest in sums.items():
            if _digest(folder / name) != digest:
                return f"{name} is damaged: its checksum does not match"
    except (OSError, ValueError, AttributeError) as error:
        return f"a file is missing or damaged ({error})"
    return ""


def _member(kind: Any, name: str) -> Enum:
    """A member of an enumeration, which pickle asks ``getattr`` for; of anything else, nothing."""
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        raise pickle.UnpicklingError(f"it asks for a part of {kind}, which no checkpoint needs")
    return kind[name]


class _Plain(pickle.Unpickler):
    """Reads what torch.distributed.checkpoint writes about tensors, and refuses all other code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if (module, name) in _KNOWN:  # whole names: one with a dot in it would reach into what it names
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _Plain(file).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


@contextmanager
def _alone_without_a_word() -> Iterator[None]:
    """One process needs no process group, of which torch warns at every call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
