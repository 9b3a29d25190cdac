"""Samples by task on disk, in the order in which training reads them. docs/tasks.md says the format in full.

| file                       | holds                                                                  |
|----------------------------|------------------------------------------------------------------------|
| records                    | [R, W] int32 words: label, dense numbers (bits of float32), ids         |
| offset, support            | [T + 1] first record of every task; [T] records of its support          |
| task_text, task_end        | the caller's names of tasks, UTF-8 end to end; [T] where each ends      |
| values_TABLE_text, _end    | the values whose ids are 1, 2, ... in a table with a vocabulary         |
| manifest.json              | format, layout, parts, how it was made, shapes, types, checksums        |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from graphscale.errors import InputError
from graphscale.store.folder import MANIFEST, TASKS, created, manifest_of, sealed
from graphscale.store.reading import _mapped
from graphscale.store.writing import _Writer
from graphscale.tasks import Field, Layout, Tasks, demand_sound

Text = tuple[np.ndarray, np.ndarray]  # UTF-8 end to end [bytes], and where each ends [n]


def text(values: Iterable[str]) -> Text:
    """Strings as two arrays."""
    parts = [value.encode() for value in values]
    joined = np.frombuffer(b"".join(parts), dtype=np.uint8)
    return joined, np.cumsum([len(part) for part in parts], dtype=np.int64)


def text_of(batches: Iterable[pa.RecordBatch]) -> Text:
    """The strings of the first column of Arrow's batches, none of which becomes one of Python's."""
    content, length = [np.empty(0, dtype=np.uint8)], [np.empty(0, dtype=np.int64)]
    for batch in batches:
        column = batch.column(0).cast(pa.large_string())
        _, ends, joined = column.buffers()
        if len(column):
            at = np.frombuffer(ends, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
            length.append(np.diff(at))
            if joined is not None:
                content.append(np.frombuffer(joined, dtype=np.uint8)[at[0] : at[-1]].copy())
    return np.concatenate(content), np.cumsum(np.concatenate(length))


def strings(content: np.ndarray, end: np.ndarray) -> list[str]:
    """The reverse of ``text``."""
    whole, start = content.tobytes(), 0
    out = []
    for stop in end.tolist():
        out.append(whole[start:stop].decode())
        start = stop
    return out


def write_tasks(
    path: Path, layout: Layout, records: Iterator[np.ndarray], offset: np.ndarray, support: np.ndarray,
    parts: Mapping[str, tuple[int, int]], *, names: Text | None = None, values: Mapping[str, Text] | None = None,
    columns: Mapping[str, Any] | None = None, made: Mapping[str, Any] | None = None, notes: Sequence[str] = (),
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Store tasks; whole or absent.

    Args:
        records: blocks [_, W] of words, in order.
        names: of tasks; by default their numbers.
        values: of tables that have a vocabulary.
        columns: of the source, for those who encode other records alike.
        made: how it was made.

    Raises:
        InputError: where ``path`` is in use and is not a store to be overwritten.
    """
    with created(path, overwrite=overwrite) as aside:
        out = _Writer(aside)
        out.put("records", (int(offset[-1]), layout.words), np.int32, records)
        out.whole("offset", offset.astype(np.int64))
        out.whole("support", support.astype(np.int64))
        for stem, content in ({"task": names} if names else {}).items():
            out.whole(f"{stem}_text", content[0])
            out.whole(f"{stem}_end", content[1])
        for table, content in (values or {}).items():
            out.whole(f"values_{table}_text", content[0])
            out.whole(f"values_{table}_end", content[1])
        said = {
            "format": TASKS[0], "version": TASKS[1], "tasks": len(support), "records": int(offset[-1]),
            "dense": list(layout.dense), "fields": [[f.name, f.table, f.width] for f in layout.fields],
            "tables": dict(layout.tables), "parts": {name: list(span) for name, span in parts.items()},
            "columns": dict(columns or {}), "notes": list(notes), "made": dict(made or {}), "arrays": out.arrays,
        }  # fmt: skip
        (aside / MANIFEST).write_text(json.dumps(sealed(said), indent=1), encoding="utf-8")


def layout_of(said: Mapping[str, Any]) -> Layout:
    """The layout that a manifest tells of."""
    fields = tuple(Field(name, table, width) for name, table, width in said["fields"])
    return Layout(tuple(said["dense"]), fields, dict(said["tables"]))


def read_tasks(path: Path) -> Tasks:
    """Stored tasks; records stay in their file.

    Raises:
        InputError: where the store is damaged: sizes and the index are checked here, contents by ``store.verify``.
    """
    said = manifest_of(path, *TASKS)
    arrays = {name: _mapped(path, name, said["arrays"][name]) for name in ("records", "offset", "support")}
    digests = [said["arrays"][name]["blake2b"] for name in arrays]
    made = Tasks(
        layout_of(said), **arrays, parts={name: (span[0], span[1]) for name, span in said["parts"].items()},
        identity="-".join(digests), path=path, notes=tuple(said["notes"]),
    )  # fmt: skip
    try:
        demand_sound(made)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return made


def names_of(tasks: Tasks, path: Path | None = None) -> list[str]:
    """The caller's names of all tasks; their numbers where the store has none."""
    place = path or tasks.path
    there = {} if place is None else manifest_of(place, *TASKS)["arrays"]
    if place is None or "task_text" not in there:
        return [str(number) for number in range(tasks.num_tasks)]
    return _strings(place, "task", there)


def values_of(path: Path, table: str) -> list[str] | None:
    """The values whose ids are 1, 2, ...; None of a table of hashed ids."""
    there = manifest_of(path, *TASKS)["arrays"]
    return _strings(path, f"values_{table}", there) if f"values_{table}_text" in there else None


def _strings(path: Path, stem: str, arrays: Mapping[str, Any]) -> list[str]:
    content, end = (_mapped(path, f"{stem}_{kind}", arrays[f"{stem}_{kind}"]).numpy() for kind in ("text", "end"))
    return strings(content, end)
