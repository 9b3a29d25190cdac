"""What a trained model says of every node, in a Parquet file of the caller's ids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import torch
from torch import Tensor, nn

from graphscale.graph import Graph
from graphscale.nn.plain import infer
from graphscale.nn.static import ClusterGCN
from graphscale.nn.stock import Feed

_TILE = 65536


def write(
    path: Path, model: nn.Module, feed: Feed | None, graph: Graph, *, device: torch.device, embeddings: bool
) -> int:
    """Predict every node and write rows in the order of the caller's ids; returns the number of rows.

    Columns: ``node``; ``predicted`` (the likeliest class, or the list of labels above one half);
    ``probability`` (a list over classes); with ``embeddings``, ``embedding``: the last hidden layer.
    Activations of a model of the house lie in temporary files beside ``path``; a stock model is one
    forward pass in memory.
    """
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        logits, hidden = _outputs(model, feed, graph, device, Path(scratch), embeddings=embeddings)
        order = graph.node_id.argsort()
        aside = Path(scratch) / "rows"
        with pa_parquet.ParquetWriter(aside, _schema(graph, hidden)) as out:
            for start in range(0, graph.num_nodes, _TILE):
                rows = order[start : start + _TILE]
                out.write_table(_table(graph, rows, logits[rows], None if hidden is None else hidden[rows]))
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    return graph.num_nodes


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


def _outputs(
    model: nn.Module, feed: Feed | None, graph: Graph, device: torch.device, scratch: Path, *, embeddings: bool
) -> tuple[Tensor, Tensor | None]:
    assert graph.x is not None
    if isinstance(model, ClusterGCN) and device.type == "cpu":
        model.eval()
        files = iter(range(10**6))

        def on_disk(rows: int, cols: int, dtype: torch.dtype) -> Tensor:
            kind = torch.empty(0, dtype=dtype).numpy().dtype
            file = scratch / f"activation-{next(files)}"
            return torch.from_numpy(np.asarray(np.memmap(file, dtype=kind, mode="w+", shape=(rows, cols))))

        layers = list(model.layers(graph.x, graph.adj, allocate=on_disk))
        return layers[-1], layers[-2] if embeddings and len(layers) > 1 else None
    with _last_hidden(model) as seen:
        attr = None if graph.edge_attr is None else graph.edge_attr.to(device)
        logits = infer(model, feed, graph.x.to(device), graph.adj.to(device), attr).cpu()
    return logits, seen[-1] if embeddings and seen else None


@contextmanager
def _last_hidden(model: nn.Module) -> Iterator[list[Tensor]]:
    """What enters the last message-passing layer while the block runs."""
    from torch_geometric.nn import MessagePassing

    seen: list[Tensor] = []
    layers = [m for m in model.modules() if isinstance(m, MessagePassing)]

    def keep(_: nn.Module, arguments: tuple[object, ...]) -> None:
        if isinstance(arguments[0], Tensor):
            seen.append(arguments[0].detach().cpu())

    handles = [layers[-1].register_forward_pre_hook(keep)] if layers else []
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
