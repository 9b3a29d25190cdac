"""A stream on disk as it is trained on: columns of events and every node's events, memory-mapped.

| file                        | holds                                                              |
|-----------------------------|--------------------------------------------------------------------|
| src, dst, t                 | [E] nodes; moments, ascending                                      |
| feat, label                 | [E, F] float32; [E] int64; optional                                |
| indptr, neighbour, event    | [N + 1]; [entries] other ends and numbers of events, by node, time |
| manifest.json               | format version, shapes, types, checksums, how it was made          |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from graphscale.errors import InputError
from graphscale.events import Events
from graphscale.store.folder import BLOCK, EVENTS, MANIFEST, created, manifest_of, sealed
from graphscale.store.reading import _inside, _mapped, _points
from graphscale.store.writing import _Writer

_COLUMNS, _CSR = ("src", "dst", "t", "feat", "label"), ("indptr", "neighbour", "event")


def write_stream(events: Events, path: Path, *, made: Mapping[str, Any] | None = None, overwrite: bool = False) -> None:
    """Store a stream with the events of its nodes; whole or absent.

    Raises:
        InputError: where ``path`` is in use and is not a store to be overwritten.
    """
    with created(path, overwrite=overwrite) as aside:
        out = _Writer(aside)
        csr = events.csr
        arrays = {name: getattr(events, name) for name in _COLUMNS} | {name: getattr(csr, name) for name in _CSR}
        for name, array in arrays.items():
            if array is not None:
                out.put(name, tuple(array.shape), array.numpy().dtype, _blocks(array))
        said = {
            "format": EVENTS[0], "version": EVENTS[1], "nodes": events.num_nodes, "events": events.num_events,
            "num_src": events.num_src, "directed": events.directed, "notes": list(events.notes),
            "made": dict(made or {}), "arrays": out.arrays,
        }  # fmt: skip
        (aside / MANIFEST).write_text(json.dumps(sealed(said), indent=1), encoding="utf-8")


def _blocks(array: Tensor) -> Iterator[np.ndarray]:
    step = max(1, BLOCK // max(1, array[:1].numel()))
    return (array[start : start + step].numpy() for start in range(0, array.shape[0], step))


def read_stream(path: Path) -> Events:
    """A stored stream; its arrays stay in their files.

    Raises:
        InputError: where the store is damaged: sizes, order of time and ids are checked here, contents by
            ``store.verify``.
    """
    said = manifest_of(path, *EVENTS)
    arrays = {name: _mapped(path, name, about) for name, about in said["arrays"].items()}
    missing = [name for name in ("src", "dst", "t", *_CSR) if name not in arrays]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: it is damaged. Prepare the stream again.")
    events, nodes, entries = said["events"], said["nodes"], arrays["event"].numel()
    lengths = [arrays[name].shape[0] == events for name in _COLUMNS if name in arrays]
    sound = (
        all(lengths)
        and arrays["neighbour"].numel() == entries
        and _points(arrays["indptr"], nodes, entries)
        and _inside(arrays["event"], 0, events)
        and all(_inside(arrays[name], 0, nodes) for name in ("src", "dst", "neighbour"))
        and _ascends(arrays["t"])
    )
    if not sound:
        raise InputError(f"{path} is inconsistent: it is damaged. Prepare the stream again.")
    return Events(
        arrays["src"], arrays["dst"], arrays["t"], nodes, arrays.get("feat"), arrays.get("label"),
        num_src=said["num_src"], directed=said["directed"], notes=tuple(said["notes"]),
        kept={name: arrays[name] for name in _CSR},
    )  # fmt: skip


def _ascends(t: Tensor) -> bool:
    return all(bool((t[a : a + BLOCK + 1].diff() >= 0).all()) for a in range(0, t.numel(), BLOCK))
