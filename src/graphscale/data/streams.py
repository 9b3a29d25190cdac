"""Streams of events from where they lie: Parquet, JODIE's CSV, PyG's ``TemporalData``, TGB, generated, stores.

Parquet: columns ``src``, ``dst``, ``t``, optionally ``label`` and ``feat`` (lists of one length); in the file's
metadata optionally ``num_nodes``, ``num_src_partition`` and ``has_label``. JODIE's CSV: ``user_id,item_id,timestamp,
state_label,features...`` after one line of names; users and items are numbered apart there, and one after the other
here. Any other CSV has Parquet's columns by name, features as ``feat``, ``feat0``, ``feat1``, ... .
"""

from __future__ import annotations

import csv
import os
import re
from dataclasses import replace
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

from graphscale import scratch
from graphscale.data.planted_stream import planted_stream
from graphscale.data.pyg import DATA_VARIABLE
from graphscale.errors import InputError, first_sentence
from graphscale.events import Events, stream, whole
from graphscale.store.folder import is_stream
from graphscale.store.stream import read_stream

_NEEDED = ("src", "dst", "t")
_BLOCK = 1 << 20  # events that are read at a time


def load(
    name: str | Path, *, directed: bool | None = False, seed: int = 0, known: int = 0, num_src: int = 0
) -> Events:  # fmt: skip
    """A stream by name.

    Args:
        name: a folder that prepare-events made, a name in the folder of ``GRAPHSCALE_DATA`` (``collegemsg``: its
            ``events.parquet``), a ``.parquet`` or ``.csv`` file, ``planted-stream:EVENTS``, ``tgb:tgbl-wiki``, or
            PyG's ``JODIEDataset:Wikipedia``.
        directed: a node's neighbours are the sources of its events alone; None takes a store as it was prepared.
        seed: of a generated stream.
        known: nodes of the stream that a file's events go on with.
        num_src: sources of that stream: JODIE's items are numbered behind them.

    Raises:
        InputError: where nothing of that name exists or what exists is no sound stream.
    """
    name, stored = str(name), _store(str(name))
    if stored:
        events = read_stream(stored)
        if directed not in (None, events.directed):
            kind = "directed" if events.directed else "undirected"
            raise InputError(f"{stored} was prepared {kind}. Prepare it again, or change --directed.")
        return events
    directed = bool(directed)
    if name.partition(":")[0] == "planted-stream":
        size = name.partition(":")[2].replace("_", "") or "20000"
        if not (size.isascii() and size.isdigit()) or int(size) < 100:
            raise InputError(f"'{name}' asks for no number of events from 100. Write planted-stream:20000.")
        return replace(planted_stream(int(size), seed=seed), directed=directed)
    if name.startswith("tgb:"):
        return _read_tgb(name.partition(":")[2], directed)
    if ":" in name:
        return _read_pyg(name, directed)
    path = _found(name)
    if path.suffix == ".csv":
        return read_csv(path, directed=directed, known=known, num_src=num_src)
    return read_parquet(path, directed=directed, known=known)


def _store(name: str) -> Path | None:
    folder = os.environ.get(DATA_VARIABLE)
    places = [Path(name), *([Path(folder) / name] if folder else [])]
    return next((place for place in places if is_stream(place)), None)


def _found(name: str) -> Path:
    folder = os.environ.get(DATA_VARIABLE)
    places = [Path(name)] if name.endswith((".parquet", ".csv")) else [Path(name) / "events.parquet"]
    if folder and not name.endswith((".parquet", ".csv")):
        places += [Path(folder) / name / "events.parquet", Path(folder) / f"{name}.parquet"]
    for place in places:
        if place.is_file():
            return place
    where = f"the folder {folder}" if folder else f"{DATA_VARIABLE} (unset)"
    raise InputError(
        f"no stream '{name}': neither is there such a file, nor {name}/events.parquet in {where}. Give a .parquet or"
        " .csv file of events, planted-stream:20000, or PyG's JODIEDataset:Wikipedia."
    )


def read_parquet(path: Path, *, directed: bool = False, known: int = 0) -> Events:
    """A Parquet file of events, read in blocks into arrays that lie in files where they are large.

    Raises:
        InputError: where it is damaged, lacks a column, or is no sound stream.
    """
    try:
        with pa_parquet.ParquetFile(path, memory_map=True) as file:
            there = file.schema_arrow.names
            _demand_columns(path, there)
            said = {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
            label = "label" in there and said.get("has_label", "True") == "True"
            wanted = [*_NEEDED, *(["label"] if label else []), *(["feat"] if "feat" in there else [])]
            columns = _read_blocks(file, wanted)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet ({first_sentence(error)}). Write it again.") from error
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    try:
        return stream(
            *(columns[name] for name in _NEEDED),
            num_nodes=_said(said, "num_nodes", None), num_src=_said(said, "num_src_partition", 0),
            feat=columns.get("feat"), label=columns.get("label"), directed=directed, known=known,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _said(metadata: dict[str, str], name: str, otherwise: Any) -> Any:
    value = metadata.get(name)
    if value is not None and not value.isdecimal():
        raise InputError(f"its metadata says {name} = {value!r}, and a whole number is needed. Write it again.")
    return otherwise if value is None else int(value)


def _read_blocks(file: Any, wanted: list[str]) -> dict[str, Tensor]:
    rows, at = file.metadata.num_rows, 0
    found: dict[str, Tensor] = {}
    for batch in file.iter_batches(batch_size=_BLOCK, columns=wanted):
        table = pa.Table.from_batches([batch])
        for name in wanted:
            block = _lists(table) if name == "feat" else _column(table, name)
            if name not in found:
                found[name] = scratch.empty(rows, *block.shape[1:], dtype=block.dtype)
            if block.shape[1:] != found[name].shape[1:]:
                raise InputError("the lists of feat have several lengths. Give every event the same number.")
            found[name][at : at + len(block)] = block
        at += batch.num_rows
    if not rows:
        raise InputError("the stream has no event. Give at least one.")
    return found


def _demand_columns(path: Path, there: list[str]) -> None:
    missing = [name for name in _NEEDED if name not in there]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(there)}. Name the columns src, dst and t."
        )


def _column(table: Any, name: str) -> Tensor:
    column = table.column(name)
    if not len(column):
        raise InputError("the stream has no event. Give at least one.")
    if column.null_count:
        raise InputError(f"column {name} has {column.null_count:,} empty cells. Fill or drop those events.")
    kind = column.type
    if pa.types.is_timestamp(kind):  # in seconds, whatever the file counts in: encoded times are of that order
        ticks = torch.from_numpy(np.array(column.cast(pa.int64()).to_numpy()))
        return ticks.double() / {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"column {name} holds {kind}, and numbers are needed. Convert it.")
    return torch.from_numpy(np.array(column.to_numpy()))


def _lists(table: Any) -> Tensor:
    column = table.column("feat").combine_chunks()
    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
            or pa.types.is_large_list(column.type)):  # fmt: skip
        return _column(table, "feat").float()[:, None]
    flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    lengths = column.value_lengths().unique() if not pa.types.is_fixed_size_list(column.type) else None
    if column.null_count or flat.size % max(1, len(column)) or (lengths is not None and len(lengths) > 1):
        raise InputError("the lists of feat have several lengths. Give every event the same number.")
    return torch.from_numpy(np.array(flat.reshape(len(column), -1)))


def read_csv(path: Path, *, directed: bool = False, known: int = 0, num_src: int = 0) -> Events:
    """JODIE's CSV, or one whose header names src, dst and t.

    Raises:
        InputError: where it is damaged, has too few columns, or is no sound stream.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            named = [name.strip() for name in next(csv.reader(file, skipinitialspace=True), [])]
        jodies = named[:3] == ["user_id", "item_id", "timestamp"]
        if not jodies:
            _demand_columns(path, named)
            if twice := sorted({name for name in named if named.count(name) > 1}):
                raise InputError(f"{path} has two columns {', '.join(twice)}. Name every column once.")
        # JODIE's header has one name for all features, so its lines are longer than their header.
        options = pa_csv.ReadOptions(
            skip_rows=1, autogenerate_column_names=jodies, column_names=None if jodies else named
        )
        table = pa_csv.read_csv(path, read_options=options)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({first_sentence(error)}). Mend the file.") from error
    try:
        return _jodie(table, directed, num_src) if jodies else _named(table, directed, known)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _named(table: Any, directed: bool, known: int) -> Events:
    wide = [name for name in table.column_names if re.fullmatch(r"feat[_.]?\d*", name)]
    feat = torch.stack([_column(table, name).float() for name in wide], dim=1) if wide else None
    label = _column(table, "label") if "label" in table.column_names else None
    ends_and_times = (_column(table, name) for name in _NEEDED)
    events = stream(*ends_and_times, feat=feat, label=label, directed=directed, known=known)
    unused = [name for name in table.column_names if name not in (*_NEEDED, "label", *wide)]
    if not unused:
        return events
    return replace(events, notes=(*events.notes, f"columns that are not used: {', '.join(unused)}"))


def _jodie(table: Any, directed: bool, num_src: int) -> Events:
    if table.num_columns < 4:
        raise InputError(
            f"{table.num_columns} columns are too few for JODIE's user, item, time, state and features, and its header"
            " does not name src, dst and t. Name the columns."
        )
    user, item, t, label, *rest = (_column(table, name) for name in table.column_names)
    user, item = whole(user, "user_id"), whole(item, "item_id")
    feat = torch.stack([column.float() for column in rest], dim=1) if rest else None
    users = num_src or int(user.max()) + 1
    if int(user.max()) >= users:
        raise InputError(
            f"user {int(user.max())} is new, and the stream has numbers for {users:,}. Prepare it with room for later"
            " ones (--spare-sources)."
        )
    return stream(
        user, item + users, t, num_nodes=users + int(item.max()) + 1, feat=feat, label=label,
        num_src=users, directed=directed, sort=True,
    )  # fmt: skip


def from_temporal_data(data: Any, *, directed: bool = False, num_src: int = 0, known: int = 0) -> Events:
    """PyG's ``TemporalData``, with ``msg`` as features and ``y`` as labels.

    Args:
        data: in any order.
        directed: a node's neighbours are the sources of its events alone.
        num_src: where sources are nodes below it and destinations the others, which nothing in the data says.
        known: nodes of the stream that these events go on with.

    Raises:
        InputError: where it is no sound stream.
    """
    if not all(isinstance(getattr(data, name, None), Tensor) for name in _NEEDED):
        raise InputError(f"{type(data).__name__} has no tensors src, dst and t. Give PyG's TemporalData.")
    src, dst, t = data.src, data.dst, data.t
    if src.numel() == 0:
        raise InputError("the stream has no event. Give at least one.")
    msg, y = getattr(data, "msg", None), getattr(data, "y", None)
    return stream(
        src, dst, t, feat=None if msg is None else msg.reshape(len(src), -1), label=y, num_src=num_src,
        directed=directed, sort=True, known=known,
    )  # fmt: skip


def _read_pyg(name: str, directed: bool) -> Events:
    from torch_geometric import datasets  # seconds to import, so only when asked for

    kind, _, rest = name.partition(":")
    if not hasattr(datasets, kind):
        raise InputError(f"PyG has no data set class '{kind}'. Write JODIEDataset:Wikipedia.")
    root = Path(os.environ.get(DATA_VARIABLE, Path.home() / ".cache" / "graphscale")) / "pyg" / kind
    try:
        data = getattr(datasets, kind)(str(root), *([rest] if rest else []))[0]
    except Exception as error:
        raise InputError(f"PyG could not give {name}: {first_sentence(error)}. It looks in {root}.") from error
    if not all(hasattr(data, part) for part in _NEEDED):
        raise InputError(f"{name} is no stream: it has no src, dst and t. Use JODIEDataset or another TemporalData.")
    # JODIE's sets number their items behind their users.
    return from_temporal_data(data, directed=directed, num_src=int(data.dst.min()) if kind == "JODIEDataset" else 0)


def _read_tgb(name: str, directed: bool) -> Events:
    try:
        from tgb.linkproppred.dataset import LinkPropPredDataset  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError(f"tgb:{name} needs the package py-tgb, which is not installed: pip install py-tgb.") from error
    try:
        full = LinkPropPredDataset(name=name, root="datasets", preprocess=True).full_data
    except Exception as error:
        raise InputError(f"py-tgb could not give {name}: {first_sentence(error)}.") from error
    feat = None if full.get("edge_feat") is None else torch.from_numpy(np.asarray(full["edge_feat"], dtype=np.float32))
    return stream(
        torch.from_numpy(np.asarray(full["sources"], dtype=np.int64)),
        torch.from_numpy(np.asarray(full["destinations"], dtype=np.int64)),
        torch.from_numpy(np.asarray(full["timestamps"], dtype=np.int64)),
        feat=None if feat is None else feat.reshape(len(feat), -1),
        directed=directed,
        sort=True,
    )
