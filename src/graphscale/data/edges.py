"""Edge lists of any length: Parquet, CSV or ``.npy``, in memory proportional to the number of nodes.

Two passes over the file make compressed rows on disk (a counting sort through a memory-mapped file).
Columns ``src`` and ``dst`` (or the first two), optionally ``weight``; ``.npy`` holds [2, E] or [E, 2].
Features: ``.npy`` [N, F], memory-mapped. Labels: Parquet or CSV with ``label``, ``split`` (train, val,
test or empty) and, where ids are not 0..N-1, ``node``: the caller's ids, which come back everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

# Arrow's own pool takes a gigabyte of address space at its first use, which counts against a limit on memory.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import torch
from torch import Tensor

from graphscale.data.compress import Chunk, compress
from graphscale.errors import InputError
from graphscale.graph import SPLITS, Graph, described
from graphscale.mapped import mapped
from graphscale.soundness import check_classes

SUFFIXES = (".parquet", ".csv", ".npy")
_ROWS = 1 << 20  # edges a chunk


@dataclass(frozen=True)
class _Nodes:
    """What the features and labels files say of the nodes."""

    ids: np.ndarray | None  # the caller's ids in ascending order, where they are not 0..N-1
    y: Tensor
    masks: dict[str, Tensor]
    x: Tensor | None


def read(
    path: Path,
    work: Path,
    *,
    features: Path | None = None,
    labels: Path | None = None,
    undirected: bool = False,
) -> Graph:
    """A graph whose edges and features stay on disk.

    Args:
        path: the edge list.
        work: a folder for the compressed rows; the graph reads from it as long as it is used.
        features: [N, F] ``.npy``.
        labels: Parquet or CSV, as above.
        undirected: store the reverse of every edge too.

    Raises:
        InputError: where a file is missing or damaged, ids are out of range, or columns are not found.
    """
    name = path.name
    num_nodes, weighted, count = _survey(path)
    if labels is None and features is None and num_nodes > 10 * count + 1_000_000:
        raise InputError(
            f"{name} names node {num_nodes - 1:,} among {count:,} edges: its ids are not 0..N-1. List them in the"
            " column node of a labels file (--labels)."
        )
    if undirected and weighted:
        raise InputError(
            f"{name} has weights and is to be made undirected: where both directions are stored their weights"
            " would add up. Store both directions in the file, or drop --undirected."
        )
    nodes = _nodes(name, num_nodes, features, labels)
    rows = nodes.y.shape[0]
    rename = _renamer(nodes.ids, rows, name)

    def entries() -> Iterator[Chunk]:
        for source, target, weight in chunks(path):
            u, v = rename(source), rename(target)
            yield v, u, weight
            if undirected:
                yield u, v, None

    adj, merged = compress(entries, rows, weighted, work)
    notes = [f"{merged:,} duplicate entries merged"] if merged else []
    graph = described(adj, x=nodes.x, y=nodes.y, masks=nodes.masks, notes=notes)
    return graph if nodes.ids is None else replace(graph, node_id=torch.from_numpy(nodes.ids))


def chunks(path: Path) -> Iterator[Chunk]:
    """(source, target, weight or None) arrays of about a million edges, in the order of the file.

    Raises:
        InputError: where the file cannot be read as an edge list.
    """
    try:
        if path.suffix == ".npy":
            yield from _npy_chunks(path)
            return
        if path.suffix == ".parquet":
            file = pa_parquet.ParquetFile(path, pre_buffer=False)
            batches: Any = file.iter_batches(batch_size=_ROWS, use_threads=False)
        else:
            batches = pa_csv.open_csv(path, read_options=pa_csv.ReadOptions(use_threads=False, block_size=1 << 24))
        for batch in batches:
            yield _columns(batch, path)
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as an edge list ({error}). Check the path and the format.") from error


def _npy_chunks(path: Path) -> Iterator[Chunk]:
    pairs = np.load(path, mmap_mode="r", allow_pickle=False)
    if pairs.ndim != 2 or 2 not in pairs.shape or pairs.dtype.kind not in "iu":
        raise InputError(f"{path} is {pairs.dtype} {list(pairs.shape)}; integers [2, E] or [E, 2] are needed.")
    wide = pairs if pairs.shape[0] == 2 else pairs.T
    for start in range(0, wide.shape[1], _ROWS):
        block = wide[:, start : start + _ROWS].astype(np.int64)
        yield block[0], block[1], None


def _columns(batch: Any, path: Path) -> Chunk:
    names = batch.schema.names
    if len(names) < 2:
        raise InputError(f"{path} has {len(names)} column(s); an edge list needs src and dst. Add them.")
    if path.suffix == ".csv" and any(_is_number(name) for name in names):
        raise InputError(f"{path} has no header: its first line is {', '.join(names)}. Write src,dst above it.")
    pair = ("src", "dst") if {"src", "dst"} <= set(names) else tuple(names[:2])
    source, target = (batch.column(names.index(n)) for n in pair)
    for name, column in zip(pair, (source, target), strict=True):
        if not pa.types.is_integer(column.type) or column.null_count:
            raise InputError(f"column {name} of {path} holds {column.type}; node ids are whole numbers. Convert them.")
    weight = batch.column(names.index("weight")) if "weight" in names else None
    values = None if weight is None else weight.to_numpy(zero_copy_only=False).astype(np.float32)
    if values is not None and not np.isfinite(values).all():
        raise InputError(f"column weight of {path} has values that are missing or not finite. Replace them.")
    return (
        source.to_numpy(zero_copy_only=False).astype(np.int64),
        target.to_numpy(zero_copy_only=False).astype(np.int64),
        values,
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _survey(path: Path) -> tuple[int, bool, int]:
    """(largest id + 1, whether there are weights, edges); ids below zero are refused."""
    largest, weighted, count = -1, False, 0
    for source, target, weight in chunks(path):
        weighted |= weight is not None
        count += len(source)
        if len(source):
            largest = max(largest, int(source.max()), int(target.max()))
            if min(int(source.min()), int(target.min())) < 0:
                raise InputError(f"{path} names a node below 0. Renumber the ids from 0.")
    if largest < 0:
        raise InputError(f"{path} has no edge. Check the file.")
    return largest + 1, weighted, count


def _nodes(name: str, seen: int, features: Path | None, labels: Path | None) -> _Nodes:
    x = None if features is None else _mapped(features)
    table = None if labels is None else _table(labels)
    ids = table.get("node") if table is not None else None
    count = len(table["label"]) if table is not None else (seen if x is None else x.shape[0])
    if x is not None and x.shape[0] != count:
        raise InputError(f"{features} has {x.shape[0]} rows; {labels} has {count}. Give one row a node in both.")
    order = np.arange(count) if ids is None else np.argsort(ids, kind="stable")
    if ids is not None:
        ids = ids[order]
        if len(ids) > 1 and bool((np.diff(ids) == 0).any()):
            raise InputError(f"{labels} names a node twice. Give one row a node.")
        if x is not None and not np.array_equal(order, np.arange(count)):
            raise InputError(
                f"{labels} must list its nodes in ascending order when features are given: row i of {features}"
                " is the i-th node. Sort both."
            )
    y = torch.full((count,), -1, dtype=torch.int64)
    masks = {split: torch.zeros(count, dtype=torch.bool) for split in SPLITS}
    if table is not None:
        y = torch.from_numpy(table["label"][order])
        check_classes(y, str(labels))
        masks = {split: torch.from_numpy(table["split"][order] == split) for split in SPLITS}
    if ids is None and seen > count:
        raise InputError(f"{name} names node {seen - 1}, but there are {count} nodes. Add rows, or renumber the ids.")
    return _Nodes(ids, y, masks, x)


def _mapped(path: Path) -> Tensor:
    try:
        x = mapped(path)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise InputError(f"{path} cannot be read as .npy ({error}). Write it with numpy.save.") from error
    if x.dim() != 2 or x.dtype != torch.float32:
        raise InputError(f"{path} is {x.dtype} {list(x.shape)}; float32 [N, F] is needed. Convert it.")
    for start in range(0, x.shape[0], step := _ROWS // max(1, x.shape[1]) + 1):
        if not bool(torch.isfinite(x[start : start + step]).all()):
            raise InputError(f"{path} has values that are NaN or infinite near row {start}. Replace them.")
    return x


def _table(path: Path) -> dict[str, np.ndarray]:
    try:
        read_table: Callable[[Path], Any] = pa_parquet.read_table if path.suffix == ".parquet" else pa_csv.read_csv
        table = read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as a table of labels ({error}). Give Parquet or CSV.") from error
    missing = {"label", "split"} - set(table.column_names)
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(sorted(missing))}; it has {table.column_names}.")
    label = table.column("label").fill_null(-1)
    if not pa.types.is_integer(label.type):
        raise InputError(f"column label of {path} holds {label.type}; classes are whole numbers from 0, -1 unlabelled.")
    out = {
        "label": label.to_numpy().astype(np.int64),
        "split": np.asarray(table.column("split").cast(pa.string()).fill_null("").to_pylist(), dtype=object),
    }
    if "node" in table.column_names:
        node = table.column("node")
        if not pa.types.is_integer(node.type) or node.null_count:
            raise InputError(f"column node of {path} holds {node.type}; ids are whole numbers, none missing. Mend it.")
        out["node"] = node.to_numpy().astype(np.int64)
    odd = sorted(set(out["split"]) - {*SPLITS, ""})
    if odd:
        raise InputError(f"column split of {path} holds {odd[:3]}; write train, val, test, or leave it empty.")
    return out


def _renamer(ids: np.ndarray | None, count: int, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Positions of the caller's ids."""
    if ids is None:
        return lambda wanted: wanted

    def rename(wanted: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(ids, wanted), count - 1)
        unknown = ids[at] != wanted
        if unknown.any():
            raise InputError(f"{name} names node {wanted[unknown][0]}, which the labels file does not list. Add it.")
        return at

    return rename
