"""The Ray example writes the store that prepare-tasks writes; a stand-in groups and shuffles where Ray would."""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from graphscale.data.task_logs import Columns
from graphscale.data.task_sorting import Cut
from graphscale.store import verify
from graphscale.store.tasks import names_of, read_tasks
from graphscale.task_preparing import prepare_tasks

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_tasks.py"


class Rows:
    """Rows of a data set, with the few verbs of Ray Data that the example speaks."""

    def __init__(self, rows):
        self.rows = rows

    def groupby(self, name):
        self.key = name
        return self

    def map_groups(self, work, batch_format):
        assert batch_format == "numpy"
        out = []
        for value in sorted({row[self.key] for row in self.rows}):
            some = [row for row in self.rows if row[self.key] == value]
            made = work({name: np.array([row[name] for row in some]) for name in some[0]})
            out += [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)]
        return Rows(out)

    def random_shuffle(self, seed):
        return Rows([self.rows[i] for i in np.random.default_rng(seed).permutation(len(self.rows))])

    def materialize(self):
        return self

    def select_columns(self, name):
        return Rows([{name: row[name]} for row in self.rows])

    def iter_rows(self):
        return iter(self.rows)


def test_both_stores_hold_the_same_tasks(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    log = {"user": draw.integers(30, size=600), "clicked": draw.integers(2, size=600), "t": draw.permutation(600),
           "item": draw.integers(1000, size=600), "city": draw.integers(9, size=600)}  # fmt: skip
    pa_parquet.write_table(pa.table(log), tmp_path / "log.parquet")
    ray = types.ModuleType("ray")
    ray.data = types.SimpleNamespace(read_parquet=lambda path: Rows(pa_parquet.read_table(path).to_pylist()))
    monkeypatch.setitem(sys.modules, "ray", ray)
    example = runpy.run_path(str(EXAMPLE))
    example["main"](str(tmp_path / "log.parquet"), str(tmp_path / "ray"))
    sparse = tuple((name, name) for name in example["TABLES"])
    columns = Columns("user", "clicked", "t", sparse=sparse, hashed=example["TABLES"])
    prepare_tasks(tmp_path / "log.parquet", tmp_path / "own", columns, Cut(query=10, least=13))
    stores = [read_tasks(tmp_path / name) for name in ("ray", "own")]
    assert stores[0].layout == stores[1].layout and verify(tmp_path / "ray") == []
    found = [
        {
            name: (int(tasks.support[t]), tasks.records[int(tasks.offset[t]) : int(tasks.offset[t + 1])].tolist())
            for t, name in enumerate(names_of(tasks))
        }
        for tasks in stores
    ]
    assert found[0] == found[1] and len(found[0]) > 20
    assert len(EXAMPLE.read_text().splitlines()) < 60
