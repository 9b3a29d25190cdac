"""From a log to records by task, out of core: tasks are counted and parted, values numbered, samples sorted.

Everything random follows from MD5 of (seed, name), so any engine can do the same; so do hashed ids: the last eight
bytes of a value's MD5, little-endian, modulo rows - 1, plus 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphscale.data.task_logs import Columns, literal, quoted
from graphscale.errors import InputError
from graphscale.tasks import Field, Layout, words

PARTS = ("train", "val", "test", "new_items", "new_both")
Label = Literal["needed", "optional", "none"]
_BLOCK = 1 << 17  # records that are turned into words at a time


@dataclass(frozen=True)
class Cut:
    """How samples become support and query, and tasks become parts.

    Args:
        by: the last records of a task in time are its queries, or any; ``auto``: in time where times are named.
        query: how many; below 1 a share of the task's.
        least, most: records of a task; others are left out.
        val, test: shares of the tasks.
        new_items: SQL condition, or share of ``item``'s values, of items that training does not see.
        item: column of items.
        min_count: records of training that a value needs for a number of its own.
    """

    by: Literal["auto", "time", "random"] = "auto"
    query: float = 10
    least: int = 13
    most: int | None = None
    val: float = 0.1
    test: float = 0.1
    new_items: str | None = None
    item: str | None = None
    min_count: int = 1
    seed: int = 0

    @property
    def new_share(self) -> float | None:
        """``new_items`` where it is a share; None where it is a condition, or nothing."""
        try:
            return None if self.new_items is None else float(self.new_items)
        except ValueError:
            return None


def copied(con: Any, log: str, columns: Columns, cut: Cut | None = None, *, label: Label = "needed") -> None:
    """Make ``logs``: task, label, moment, d0.., s0.., b0.. (lists of text), fresh.

    Args:
        columns: whose times are those of the log, or None.
        label: records without one are left out, or kept without, or the log has no such column.

    Raises:
        InputError: where times are text, or a record has none.
    """
    kinds = {row[0]: row[1] for row in con.execute(f"DESCRIBE SELECT * FROM {log}").fetchall()}
    if columns.time is not None:
        _demand_times(con, log, columns.time, kinds[columns.time])
    task = _text(quoted(columns.task), kinds[columns.task])
    labelled = "NULL" if label == "none" else _number(columns.label)
    picked = [
        f"{task} AS task",
        f"{labelled}::FLOAT AS label",
        f"{'NULL' if columns.time is None else quoted(columns.time)} AS moment",
        *(f"coalesce({_number(name)}, 0) AS d{i}" for i, name in enumerate(columns.dense)),
        *(f"{_text(quoted(name), kinds[name])} AS s{i}" for i, (name, _) in enumerate(columns.sparse)),
        *(f"{_list(quoted(name), kinds[name], columns)} AS b{i}" for i, (name, _) in enumerate(columns.bags)),
        f"{_fresh(cut) if cut else 'false'} AS fresh",
    ]
    where = f"WHERE {quoted(columns.task)} IS NOT NULL" + (f" AND {labelled} IS NOT NULL" if label == "needed" else "")
    con.execute(f"CREATE OR REPLACE TABLE logs AS SELECT {', '.join(picked)} FROM {log} {where}")


def _number(name: str) -> str:
    """A column as a number, NULL where it is none or not finite."""
    value = f"{quoted(name)}::FLOAT"
    return f"(CASE WHEN isfinite({value}) THEN {value} END)"


def _text(value: str, kind: str) -> str:
    """A value as text: whole numbers alike whatever their type, since those with gaps often come as floats."""
    if kind not in ("DOUBLE", "FLOAT"):
        return f"{value}::VARCHAR"
    whole = f"isfinite({value}) AND {value} = floor({value}) AND abs({value}) < 9e15"
    return f"(CASE WHEN isnan({value}) THEN NULL WHEN {whole} THEN {value}::BIGINT::VARCHAR ELSE {value}::VARCHAR END)"


def _demand_times(con: Any, log: str, name: str, kind: str) -> None:
    if kind.startswith(("VARCHAR", "BLOB", "BOOLEAN")) or kind.endswith("]"):
        raise InputError(f"times in {name} are {kind}, which has no order in time. Write numbers, dates or timestamps.")
    ((without,),) = con.execute(f"SELECT count(*) FROM {log} WHERE {quoted(name)} IS NULL").fetchall()
    if without:
        raise InputError(f"{without:,} records have no time in {name}. Give them one, or leave out --time.")


def _list(column: str, kind: str, columns: Columns) -> str:
    if kind.endswith("]"):
        whole = f"[{_text('x', kind[: kind.rindex('[')])} FOR x IN {column}]"
    else:
        whole = f"string_split(nullif({column}::VARCHAR, ''), {literal(columns.separator)})"
    return f"list_slice({whole}, 1, {columns.bag_size})"


def _fresh(cut: Cut) -> str:
    """Whether a sample's item is one that training does not see."""
    if cut.new_items is None:
        return "false"
    if cut.new_share is None:
        return f"coalesce(({cut.new_items}), false)"
    if cut.item is None:
        raise InputError("--new-items as a share needs --item, the column of items. Give it, or a condition in SQL.")
    return f"{_draw(f'{quoted(cut.item)}::VARCHAR', cut.seed, 'item')} < {cut.new_share} * 1e6"


def _draw(text: str, seed: int, what: str) -> str:
    """A number below a million that is a function of (seed, what, text)."""
    return f"(md5_number_lower({literal(f'{seed}:{what}:')} || {text}) % 1000000)"


def ranked(con: Any, cut: Cut) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Make ``ranks``: task, fresh, rank in the store; gives records [T] of every task and its parts.

    Raises:
        InputError: where nothing is left to train on.
    """
    most = "true" if cut.most is None else f"n <= {cut.most}"
    con.execute(
        "CREATE OR REPLACE TABLE counted AS SELECT task, fresh, count(*) AS n FROM logs GROUP BY ALL"
        f" HAVING n >= {cut.least} AND {most}"
    )
    key = f"md5({literal(f'{cut.seed}:task:')} || task)"
    con.execute(
        f"CREATE OR REPLACE TABLE people AS SELECT task, row_number() OVER (ORDER BY {key}, task) - 1 AS place,"
        " count(*) OVER () AS there FROM (SELECT DISTINCT task FROM counted)"
    )
    part = (
        f"CASE WHEN place < floor({cut.val} * there) THEN 1 WHEN place < floor(({cut.val} + {cut.test}) * there) THEN 2"
        " ELSE 0 END"
    )
    con.execute(
        "CREATE OR REPLACE TABLE ranks AS"
        f" SELECT task, fresh, n, part, row_number() OVER (ORDER BY part, {key}, task) - 1 AS rank FROM"
        f" (SELECT task, fresh, n, CASE WHEN NOT fresh THEN {part} WHEN {part} = 0 THEN 3 WHEN {part} = 2 THEN 4"
        " ELSE 5 END AS part FROM counted JOIN people USING (task)) WHERE part < 5"
    )
    found = con.execute("SELECT part, n FROM ranks ORDER BY rank").fetchnumpy()
    sizes, codes = np.asarray(found["n"], dtype=np.int64), np.asarray(found["part"])
    ends = np.searchsorted(codes, np.arange(len(PARTS) + 1)).tolist()
    parts = {name: (ends[i], ends[i + 1]) for i, name in enumerate(PARTS) if i < 3 or ends[i] < ends[i + 1]}
    if parts["train"][0] == parts["train"][1]:
        ((there,),) = con.execute("SELECT count(DISTINCT task) FROM logs").fetchall()
        raise InputError(
            f"no task is left to train on: of {there} tasks"
            f" none has {cut.least} records or more{f' and {cut.most} or fewer' if cut.most else ''}. Lower --least."
        )
    return sizes, parts


def asked(sizes: np.ndarray, query: float) -> np.ndarray:
    """[T] queries of tasks of so many records; at least one record is left to the support where there are two."""
    wanted = np.full_like(sizes, int(query)) if query >= 1 else np.maximum(1, np.round(query * sizes)).astype(np.int64)
    return np.asarray(np.minimum(wanted, np.maximum(1, sizes - 1)))


def numbered(con: Any, columns: Columns, cut: Cut) -> dict[str, list[str]]:
    """Make ``values_i`` (value, id) of every table with a vocabulary, of training's values, the frequent ones first."""
    found = {}
    for i, table in enumerate(columns.tables):
        if table in columns.hashed:
            continue
        sources = [f"SELECT s{k} AS value FROM seen" for k, (_, of) in enumerate(columns.sparse) if of == table]
        sources += [f"SELECT unnest(b{k}) AS value FROM seen" for k, (_, of) in enumerate(columns.bags) if of == table]
        con.execute(
            "WITH seen AS (SELECT logs.* FROM logs JOIN ranks USING (task, fresh) WHERE part = 0)"
            f" SELECT value FROM ({' UNION ALL '.join(sources)}) WHERE value IS NOT NULL GROUP BY value"
            f" HAVING count(*) >= {cut.min_count} ORDER BY count(*) DESC, value"
        )
        found[table] = [row[0] for row in con.fetchall()]
        known(con, i, found[table])
    return found


def known(con: Any, i: int, values: list[str]) -> None:
    """Make ``values_i`` of a vocabulary: ids from 1."""
    there = pa.table(
        {"value": pa.array(values, pa.string()), "id": pa.array(np.arange(1, len(values) + 1, dtype=np.int32))}
    )
    con.register("given", there)
    con.execute(f"CREATE OR REPLACE TABLE values_{i} AS SELECT * FROM given")
    con.unregister("given")


def layout_of(con: Any, columns: Columns, values: Mapping[str, list[str]]) -> Layout:
    """The layout of a log: bags are as wide as the log's longest."""
    widths = [
        max(2, con.execute(f"SELECT coalesce(max(len(b{i})), 0) FROM logs").fetchall()[0][0])
        for i in range(len(columns.bags))
    ]
    fields = [Field(name, table) for name, table in columns.sparse]
    fields += [Field(name, table, width) for (name, table), width in zip(columns.bags, widths, strict=True)]
    rows = {table: columns.hashed.get(table) or len(values[table]) + 1 for table in columns.tables}
    return Layout(columns.dense, tuple(fields), rows)


def encoded(
    con: Any, columns: Columns, layout: Layout, values: Mapping[str, list[str]], order: str, joined: str = ""
) -> Iterator[np.ndarray]:
    """Blocks [_, W] of the words of ``logs``.

    Args:
        values: of tables with a vocabulary; ``values_i`` are those of table i.
        order: what they are sorted by.
        joined: what ``logs`` is joined with.
    """
    number = {table: i for i, table in enumerate(columns.tables)}
    picked, joins = ["coalesce(label, 0) AS label", *(f"d{i}" for i in range(len(columns.dense)))], [joined]
    for k, (_, table) in enumerate(columns.sparse):
        if table in columns.hashed:
            picked.append(f"{_hashed(f's{k}', columns.hashed[table])} AS i{k}")
        else:
            joins.append(f"LEFT JOIN values_{number[table]} AS v{k} ON s{k} = v{k}.value")
            picked.append(f"coalesce(v{k}.id, 0) AS i{k}")
    for k, (_, table) in enumerate(columns.bags):
        hashed = columns.hashed.get(table)
        picked.append(f"[{_hashed('x', hashed)} FOR x IN b{k}] AS b{k}" if hashed else f"b{k}")
    sorted_ = con.sql(f"SELECT {', '.join(picked)} FROM logs {' '.join(joins)} ORDER BY {order}")
    sets = {table: pa.array(content, pa.string()) for table, content in values.items()}
    for block in sorted_.to_arrow_reader(_BLOCK):
        yield _words(block, columns, layout, sets)


def _hashed(text: str, rows: int) -> str:
    return f"coalesce((md5_number_lower({text}) % {rows - 1} + 1)::INTEGER, 0)"


def _words(block: Any, columns: Columns, layout: Layout, sets: Mapping[str, Any]) -> np.ndarray:
    def column(name: str) -> np.ndarray:
        return np.asarray(block.column(name).to_numpy(zero_copy_only=False))

    size = block.num_rows
    dense = (
        np.stack([column(f"d{i}") for i in range(len(columns.dense))], axis=1) if columns.dense else np.empty((size, 0))
    )
    ids = np.full((size, layout.slots), -1, dtype=np.int32)
    for k in range(len(columns.sparse)):
        ids[:, k] = column(f"i{k}")
    for k, (_, table) in enumerate(columns.bags):
        first = layout.starts[len(columns.sparse) + k]
        _fill(
            ids[:, first : first + layout.fields[len(columns.sparse) + k].width], block.column(f"b{k}"), sets.get(table)
        )
    return words(column("label"), dense, ids)


def _fill(out: np.ndarray, lists: Any, values: Any) -> None:
    """Put the lists' ids into ``out`` [n, width], which holds -1."""
    count = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
    flat = lists.flatten()
    if values is not None:
        flat = pc.add(pc.fill_null(pc.index_in(flat, value_set=values), -1), 1)
    flat = np.asarray(flat)
    row = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    kept = place < out.shape[1]
    out[row[kept], place[kept]] = flat[kept]
