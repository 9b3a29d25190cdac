"""A store as a graph of memory-mapped arrays: sizes and ids are checked at once, contents by ``verify``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.errors import InputError
from graphscale.graph import SPLITS, Graph
from graphscale.mapped import mapped
from graphscale.store.folder import BLOCK, known_manifest, manifest_of


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
    if not bool(labelled.any()):  # splits of graphs whose pairs are labelled
        labelled = torch.ones_like(labelled)
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
    blocks = (values[a : a + BLOCK] for a in range(0, values.numel(), BLOCK))
    return all(low <= int(block.min()) and int(block.max()) < stop for block in blocks)


def _sound_sparse(arrays: Mapping[str, Tensor], nodes: int, features: int) -> bool:
    columns, values = arrays.get("x_indices"), arrays.get("x_values")
    if columns is None or values is None or columns.numel() != values.numel():
        return False
    return _points(arrays["x_indptr"], nodes, columns.numel()) and _inside(columns, 0, features)


def verify(path: Path) -> list[str]:
    """Names of the arrays whose contents are not those that were written; empty where all is sound."""
    manifest = known_manifest(path)
    wrong = []
    for name, said in manifest["arrays"].items():
        digest = hashlib.blake2b(digest_size=16)
        flat = _mapped(path, name, said).numpy().reshape(-1)
        for start in range(0, flat.size, BLOCK):
            digest.update(np.ascontiguousarray(flat[start : start + BLOCK]).data)
        if digest.hexdigest() != said["blake2b"]:
            wrong.append(name)
    return wrong


def splits(path: Path) -> dict[str, Tensor]:
    """All splits [N, S] of a store, in the order of its rows."""
    arrays = manifest_of(path)["arrays"]
    return {name: _mapped(path, name, arrays[name]) for name in SPLITS}
