"""Write a store of tasks with Ray Data on one machine or many: python ray_tasks.py LOGS.parquet STORE (needs ray).

Columns user, clicked, t, item, city; ids are hashed as ``prepare-tasks --hashed`` does, so both stores are alike.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from graphscale.data.task_logs import Columns
from graphscale.store.tasks import text, write_tasks
from graphscale.tasks import Field, Layout, words

TABLES = {"item": 100_000, "city": 1_000}
LAYOUT = Layout((), tuple(Field(name, name) for name in TABLES), TABLES)
COLUMNS = Columns("user", "clicked", "t", sparse=tuple((name, name) for name in TABLES), hashed=TABLES)
QUERY, LEAST = 10, 13


def hashed(values: np.ndarray, rows: int) -> np.ndarray:
    """Ids 1..rows - 1 of values, by the last eight bytes of their MD5."""
    low = [int.from_bytes(hashlib.md5(str(v).encode()).digest()[8:], "little") for v in values]
    return np.array([number % (rows - 1) + 1 for number in low], dtype=np.int32)


def encoded(samples: dict[str, np.ndarray]) -> dict[str, Any]:
    """A user's samples as words, in the order of time; none of a user with too few."""
    order = np.argsort(samples["t"], kind="stable")
    ids = np.stack([hashed(samples[name][order], rows) for name, rows in TABLES.items()], axis=1)
    label = samples["clicked"][order].astype(np.float32)
    made = words(label, np.empty((len(order), 0)), ids)
    kept = len(order) >= LEAST
    return {"user": [str(samples["user"][0])] * kept, "words": [made.reshape(-1)] * kept}


def main(log: str, to: str) -> None:
    import ray

    users = ray.data.read_parquet(log).groupby("user").map_groups(encoded, batch_format="numpy")
    users = users.random_shuffle(seed=0).materialize()
    sizes = np.array([len(row["words"]) // LAYOUT.words for row in users.select_columns("words").iter_rows()])
    names = [row["user"] for row in users.select_columns("user").iter_rows()]
    held = len(sizes) // 10
    ends = (len(sizes) - 2 * held, len(sizes) - held, len(sizes))
    parts = {"train": (0, ends[0]), "val": (ends[0], ends[1]), "test": (ends[1], ends[2])}
    blocks = (row["words"].reshape(-1, LAYOUT.words) for row in users.iter_rows())
    write_tasks(
        Path(to), LAYOUT, blocks, np.r_[0, np.cumsum(sizes)], sizes - QUERY, parts, names=text(names),
        columns=COLUMNS.plain(),
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
