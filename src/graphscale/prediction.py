"""What a trained model says of every node, in a Parquet file of the caller's ids."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
from torch import Tensor

from graphscale.errors import InputError
from graphscale.graph import Graph
from graphscale.nn.exact import Outputs


class Written(NamedTuple):
    """What was written, and what is to be said of how."""

    rows: int
    note: str


_TILE, _NUMBERS = 65536, 1 << 25  # rows, and numbers of embeddings, that are written at a time


def write(path: Path, predict: Callable[[], tuple[Outputs, Graph]], *, embeddings: bool) -> Written:
    """Predict every node and write rows in the order of the caller's ids.

    Columns: ``node``; ``predicted`` (the likeliest class, or the list of labels above one half);
    ``probability`` (a list over classes); with ``embeddings``, ``embedding``: the last hidden layer.
    """
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as work:
        (logits, hidden, note), graph = predict()
        if embeddings and hidden is None:
            raise InputError(
                "the model has no hidden layer before one that sends messages: there are no embeddings to write. Leave"
                " out --embeddings."
            )
        order = graph.node_id.argsort()
        aside = Path(work) / "rows"
        tile = _TILE if hidden is None else max(1, min(_TILE, _NUMBERS // hidden.shape[1]))
        with pa_parquet.ParquetWriter(aside, _schema(graph, hidden)) as out:
            for start in range(0, graph.num_nodes, tile):
                rows = order[start : start + tile]
                out.write_table(_table(graph, rows, logits[rows], None if hidden is None else hidden[rows]))
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    return Written(graph.num_nodes, note)


def _schema(graph: Graph, hidden: Tensor | None) -> pa.Schema:
    predicted = pa.list_(pa.int64()) if graph.multilabel else pa.int64()
    fields = [
        ("node", pa.int64()),
        ("predicted", predicted),
        ("probability", pa.list_(pa.float32(), graph.num_classes)),
    ]
    if hidden is not None:
        fields.append(("embedding", pa.list_(pa.float32(), hidden.shape[1])))
    return pa.schema(fields)


def _table(graph: Graph, rows: Tensor, logits: Tensor, hidden: Tensor | None) -> pa.Table:
    logits = logits.float()
    if graph.multilabel:
        probability = logits.sigmoid()
        predicted: object = [row.nonzero().flatten().tolist() for row in probability > 0.5]
    else:
        probability = logits.softmax(1)
        predicted = probability.argmax(1).numpy()
    columns = [graph.node_id[rows].numpy(), predicted, _lists(probability)]
    if hidden is not None:
        columns.append(_lists(hidden.float()))
    return pa.table(columns, schema=_schema(graph, hidden))


def _lists(values: Tensor) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(values.numpy()).reshape(-1), type=pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
