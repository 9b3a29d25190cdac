"""Tables of points for ``adapting``: read, named rows found, and predictions written beside them.

Tables are CSV or Parquet. Columns: ``node``, the caller's id within its graph; ``other`` for pairs; ``graph``, the
name of a graph, where there are several; ``label``, any text or number, in the support (a query's is only compared
with).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import torch
from torch import Tensor

from graphscale.checkpoint import write_aside
from graphscale.data.collections import Collection
from graphscale.errors import InputError, first_sentence


def read(path: Path) -> pa.Table:
    """The table of a file."""
    try:
        table = pa_parquet.read_table(path) if path.suffix == ".parquet" else pa_csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({first_sentence(error)}). Give a .csv or .parquet.") from error
    twice = [name for name, times in Counter(table.column_names).items() if times > 1]
    if twice:
        raise InputError(f"{path} has {twice[0]} as the name of several columns. Rename them.")
    return table


def demand_place(to: Path) -> None:
    """Refuse a place that cannot be written, before there is work to lose."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=to.parent):
            pass
    except OSError as error:
        raise InputError(
            f"--to {to}: nothing can be written there ({first_sentence(error)}). Choose another."
        ) from error


def points(table: pa.Table, collection: Collection, centres: int, path: Path) -> Tensor:
    """[n, C] rows of the union that a table's rows name."""
    wanted = ["node", "other"][:centres] + ["graph"] * (collection.num_graphs > 1)
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: its columns are {', '.join(table.column_names)}.")
    if not table.num_rows:
        raise InputError(f"{path} has no row.")
    graph = _graph_of(table, collection, path)
    ends = [_rows(table[name], graph, collection, f"{name} of {path}") for name in wanted[:centres]]
    return torch.stack(ends, 1).sort(1).values  # the lower row first, as in training


def _graph_of(table: pa.Table, collection: Collection, path: Path) -> np.ndarray:
    if collection.num_graphs == 1:
        return np.zeros(table.num_rows, dtype=np.int64)
    number = {name: g for g, name in enumerate(collection.names)}
    names = [str(v) for v in table["graph"].to_pylist()]
    unknown = sorted(set(names) - set(number))
    if unknown:
        raise InputError(f"graph {unknown[0]} of {path} is not there. There are {', '.join(list(number)[:20])}.")
    return np.array([number[name] for name in names])


def _rows(column: Any, graph: np.ndarray, collection: Collection, what: str) -> Tensor:
    """Rows by the caller's ids within graphs."""
    if column.null_count:
        raise InputError(f"{what}: row {column.is_null().to_pylist().index(True) + 1} has no id. Give it one.")
    try:
        ids = np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False))
    except pa.ArrowException as error:
        raise InputError(f"{what} is no column of whole numbers ({first_sentence(error)}).") from error
    ptr, node_id = collection.graph.part_ptr.numpy(), collection.graph.node_id.numpy()
    out = np.empty(len(ids), dtype=np.int64)
    for g in np.unique(graph):
        own = node_id[ptr[g] : ptr[g + 1]]
        order = own.argsort(kind="stable")
        mine = graph == g
        place = np.searchsorted(own, ids[mine], sorter=order).clip(max=len(own) - 1)
        found = order[place]
        wrong = own[found] != ids[mine]
        if wrong.any():
            raise InputError(f"{what}: there is no node {ids[mine][wrong][0]} in {collection.names[g]}.")
        out[mine] = ptr[g] + found
    return torch.from_numpy(out)


@dataclass(frozen=True)
class Labels:
    """The labels of a support."""

    names: tuple[str, ...]  # ascending
    y: Tensor  # [n] number of every row's
    number: dict[Any, int]  # by value, and by text

    def of(self, table: pa.Table, path: Path) -> Tensor:
        """[m] numbers of a query's labels; -1 where there is none, or another.

        Raises:
            InputError: where no label is one of the support's.
        """
        if "label" not in table.column_names:
            return torch.full((table.num_rows,), -1)
        told = table["label"].to_pylist()
        found = torch.tensor([self.number.get(v, self.number.get(str(v), -1)) for v in told])
        said = next((v for v in told if not _empty(v)), None)
        if said is not None and not bool((found >= 0).any()):
            raise InputError(
                f"{path} has labels such as {said}, and none of the support's, {', '.join(self.names[:20])}. Write them"
                " alike, or leave the column out."
            )
        return found


def _empty(label: Any) -> bool:
    return label is None or label == "" or label != label  # the last is NaN


def classes(table: pa.Table, path: Path) -> Labels:
    """The labels of a support.

    Raises:
        InputError: where a row has none, or all have the same.
    """
    if "label" not in table.column_names:
        raise InputError(f"{path} lacks label: its columns are {', '.join(table.column_names)}.")
    told = table["label"].to_pylist()
    empty = [i for i, label in enumerate(told, start=1) if _empty(label)]
    if empty:
        raise InputError(f"{path}: row {empty[0]} has no label. A support point needs one.")
    values = sorted(set(told))
    if len(values) < 2:
        raise InputError(f"{path} has one label: there is nothing to tell apart. Give two or more.")
    number = {value: k for k, value in enumerate(values)}
    names = tuple(map(str, values))
    return Labels(names, torch.tensor([number[v] for v in told]), {name: k for k, name in enumerate(names)} | number)


def write(table: pa.Table, labels: tuple[str, ...], chance: Tensor, to: Path) -> None:
    """The query's columns, ``predicted``, and ``p_LABEL`` for every label; ``chance`` [m, labels]."""
    best = chance.argmax(1).tolist()
    table = table.append_column("predicted", pa.array([labels[k] for k in best]))
    for k, label in enumerate(labels):
        table = table.append_column(f"p_{label}", pa.array(chance[:, k].numpy()))
    sink = pa.BufferOutputStream()
    if to.suffix == ".csv":
        pa_csv.write_csv(table, sink)
    else:
        pa_parquet.write_table(table, sink)
    write_aside(to, sink.getvalue().to_pybytes())
