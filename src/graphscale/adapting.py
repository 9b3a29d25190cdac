"""Labels never seen: a trained few-shot network adapts to a table of labelled points and foretells another.

Tables are CSV or Parquet. Columns: ``node``, the caller's id within its graph; ``other`` for pairs; ``graph``, the
name of a graph, where there are several; ``label``, any text or number, in the support (a query's is only compared
with).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import torch
from torch import Tensor

from graphscale import fewshot_baselines, fewshot_parts, fewshot_runs
from graphscale.batches.tasks import Maker, TaskBatch
from graphscale.checkpoint import write_aside
from graphscale.data.collections import Collection
from graphscale.errors import InputError, first_sentence
from graphscale.objectives.meta import Answers, Meta
from graphscale.run import device_of

if TYPE_CHECKING:
    from graphscale.recipes.gmeta import GMetaConfig

_CHUNK = 4096  # queries at a time; each adapts anew, to the same


@dataclass(frozen=True)
class Adapted:
    """What came of an adaptation."""

    labels: tuple[str, ...]  # of the support, ascending
    rows: int  # queries
    curve: tuple[Mapping[str, float], ...]  # by step: support_loss before it; accuracy, where queries have labels
    to: Path


def adapted(
    config: GMetaConfig,
    state: Mapping[str, Any],
    support: Path,
    query: Path | None,
    to: Path,
    *,
    steps: int | None = None,
) -> Adapted:
    """Adapt a checkpoint to ``support`` and write a row for every row of ``query``.

    Args:
        config: of the run; its ``data`` is the graph that the tables speak of.
        state: its best checkpoint.
        support, query: tables as above.
        to: .csv or .parquet: the query's columns, ``predicted``, and ``p_LABEL`` for every label.
        steps: inner steps; by default the run's ``test_steps``.

    Raises:
        InputError: where a table is missing columns, names what is not there, or has fewer than two labels.
    """
    if query is None:
        raise InputError("adapt needs the points to foretell. Give a table of them with --query.")
    if to.suffix not in (".csv", ".parquet"):
        raise InputError(f"--to {to}: write .csv or .parquet.")
    if steps is not None and steps < 0:
        raise InputError(f"--steps {steps}: 0 or more are needed.")
    net, views = fewshot_runs.restored(config, state, episodes=False)
    known, asked = _table(support), _table(query)
    near, far = (_points(t, views.collection, views.centres, f) for t, f in ((known, support), (asked, query)))
    labels, y = _labels(known, support)
    taken_names = {"predicted", *(f"p_{label}" for label in labels)} & set(asked.column_names)
    if taken_names:
        raise InputError(
            f"{query} has a column {min(taken_names)} already, which is to be written. Drop it, or rename it."
        )
    if config.method == "maml" and len(labels) > views.ways:
        raise InputError(
            f"maml learned to tell {views.ways} labels apart, and {support} has {len(labels)}. Give fewer, or train"
            " --method gmeta, whose prototypes may be any number."
        )
    truth = _truth(asked, labels)
    taken = config.test_steps if steps is None else steps
    made = fewshot_parts.maker(config, views, int(state["seed"]))
    parts, curve = [], np.zeros((taken + 1, 2))
    for some in torch.arange(far.shape[0]).split(_CHUNK):
        batch = _batch(made, near, y, far[some], truth[some], len(labels)).to(device_of(config.device))
        answers = _answers(config, views, net, batch, taken)
        for answer in answers:
            # maml's head has as many outputs as its ways, and the support may have fewer labels.
            right = (answer.logits[0, :, : len(labels)].argmax(-1) == batch.query_y[0]) & batch.mask[0]
            curve[answer.step] += (float(answer.support_loss[0]) if answer.support_loss is not None else np.nan,
                                   float(right.sum()))  # fmt: skip
        parts.append(torch.softmax(answers[-1].logits[0, :, : len(labels)], -1).cpu())
    _write(asked, labels, torch.cat(parts), to)
    judged, chunks = int((truth >= 0).sum()), -(-far.shape[0] // _CHUNK)
    told = [(a.step, curve[a.step]) for a in answers]
    return Adapted(
        labels,
        far.shape[0],
        tuple(
            {"step": step, "support_loss": loss / chunks, **({"accuracy": hits / judged} if judged else {})}
            for step, (loss, hits) in told
        ),
        to,
    )


def _answers(config: GMetaConfig, views: Any, net: Any, batch: TaskBatch, steps: int) -> list[Answers]:
    if not config.meta:
        return [Answers(0, fewshot_baselines.answering(config, views, net)(batch)[1], None)]
    meta = Meta(net, fewshot_parts.how(config), steps=steps)
    return list(meta.answers(dict(net.named_parameters()), batch, steps=steps, at=range(steps + 1)))


def _batch(made: Maker, near: Tensor, y: Tensor, far: Tensor, truth: Tensor, ways: int) -> TaskBatch:
    """One task whose classes may have any number of points."""
    points = (near[None], far[None])
    support, query, inputs = made(*points)
    return TaskBatch(support, query, y[None], truth.clamp(min=0)[None], truth[None] >= 0, ways, inputs, 0, points)


def _table(path: Path) -> pa.Table:
    try:
        return pa_parquet.read_table(path) if path.suffix == ".parquet" else pa_csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({first_sentence(error)}). Give a .csv or .parquet.") from error


def _points(table: pa.Table, collection: Collection, centres: int, path: Path) -> Tensor:
    """[n, C] rows of the union that a table's rows name."""
    wanted = ["node", "other"][:centres] + ["graph"] * (collection.num_graphs > 1)
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: its columns are {', '.join(table.column_names)}.")
    if not table.num_rows:
        raise InputError(f"{path} has no row.")
    graph = _graph_of(table, collection, path)
    return torch.stack([_rows(table[name], graph, collection, f"{name} of {path}") for name in wanted[:centres]], 1)


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


def _labels(table: pa.Table, path: Path) -> tuple[tuple[str, ...], Tensor]:
    """(labels ascending, [n] number of every row's)."""
    if "label" not in table.column_names:
        raise InputError(f"{path} lacks label: its columns are {', '.join(table.column_names)}.")
    told = table["label"].to_pylist()
    empty = [i for i, label in enumerate(told, start=1) if label is None or label == ""]
    if empty:
        raise InputError(f"{path}: row {empty[0]} has no label. A support point needs one.")
    labels = sorted(set(told))
    if len(labels) < 2:
        raise InputError(f"{path} has one label: there is nothing to tell apart. Give two or more.")
    number = {label: k for k, label in enumerate(labels)}
    return tuple(map(str, labels)), torch.tensor([number[label] for label in told])


def _truth(table: pa.Table, labels: tuple[str, ...]) -> Tensor:
    """[m] numbers of the query's labels; -1 where there is none, or another."""
    if "label" not in table.column_names:
        return torch.full((table.num_rows,), -1)
    number = {label: k for k, label in enumerate(labels)}
    return torch.tensor([number.get(str(v), -1) for v in table["label"].to_pylist()])


def _write(table: pa.Table, labels: tuple[str, ...], chance: Tensor, to: Path) -> None:
    best = chance.argmax(1).tolist()
    table = table.append_column("predicted", pa.array([labels[k] for k in best]))
    for k, label in enumerate(labels):
        table = table.append_column(f"p_{label}", pa.array(chance[:, k].numpy()))
    sink = pa.BufferOutputStream()
    if to.suffix == ".csv":
        pa_csv.write_csv(table, sink)
    else:
        pa_parquet.write_table(table, sink)
    to.parent.mkdir(parents=True, exist_ok=True)
    write_aside(to, sink.getvalue().to_pybytes())
