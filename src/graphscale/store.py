"""A graph on disk in the order in which training reads it: a folder of ``.npy`` files and a manifest.

Nodes lie in cluster order, so a batch is a few slices of each file. Arrays are memory-mapped, never
unpickled; a folder is written aside, flushed and renamed, so it is whole or absent.

| file               | holds                                                             |
|--------------------|-------------------------------------------------------------------|
| indptr, indices    | [N + 1], [E] in-edges of every node, columns sorted within a row  |
| weight, edge_attr  | [E], [E, D] in the order of indices; optional                     |
| x                  | [N, F], or x_indptr, x_indices, x_values where features are sparse|
| y                  | [N] classes, -1 unlabelled, or [N, C]                             |
| train, val, test   | [N, S] splits                                                     |
| part_ptr, node_id  | [P + 1] clusters; [N] the caller's ids                            |
| manifest.json      | format version, shapes, types, checksums, how it was made         |
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.errors import InputError
from graphscale.graph import SPLITS, Graph
from graphscale.kernels.layout import permuted_rows
from graphscale.mapped import mapped
from graphscale.partitioning import Partition

FORMAT, VERSION = "graphscale.graph", 1
MANIFEST = "manifest.json"
_SAID = {
    "arrays": dict, "nodes": int, "entries": int, "features": int, "classes": int, "symmetric": bool,
    "partition": dict, "notes": list, "made": dict,
}  # fmt: skip
_BLOCK = 1 << 22  # entries or values a block: some tens of megabytes


def is_store(path: Path) -> bool:
    """Whether a folder says of itself that it is a store."""
    return (path / MANIFEST).is_file()


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
        _flush_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Writer:
    """Writes arrays block by block and keeps what the manifest says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.arrays = folder, {}  # type: ignore[var-annotated]

    def put(self, name: str, shape: tuple[int, ...], dtype: Any, blocks: Iterator[np.ndarray]) -> None:
        digest = hashlib.blake2b(digest_size=16)
        dtype = np.dtype(dtype)
        with open(self.folder / f"{name}.npy", "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                content = np.ascontiguousarray(block, dtype=dtype)
                digest.update(content.data if content.size else b"")
                file.write(content.data if content.size else b"")
            file.flush()
            os.fsync(file.fileno())
        self.arrays[name] = {"shape": list(shape), "dtype": dtype.str, "blake2b": digest.hexdigest()}

    def whole(self, name: str, value: np.ndarray) -> None:
        self.put(name, value.shape, value.dtype, iter([value]))


def write(
    graph: Graph,
    cut: Partition,
    path: Path,
    *,
    splits: Mapping[str, Tensor] | None = None,
    made: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Store ``graph`` with its nodes in the order of ``cut``.

    Reads rows of the graph's arrays in blocks: where these are memory-mapped, memory stays
    proportional to the number of nodes.

    Args:
        splits: masks [N, S] where the source has several; by default the graph's own.
        made: how it was made, for the manifest.

    Raises:
        InputError: where the partition is another graph's, or ``path`` is in use.
    """
    cut.demand_owner(graph)
    order = cut.order.numpy()
    with created(path, overwrite=overwrite) as aside:
        out = _Writer(aside)
        _write_adjacency(out, graph, order)
        _write_features(out, graph.x, order)
        out.whole("y", graph.y.numpy()[order])
        for name in SPLITS:
            mask = (splits or graph.masks).get(name, torch.zeros(graph.num_nodes, dtype=torch.bool)).numpy()
            out.whole(name, (mask if mask.ndim == 2 else mask[:, None])[order])
        out.whole("part_ptr", cut.part_ptr.numpy())
        out.whole("node_id", graph.node_id.numpy()[order])
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "nodes": graph.num_nodes,
            "entries": graph.num_entries,
            "features": graph.num_features,
            "classes": graph.num_classes,
            "symmetric": graph.adj.symmetric,
            "partition": cut.describe(),
            "notes": list(graph.notes),
            "made": dict(made or {}),
            "arrays": out.arrays,
        }
        with open(aside / MANIFEST, "w", encoding="utf-8") as file:
            file.write(json.dumps(manifest, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _flush_folder(aside)


def _spans(indptr: np.ndarray, order: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of ``order`` whose rows together hold about a block of entries."""
    sizes = np.cumsum(np.diff(indptr)[order])
    start = 0
    while start < len(order):
        base = sizes[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(sizes, base + _BLOCK)))
        yield start, stop
        start = stop


def _write_adjacency(out: _Writer, graph: Graph, order: np.ndarray) -> None:
    adj = graph.adj
    indptr, indices = adj.indptr.numpy(), adj.indices.numpy()
    rank = np.empty(len(order), dtype=indices.dtype)
    rank[order] = np.arange(len(order), dtype=indices.dtype)
    out.whole("indptr", _pointers(indptr, order))
    spans = list(_spans(indptr, order))

    def gathered(pick: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
        for a, b in spans:
            yield pick(*permuted_rows(indptr, indices, order[a:b], rank))

    entries = adj.num_entries
    out.put("indices", (entries,), indices.dtype, gathered(lambda column, entry: column))
    for name, values in (("weight", adj.values), ("edge_attr", graph.edge_attr)):
        if values is not None:
            rows = values.numpy()
            shape = (entries, *rows.shape[1:])
            out.put(name, shape, rows.dtype, gathered(lambda column, entry, rows=rows: rows[entry]))  # type: ignore[misc]


def _pointers(indptr: np.ndarray, order: np.ndarray) -> np.ndarray:
    pointers = np.zeros(len(order) + 1, dtype=indptr.dtype)
    np.cumsum(np.diff(indptr)[order], out=pointers[1:])
    return pointers


def _write_features(out: _Writer, x: Tensor | Csr | None, order: np.ndarray) -> None:
    if x is None:
        return
    if isinstance(x, Tensor):
        rows = x.numpy()
        step = max(1, _BLOCK // max(1, rows.shape[1]))
        out.put("x", rows.shape, rows.dtype, (rows[order[a : a + step]] for a in range(0, len(order), step)))
        return
    out.whole("x_indptr", _pointers(x.indptr.numpy(), order))
    spans = list(_spans(x.indptr.numpy(), order))
    values = torch.ones(x.num_entries) if x.values is None else x.values
    full = Csr(x.indptr, x.indices, values, x.num_cols)
    for name, dtype in (("x_indices", x.indices.numpy().dtype), ("x_values", np.float32)):
        blocks = (_part(full.take(torch.from_numpy(order[a:b])), name) for a, b in spans)
        out.put(name, (x.num_entries,), dtype, blocks)


def _part(rows: Csr, name: str) -> np.ndarray:
    part = rows.indices if name == "x_indices" else rows.values
    assert part is not None
    return part.numpy()


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of a store.

    Raises:
        InputError: where it is missing, damaged, or of a format that this version does not read.
    """
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT and manifest["version"] == VERSION
        whole = not known or all(isinstance(manifest[name], kind) for name, kind in _SAID.items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no readable store ({error}). Make one with graphscale prepare SOURCE --to {path}."
        ) from error
    if not whole:
        raise InputError(f"the manifest of {path} is damaged. Prepare the store again.")
    if not known:
        raise InputError(
            f"{path} is {manifest['format']} version {manifest['version']}; this program reads {FORMAT}"
            f" version {VERSION}. Prepare it again."
        )
    return manifest


def read(path: Path, *, split: int = 0) -> Graph:
    """A store as a graph whose arrays are memory-mapped.

    Raises:
        InputError: where the store is damaged (sizes are checked here, contents by ``verify``) or has no
            such split.
    """
    manifest = manifest_of(path)
    arrays = {name: _mapped(path, name, said) for name, said in manifest["arrays"].items()}
    _demand_consistent(path, manifest, arrays)
    splits = arrays["train"].shape[1]
    if not 0 <= split < splits:
        raise InputError(f"split {split} asked, but {path} holds {splits}. Choose --split 0..{splits - 1}.")
    labelled = arrays["y"] >= 0 if arrays["y"].dim() == 1 else torch.ones(manifest["nodes"], dtype=torch.bool)
    x: Tensor | Csr | None = arrays.get("x")
    if "x_indptr" in arrays:
        x = Csr(arrays["x_indptr"], arrays["x_indices"], arrays["x_values"], manifest["features"])
    adj = Csr(arrays["indptr"], arrays["indices"], arrays.get("weight"), manifest["nodes"], bool(manifest["symmetric"]))
    return Graph(
        adj=adj,
        x=x,
        y=arrays["y"],
        masks={name: arrays[name][:, split] & labelled for name in SPLITS},
        num_classes=manifest["classes"],
        part_ptr=arrays["part_ptr"],
        node_id=arrays["node_id"],
        edge_attr=arrays.get("edge_attr"),
        notes=tuple(manifest["notes"]),
        clusters=manifest["partition"],
    )


def _mapped(path: Path, name: str, said: Mapping[str, Any]) -> Tensor:
    file = path / f"{name}.npy"
    try:
        array = mapped(file)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise InputError(f"{file} is missing or damaged ({error}). Prepare the store again.") from error
    kind = array.numpy().dtype.str
    if list(array.shape) != said["shape"] or kind != said["dtype"]:
        raise InputError(
            f"{file} holds {kind} {list(array.shape)} where the manifest says {said['dtype']}"
            f" {said['shape']}. The store is damaged or mixed up: prepare it again."
        )
    return array


def _demand_consistent(path: Path, manifest: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
    """One pass over the indices keeps compiled code inside its arrays when files and manifest disagree."""
    nodes = manifest["nodes"]
    needed = ("indptr", "indices", "y", "part_ptr", "node_id", *SPLITS)
    missing = [name for name in needed if name not in arrays]
    entries = arrays["indices"].numel() if not missing else 0
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("indptr", lambda: _points(arrays["indptr"], nodes, entries)),
        ("indices", lambda: _inside(arrays["indices"], 0, nodes)),
        ("part_ptr", lambda: _points(arrays["part_ptr"], arrays["part_ptr"].numel() - 1, nodes)),
        ("y", lambda: arrays["y"].dim() == 2 or _inside(arrays["y"], -1, manifest["classes"])),
        ("rows", lambda: all(arrays[n].shape[0] == nodes for n in ("y", "node_id", "x", *SPLITS) if n in arrays)),
        ("edges", lambda: all(arrays[n].shape[0] == entries for n in ("weight", "edge_attr") if n in arrays)),
        ("x_indptr", lambda: "x_indptr" not in arrays or _sound_sparse(arrays, nodes, manifest["features"])),
    )
    wrong = missing or [name for name, holds in checks if not holds()]
    if wrong:
        raise InputError(f"{path} is inconsistent in {', '.join(wrong)}: it is damaged. Prepare the store again.")


def _points(pointers: Tensor, rows: int, entries: int) -> bool:
    ends = pointers.numel() == rows + 1 and int(pointers[0]) == 0 and int(pointers[-1]) == entries
    return ends and bool((pointers.diff() >= 0).all())


def _inside(values: Tensor, low: int, stop: int) -> bool:
    """Whether all values lie in low..stop-1, looked at in blocks."""
    blocks = (values[a : a + _BLOCK] for a in range(0, values.numel(), _BLOCK))
    return all(low <= int(block.min()) and int(block.max()) < stop for block in blocks)


def _sound_sparse(arrays: Mapping[str, Tensor], nodes: int, features: int) -> bool:
    columns, values = arrays.get("x_indices"), arrays.get("x_values")
    if columns is None or values is None or columns.numel() != values.numel():
        return False
    return _points(arrays["x_indptr"], nodes, columns.numel()) and _inside(columns, 0, features)


def verify(path: Path) -> list[str]:
    """Names of the arrays whose contents are not those that were written; empty where all is sound."""
    manifest = manifest_of(path)
    wrong = []
    for name, said in manifest["arrays"].items():
        digest = hashlib.blake2b(digest_size=16)
        flat = _mapped(path, name, said).numpy().reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            digest.update(np.ascontiguousarray(flat[start : start + _BLOCK]).data)
        if digest.hexdigest() != said["blake2b"]:
            wrong.append(name)
    return wrong


def splits(path: Path) -> dict[str, Tensor]:
    """All splits [N, S] of a store, in the order of its rows."""
    arrays = manifest_of(path)["arrays"]
    return {name: _mapped(path, name, arrays[name]) for name in SPLITS}
