"""Tasks that a run has never seen: records are encoded as training's were, tasks adapt, queries are scored."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import torch
from torch import Tensor

from graphscale.batches.task_decoder import EMBEDDING, Decoder
from graphscale.data import task_logs, task_sorting
from graphscale.data.task_logs import Columns
from graphscale.errors import InputError, first_sentence
from graphscale.rating_runs import decoder_of, restored
from graphscale.rating_scores import TaskScores
from graphscale.store.folder import TASKS, manifest_of
from graphscale.store.tasks import values_of
from graphscale.tasks import Tasks

if TYPE_CHECKING:
    from graphscale.recipes.gmeta_dlrm import GMetaDLRMConfig


class Encoded(NamedTuple):
    """Records as a store would hold them, in the order of their log."""

    words: np.ndarray  # [n, W]
    task: np.ndarray  # [n] names
    labelled: np.ndarray  # [n] bool
    moment: np.ndarray  # [n] int64: ascending in time; 0 where the log says nothing of it


@dataclass(frozen=True)
class Encoder:
    """Turns logs into words, with the values and tables of a store.

    Args:
        tasks: of the store.
    """

    tasks: Tasks
    columns: Columns
    values: Mapping[str, list[str]]

    @staticmethod
    def of(tasks: Tasks) -> Encoder:
        """That of a store.

        Raises:
            InputError: where it was written without naming columns.
        """
        said = {} if tasks.path is None else manifest_of(tasks.path, *TASKS)["columns"]
        if tasks.path is None or not said:
            raise InputError(
                "the run's tasks do not say which columns they were made of, so no other records can be encoded alike."
                " Train on a store of graphscale prepare-tasks."
            )
        columns = Columns.of(said)
        values = {table: values_of(tasks.path, table) for table in columns.tables if table not in columns.hashed}
        return Encoder(tasks, columns, {table: found for table, found in values.items() if found is not None})

    def __call__(self, log: str | Path | Mapping[str, Any] | pa.Table, *, label: task_sorting.Label) -> Encoded:
        """Words of a log: a file, or columns by name.

        Raises:
            InputError: where it lacks a column, or a record lacks its task; a column has other types than the store's.
        """
        with TemporaryDirectory(prefix="graphscale-log-") as work:
            con = task_logs.connected(Path(work))
            try:
                if isinstance(log, str | Path):
                    source, rows = task_logs.source(log), None
                else:
                    table = log if isinstance(log, pa.Table) else pa.table(dict(log))
                    con.register("given", table)
                    source, rows = "given", table.num_rows
                return self._encoded(con, source, rows, label)
            except (duckdb.Error, pa.ArrowException) as error:
                raise InputError(
                    f"the records cannot be read ({first_sentence(error)}). Give the columns and types that the store"
                    " was prepared of."
                ) from error
            finally:
                con.close()

    def _encoded(self, con: Any, source: str, rows: int | None, label: task_sorting.Label) -> Encoded:
        columns = self.columns
        names = [columns.task, *columns.dense, *(name for name, _ in (*columns.sparse, *columns.bags))]
        task_logs.demand_columns(con, source, names if label == "none" else [*names, columns.label])
        there = {row[0] for row in con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
        timed = columns.time if columns.time in there else None
        task_sorting.copied(con, source, replace(columns, time=timed), label=label)
        for i, table in enumerate(columns.tables):
            if table in self.values:
                task_sorting.known(con, i, self.values[table])
        moment = "0" if timed is None else "dense_rank() OVER (ORDER BY moment)"
        found = con.execute(f"SELECT task, label IS NOT NULL, {moment} FROM logs ORDER BY rowid").fetchall()
        if rows is None:
            ((rows,),) = con.execute(f"SELECT count(*) FROM {source}").fetchall()
        if len(found) != rows:
            raise InputError(
                f"{rows - len(found)} records lack {columns.task} or {columns.label}. Give every record both."
            )
        blocks = list(task_sorting.encoded(con, columns, self.tasks.layout, self.values, "logs.rowid"))
        words = np.concatenate(blocks) if blocks else np.empty((0, self.tasks.layout.words), dtype=np.int32)
        self._say_unknown(words)
        task = np.array([row[0] for row in found], dtype=object)
        labelled = np.array([row[1] for row in found], dtype=bool)
        return Encoded(words, task, labelled, np.array([row[2] for row in found], dtype=np.int64))

    def _say_unknown(self, words: np.ndarray) -> None:
        """Warn of columns without a value that training had, as of another type: all their records look alike."""
        layout = self.tasks.layout
        for k, (name, table) in enumerate(self.columns.sparse):
            if table in self.values and len(words) and not (words[:, 1 + len(layout.dense) + k] > 0).any():
                warnings.warn(
                    f"no value of {name} is one that training had, such as {self.values[table][0]}", stacklevel=2
                )


def foretold(scores: TaskScores, decoder: Decoder, support: Encoded, query: Encoded) -> Tensor:
    """[n] scores of queries, each by its task's weights after adaptation to its support, if it has any.

    Args:
        query: its tasks may be others than the support's.
    """
    names = np.concatenate([query.task, support.task])
    if not len(query.task):
        return torch.empty(0)
    _, task = np.unique(names.astype(str), return_inverse=True)
    asks = np.r_[np.ones(len(query.task), dtype=bool), np.zeros(len(support.task), dtype=bool)]
    there = np.isin(task, task[asks])  # tasks without a query need not adapt
    moment = np.concatenate([query.moment, support.moment])
    order = np.lexsort((np.arange(len(task)), moment, asks, task))
    order = order[there[order]]
    words = np.concatenate([query.words, support.words])[order]
    sizes, queries = (np.bincount(task[order], weights).astype(np.int64) for weights in (None, asks[order]))
    sizes, queries = sizes[sizes > 0], queries[sizes > 0]
    begins = np.r_[0, np.cumsum(sizes)]
    out = torch.empty(len(query.task))
    for first in range(0, len(sizes), scores.size):
        some = slice(first, first + scores.size)
        low, high = begins[first], begins[min(first + scores.size, len(sizes))]
        batch = decoder.decoded(
            words[low:high], begins[some][: len(sizes[some])] - low, sizes[some] - queries[some], queries[some],
            torch.arange(first, first + len(sizes[some])),
        )  # fmt: skip
        place = order[low:high][asks[order[low:high]]]
        out[torch.from_numpy(place)] = scores.batch(batch).score
    return out.sigmoid() if scores.clicks else out


def ready(config: GMetaDLRMConfig, state: Mapping[str, Any]) -> tuple[TaskScores, Decoder, Encoder]:
    """What scores, what decodes and what encodes, of a checkpoint.

    Raises:
        InputError: where the checkpoint or its tasks cannot be used.
    """
    objective, table, views = restored(config, state)
    scores = TaskScores(
        objective, {EMBEDDING: table}, decoder_of(config, views.tasks), size=config.tasks_per_step, device=table.device
    )
    return scores, decoder_of(config, views.tasks), Encoder.of(views.tasks)


def adapted_predictions(
    config: GMetaDLRMConfig, state: Mapping[str, Any], support: Path, query: Path | None, to: Path
) -> int:
    """Write scores of queries after adaptation to a support to a Parquet file: task, row of the log, score.

    Args:
        state: a checkpoint (``folder.best``).
        support: a log with the columns that training's had.
        query: another, whose labels are not looked at; None scores the support's records without one.
        to: where the file goes; replaced when it is whole.

    Returns:
        Records scored.

    Raises:
        InputError: where a log cannot be used, or nothing is asked.
    """
    if to.suffix != ".parquet":
        raise InputError(f"--to {to}: scores of records are written as .parquet.")
    scores, decoder, encoder = ready(config, state)
    there = encoder(support, label="optional")
    shown, asked = picked(there, there.labelled), picked(there, ~there.labelled)
    rows = np.flatnonzero(~there.labelled)
    if query is not None:
        asked = encoder(query, label="none")
        rows = np.arange(len(asked.task))
    if not len(rows):
        raise InputError(
            f"{support} has no record without a label, so nothing is asked. Leave labels of what is asked empty, or"
            " give a log of queries."
        )
    found = foretold(scores, decoder, shown, asked)
    columns = {"task": pa.array(asked.task.tolist(), pa.string()), "row": rows, "score": found.numpy()}
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.with_name(f".{to.name}.part")
    pa_parquet.write_table(pa.table(columns), aside)
    os.replace(aside, to)
    return len(rows)


def picked(encoded: Encoded, which: np.ndarray) -> Encoded:
    """Some of the records."""
    return Encoded(*(column[which] for column in encoded))
