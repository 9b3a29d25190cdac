"""A graph to disk, its nodes in cluster order: rows are read in blocks, so memory is by nodes, not by entries."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.graph import SPLITS, Graph
from graphscale.kernels.layout import permuted_rows
from graphscale.partitioning import Partition
from graphscale.store.folder import BLOCK, FORMAT, MANIFEST, VERSION, created, flush_folder, sealed


class _Writer:
    """Writes arrays block by block and keeps what the manifest says of them: ``arrays``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, dict[str, Any]] = {}

    def put(self, name: str, shape: tuple[int, ...], dtype: Any, blocks: Iterator[np.ndarray]) -> None:
        """Write ``name.npy`` of the given shape from blocks of its rows, and flush it."""
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
        """Write an array that is in memory."""
        self.put(name, value.shape, value.dtype, iter([value]))


def write(
    graph: Graph,
    cut: Partition,
    path: Path,
    *,
    splits: Mapping[str, Tensor] | None = None,
    made: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    beside: Mapping[str, Tensor] | None = None,
    said: Mapping[str, Any] | None = None,
) -> None:
    """Store ``graph`` with its nodes in the order of ``cut``.

    Reads rows of the graph's arrays in blocks: where these are memory-mapped, memory stays
    proportional to the number of nodes.

    Args:
        splits: masks [N, S] where the source has several; by default the graph's own.
        made: how it was made, for the manifest.
        beside: name -> an array that is stored as it is.
        said: more of the manifest.

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
        for name, array in (beside or {}).items():
            out.whole(name, array.numpy())
        manifest = {
            **(said or {}),
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
            file.write(json.dumps(sealed(manifest), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        flush_folder(aside)


def _spans(indptr: np.ndarray, order: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of ``order`` whose rows together hold about a block of entries."""
    sizes = np.cumsum(np.diff(indptr)[order])
    start = 0
    while start < len(order):
        base = sizes[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(sizes, base + BLOCK)))
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
        step = max(1, BLOCK // max(1, rows.shape[1]))
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
