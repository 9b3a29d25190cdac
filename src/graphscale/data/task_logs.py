"""Logs of samples as a table of DuckDB: Parquet, CSV, and MovieLens 100K and 1M in GroupLens' own files.

DuckDB sorts and joins out of core: what it holds stays under a limit, the rest lies in a folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Arrow's own pool takes a gigabyte of address space at its first use, which counts against a limit on memory.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

import duckdb

from graphscale.errors import InputError, first_sentence

_100K, _1M = ("u.data", "u.item", "u.user"), ("ratings.dat", "movies.dat", "users.dat")
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Which columns of a log are what.

    Args:
        task: whose samples belong together.
        time: in whose order records of a task lie; without it their order is drawn.
        dense: numbers.
        sparse: (column, table) of one value each; a table may serve several columns.
        bags: (column, table) of several values: lists, or text with ``separator`` between them.
        hashed: table -> rows, of tables whose ids are hashes of their values; others have a vocabulary.
        bag_size: most values of a bag that are kept, the first ones.
    """

    task: str
    label: str
    time: str | None = None
    dense: tuple[str, ...] = ()
    sparse: tuple[tuple[str, str], ...] = ()
    bags: tuple[tuple[str, str], ...] = ()
    hashed: Mapping[str, int] = field(default_factory=dict)
    separator: str = "|"
    bag_size: int = 16

    def plain(self) -> dict[str, Any]:
        """As a manifest says it."""
        return {
            "task": self.task, "label": self.label, "time": self.time, "dense": list(self.dense),
            "sparse": [list(pair) for pair in self.sparse], "bags": [list(pair) for pair in self.bags],
            "hashed": dict(self.hashed), "separator": self.separator, "bag_size": self.bag_size,
        }  # fmt: skip

    @staticmethod
    def of(said: Mapping[str, Any]) -> Columns:
        """The reverse of ``plain``."""
        pairs = {name: tuple((a, b) for a, b in said[name]) for name in ("sparse", "bags")}
        return Columns(**{**said, **pairs, "dense": tuple(said["dense"])})

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables in the order in which they are first named."""
        return tuple(dict.fromkeys(table for _, table in (*self.sparse, *self.bags)))


MOVIELENS = Columns(
    task="user", label="rating", time="time",
    sparse=(("item", "item"), ("year", "year"), ("gender", "gender"), ("age", "age"),
            ("occupation", "occupation"), ("zip", "zip")),
    bags=(("genres", "genres"),), bag_size=8,
)  # fmt: skip


def connected(work: Path, *, memory_mb: int | None = None, threads: int | None = None) -> Any:
    """A database in a folder, under limits."""
    settings: dict[str, Any] = {"temp_directory": str(work / "spilled")}
    if memory_mb is not None:
        settings["memory_limit"] = f"{memory_mb}MB"
    if threads is not None:
        settings["threads"] = threads
    con = duckdb.connect(str(work / "work.duckdb"), config=settings)
    con.execute(f"SET enable_progress_bar = {str(sys.stderr.isatty()).lower()}")  # by itself it draws into files too
    return con


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string in SQL."""
    return "'" + text.replace("'", "''") + "'"


def is_movielens(path: Path) -> bool:
    """Whether a folder holds MovieLens 100K or 1M."""
    return any(all((path / name).is_file() for name in files) for files in (_100K, _1M))


def source(path: str | Path) -> str:
    """What a log is in SQL, to stand behind FROM.

    Raises:
        InputError: where it is no log.
    """
    place = Path(path)
    if place.is_dir():
        if not is_movielens(place):
            raise InputError(
                f"{place} holds neither u.data, u.item and u.user (MovieLens 100K) nor ratings.dat, movies.dat and"
                " users.dat (1M). Give such a folder, or a .parquet or .csv file."
            )
        return _movielens_100k(place) if (place / _100K[0]).is_file() else _movielens_1m(place)
    if place.suffix not in (".parquet", ".csv", ".tsv"):
        raise InputError(f"{path} is no log. Give a .parquet or .csv file, files by a pattern, or MovieLens' folder.")
    if "*" not in str(path) and not place.is_file():
        raise InputError(f"there is no file {path}. Check the path.")
    return f"read_{'parquet' if place.suffix == '.parquet' else 'csv'}({literal(str(path))})"


def demand_columns(con: Any, log: str, wanted: list[str]) -> None:
    """Refuse a log that lacks a column.

    Raises:
        InputError: where one is missing, or the log cannot be read.
    """
    try:
        there = [row[0] for row in con.execute(f"DESCRIBE SELECT * FROM {log}").fetchall()]
    except duckdb.Error as error:
        raise InputError(
            f"the log cannot be read ({first_sentence(error)}). Write it again, or check the path."
        ) from error
    if missing := [name for name in wanted if name not in there]:
        raise InputError(
            f"the log has no column {', '.join(missing)}. It has: {', '.join(there)}. Name columns by --task, --label,"
            " --time, --dense, --sparse and --bags."
        )


def _csv(path: Path, delimiter: str, names: tuple[str, ...], more: str = "") -> str:
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    return (
        f"read_csv({literal(str(path))}, delim = {literal(delimiter)}, header = false, quote = '', escape = '',"
        f" columns = {{{columns}}}{more})"
    )


def _movielens_100k(path: Path) -> str:
    ratings = _csv(path / "u.data", "\t", ("user", "item", "rating", "time"))
    flags = tuple(f"g{i}" for i in range(len(_GENRES)))
    items = _csv(path / "u.item", "|", ("item", "title", "released", "video", "url", *flags), ", encoding = 'latin-1'")
    users = _csv(path / "u.user", "|", ("user", "age", "gender", "occupation", "zip"))
    genres = ", ".join(
        f"CASE {flag} WHEN '1' THEN {literal(name)} END" for flag, name in zip(flags, _GENRES, strict=True)
    )
    return _joined(
        ratings,
        f"(SELECT item, split_part(released, '-', 3) AS year, [g FOR g IN [{genres}] IF g IS NOT NULL] AS genres"
        f" FROM {items})",
        # Ages as 1M has them: under 18, to 24, 34, 44, 49, 55, above.
        f"(SELECT user, gender, occupation, left(zip, 1) AS zip, CASE WHEN age::INT < 18 THEN '1' WHEN age::INT < 25"
        " THEN '18' WHEN age::INT < 35 THEN '25' WHEN age::INT < 45 THEN '35' WHEN age::INT < 50 THEN '45' WHEN"
        f" age::INT < 56 THEN '50' ELSE '56' END AS age FROM {users})",
    )


def _movielens_1m(path: Path) -> str:
    latin = ", encoding = 'latin-1'"
    ratings = _csv(path / "ratings.dat", "::", ("user", "item", "rating", "time"))
    items = _csv(path / "movies.dat", "::", ("item", "title", "genres"), latin)
    users = _csv(path / "users.dat", "::", ("user", "gender", "age", "occupation", "zip"))
    return _joined(
        ratings,
        f"(SELECT item, regexp_extract(title, '\\((\\d{{4}})\\)\\s*$', 1) AS year, string_split(genres, '|') AS genres"
        f" FROM {items})",
        f"(SELECT user, gender, age, occupation, left(zip, 1) AS zip FROM {users})",
    )


def _joined(ratings: str, items: str, users: str) -> str:
    return (
        f"(SELECT user, item, rating::FLOAT AS rating, time::BIGINT AS time, year, genres, gender, age, occupation, zip"
        f" FROM {ratings} LEFT JOIN {items} USING (item) LEFT JOIN {users} USING (user))"
    )
