"""From a log to a store of tasks (Meta-IO): counted, parted, numbered, sorted out of core, written as words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np

from graphscale import probe, store
from graphscale.data import task_logs, task_sorting
from graphscale.data.task_logs import MOVIELENS, Columns
from graphscale.data.task_sorting import Cut as Cut
from graphscale.errors import InputError, first_sentence
from graphscale.store.tasks import read_tasks, text, text_of, write_tasks
from graphscale.tasks import Tasks


def columns_of(
    source: str | Path, *, task: str | None, label: str | None, time: str | None = None, dense: str = "",
    sparse: str = "", bags: str = "", hashed: str = "", separator: str = "|", bag_size: int = 16,
) -> Columns:  # fmt: skip
    """Columns from text as the command takes it; those of MovieLens where none are named.

    Raises:
        InputError: where a log of one's own lacks a name.
    """
    place = Path(source)
    if place.is_dir() and not (task or label or sparse or bags or dense):
        known = replace(MOVIELENS, bag_size=min(bag_size, MOVIELENS.bag_size))
        return replace(known, hashed=_rows(hashed))
    if task is None or label is None:
        raise InputError("--task and --label name the columns of tasks and of what is foretold. Give both.")
    return Columns(
        task, label, time, tuple(_parts(dense)), tuple(_pair(part) for part in _parts(sparse)),
        tuple(_pair(part) for part in _parts(bags)), _rows(hashed), separator, bag_size,
    )  # fmt: skip


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pair(part: str) -> tuple[str, str]:
    name, _, table = part.partition(":")
    return name, table or name


def _rows(hashed: str) -> dict[str, int]:
    found = {}
    for part in _parts(hashed):
        table, _, rows = part.partition("=")
        if not (rows.isascii() and rows.isdigit()):
            raise InputError(f"--hashed {hashed}: '{part}' is no table=rows. Write user=1000000,item=100000.")
        found[table.strip()] = int(rows)
    return found


def prepare_tasks(
    source: str | Path, to: Path, columns: Columns, cut: Cut | None = None, *, memory_mb: int | None = None,
    threads: int | None = None, overwrite: bool = False,
) -> Tasks:  # fmt: skip
    """Make a store of a log's samples by task and return it.

    The log may be several times larger than memory: what is in work lies beside ``to``, up to three times the log.

    Args:
        memory_mb: most that DuckDB may hold; by default four fifths of the machine's.

    Raises:
        InputError: where the log, its columns or the place cannot be used.
    """
    cut = cut or Cut()
    if cut.by == "time" and columns.time is None:
        raise InputError("--by time needs the column of times. Name it with --time, or choose --by random.")
    cut = replace(cut, by="random" if columns.time is None or cut.by == "random" else "time")
    if to.exists() and not (overwrite and store.is_store(to)):
        raise InputError(f"{to} is in use. Give another --to, or --overwrite to replace a store.")
    _demand_sound(columns, cut)
    log = task_logs.source(source)
    to.parent.mkdir(parents=True, exist_ok=True)
    for name, value in (("memory-mb", memory_mb), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: 1 or more is needed.")
    with TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.log.") as work:
        con = task_logs.connected(Path(work), memory_mb=memory_mb, threads=threads)
        try:
            _prepare(con, log, str(source), to, columns, cut, overwrite=overwrite)
        except duckdb.Error as error:
            raise InputError(
                f"{source} cannot be prepared ({first_sentence(error)}). Check the types of its columns, --new-items,"
                " --item and --memory-mb."
            ) from error
        finally:
            con.close()
    return read_tasks(to)


def _prepare(con: Any, log: str, source: str, to: Path, columns: Columns, cut: Cut, *, overwrite: bool) -> None:
    named = [
        columns.task,
        columns.label,
        columns.time,
        *columns.dense,
        *(n for n, _ in (*columns.sparse, *columns.bags)),
    ]
    task_logs.demand_columns(con, log, [name for name in named if name is not None])
    task_sorting.copied(con, log, columns if cut.by == "time" else replace(columns, time=None), cut)
    sizes, parts = task_sorting.ranked(con, cut)
    values = task_sorting.numbered(con, columns, cut)
    layout = task_sorting.layout_of(con, columns, values)
    inside = "moment" if cut.by == "time" else f"md5('{cut.seed}:record:' || logs.rowid::VARCHAR)"
    blocks = task_sorting.encoded(
        con, columns, layout, values, f"rank, {inside}, logs.rowid", "JOIN ranks USING (task, fresh)"
    )
    names = text_of(con.sql("SELECT task FROM ranks ORDER BY rank").to_arrow_reader(1 << 17))
    notes = [f"{name}: {end - first:,} tasks" for name, (first, end) in parts.items()]
    notes.append("queries: a task's last records" if cut.by == "time" else "queries: drawn from a task's records")
    # Fetched before: the connection has one result at a time, and the records' is open from here on.
    write_tasks(
        to, layout, _counted(blocks, int(sizes.sum())), np.r_[0, np.cumsum(sizes)],
        sizes - task_sorting.asked(sizes, cut.query), parts, names=names,
        values={table: text(content) for table, content in values.items()}, columns=columns.plain(),
        made={"source": source, "cut": asdict(cut), "versions": probe.versions()}, notes=notes, overwrite=overwrite,
    )  # fmt: skip


def _counted(blocks: Iterator[np.ndarray], expected: int) -> Iterator[np.ndarray]:
    """The blocks, which together have as many records as the index says."""
    met = 0
    for block in blocks:
        met += len(block)
        yield block
    assert met == expected, f"{met} records were sorted where {expected} were counted"


def _demand_sound(columns: Columns, cut: Cut) -> None:
    if not (columns.sparse or columns.bags):
        raise InputError("no column of ids is named, so there is no table to learn. Give --sparse or --bags.")
    names = [*columns.dense, *(name for name, _ in (*columns.sparse, *columns.bags))]
    if len(set(names)) < len(names):
        raise InputError("a column is named twice among --dense, --sparse and --bags. Name each once.")
    if not (cut.val >= 0 and cut.test >= 0 and cut.val + cut.test < 1):
        raise InputError(f"--val {cut.val} and --test {cut.test} leave no task to train on. Lower one.")
    if not cut.query < 1 and not float(cut.query).is_integer():
        raise InputError(f"--query {cut.query}: a whole number of records, or a share below 1.")
    if columns.bag_size < 1:
        raise InputError(f"--bag-size {columns.bag_size}: 1 or more are needed.")
    if cut.new_share is not None and not 0 < cut.new_share < 1:
        raise InputError(f"--new-items {cut.new_items}: a share lies between 0 and 1.")
    if not cut.query > 0 or cut.least < 2:
        raise InputError("a task needs a record to adapt to and one to be judged on: --query above 0, --least from 2.")
    for table, rows in columns.hashed.items():
        if not 2 <= rows < 1 << 31 or table not in columns.tables:
            raise InputError(
                f"--hashed {table}={rows}: a table that a column names is needed, of 2 rows or more, fewer than 2^31."
            )
