"""From logs to stores of tasks: beside the same done by hand, from CSV, Parquet and MovieLens' files."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest
import torch

from graphscale import cli, store
from graphscale.data.task_logs import Columns
from graphscale.data.task_sorting import Cut
from graphscale.errors import InputError
from graphscale.store.tasks import names_of, read_tasks, strings, text, text_of, values_of
from graphscale.task_preparing import prepare_tasks

COLUMNS = Columns(
    "user", "clicked", "t", dense=("price",), sparse=(("item", "item"), ("city", "city")), bags=(("tags", "tags"),)
)


def log(rows=300, users=12, seed=0):
    draw = np.random.default_rng(seed)
    tags = [[f"g{k}" for k in draw.integers(6, size=n)] for n in draw.integers(0, 4, size=rows)]
    return {
        "user": [f"u{k}" for k in draw.integers(users, size=rows)], "clicked": draw.integers(2, size=rows),
        "t": draw.permutation(rows), "price": draw.random(rows).astype(np.float32),
        "item": draw.integers(40, size=rows),
        "city": [None if k == 0 else f"c{k}" for k in draw.integers(5, size=rows)], "tags": tags,
    }  # fmt: skip


def by_hand(columns, tasks, layout, values, hashed=()):
    """Records of each task of a store as (label, price, item id, city id, tags' ids), from the log itself."""

    def number(table, value):
        if table in hashed and value is not None:
            low = int.from_bytes(hashlib.md5(str(value).encode()).digest()[8:], "little")
            return low % (layout.tables[table] - 1) + 1
        return values[table].index(str(value)) + 1 if value is not None and str(value) in values[table] else 0

    found = {}
    for i in np.argsort(columns["t"], kind="stable"):
        tags = [number("tags", tag) for tag in columns["tags"][i]]
        ids = [number("item", columns["item"][i]), number("city", columns["city"][i])]
        ids += tags + [-1] * (layout.fields[-1].width - len(tags))
        found.setdefault(columns["user"][i], []).append((columns["clicked"][i], columns["price"][i], ids))
    return found


def records(tasks, number):
    first, end = tasks.offset[number : number + 2].tolist()
    words = tasks.records[first:end]
    floats = words[:, :2].contiguous().view(torch.float32)
    return [(int(f[0]), np.float32(f[1]), w[2:].tolist()) for f, w in zip(floats, words, strict=True)]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("hashed", [{}, {"item": 17, "tags": 5}])
def test_records_are_those_of_the_log(tmp_path, kind, hashed):
    columns = log()
    if kind == "csv":
        table = pa.table({**columns, "tags": ["|".join(tags) for tags in columns["tags"]]})
        pa_csv.write_csv(table, tmp_path / "log.csv")
    else:
        pa_parquet.write_table(pa.table(columns), tmp_path / "log.parquet")
    how = Columns(**{**COLUMNS.__dict__, "hashed": hashed})
    made = prepare_tasks(tmp_path / f"log.{kind}", tmp_path / "store", how, Cut(query=0.3, least=5, min_count=3))
    values = {table: values_of(tmp_path / "store", table) for table in made.layout.tables}
    assert {table for table in values if values[table] is None} == set(hashed)
    expected = by_hand(columns, made, made.layout, values, hashed)
    names = names_of(made)
    assert sorted(names) == sorted(name for name, rows in expected.items() if len(rows) >= 5)
    for number, name in enumerate(names):
        assert records(made, number) == expected[name]
        assert made.support[number] == len(expected[name]) - max(1, round(0.3 * len(expected[name])))
    trained = [row for name in names[slice(*made.parts["train"])] for row in expected[name]]
    for table, slot in (("item", 0), ("city", 1)):
        if values[table] is not None:
            counts = np.bincount([row[2][slot] for row in trained], minlength=len(values[table]) + 1)[1:]
            assert (counts >= 3).all() and (np.diff(counts) <= 0).all(), "training's values, the frequent ones first"
    assert store.verify(tmp_path / "store") == []


def test_parts_are_disjoint_and_new_items_are_kept_from_training(tmp_path):
    pa_parquet.write_table(pa.table(log(3000, 60)), tmp_path / "log.parquet")
    cut = Cut(query=2, least=5, val=0.2, test=0.2, new_items="item >= 30")
    made = prepare_tasks(tmp_path / "log.parquet", tmp_path / "store", COLUMNS, cut)
    names, items = names_of(made), [int(v) for v in values_of(tmp_path / "store", "item")]
    people = {part: set(names[first:end]) for part, (first, end) in made.parts.items()}
    assert max(items) < 30, "a value that training does not see has no number"
    assert people["new_items"] <= people["train"] and people["new_both"] <= people["test"]
    assert not people["train"] & people["val"] and not people["train"] & people["test"]
    assert len(people["val"]) == len(people["test"]) == 12
    for part, new in (("train", False), ("test", False), ("new_items", True), ("new_both", True)):
        first, end = made.span(part)
        assert bool(((made.records[first:end, 2] == 0) == new).all()), part
    share = prepare_tasks(
        tmp_path / "log.parquet", tmp_path / "share", COLUMNS, Cut(query=2, least=5, new_items="0.3", item="item")
    )
    assert 20 <= share.layout.tables["item"] - 1 <= 36


def test_a_limit_on_memory_and_threads_changes_nothing(tmp_path):
    pa_parquet.write_table(pa.table(log(2000)), tmp_path / "log.parquet")
    made = [
        prepare_tasks(tmp_path / "log.parquet", tmp_path / str(i), COLUMNS, Cut(by="random", least=5), **limits)
        for i, limits in enumerate(({}, {"memory_mb": 100, "threads": 1}))
    ]
    assert made[0].identity == made[1].identity


@pytest.mark.parametrize("kind", ["100k", "1m"])
def test_movielens(tmp_path, kind):
    if kind == "100k":
        (tmp_path / "u.data").write_text("".join(f"1\t{i}\t{i % 5 + 1}\t{i}\n" for i in (1, 2)) * 7 + "2\t1\t3\t9\n")
        flags = "0|" * 5 + "1|0|0|1" + "|0" * 10
        (tmp_path / "u.item").write_bytes(
            f"1|Caf\xe9 (1995)|01-Jan-1995||http://x|{flags}\n2|B (1990)|||u|{flags}\n".encode("latin-1")
        )
        (tmp_path / "u.user").write_text("1|24|M|writer|85711\n2|60|F|other|94043\n")
        ages = ["18"]
    else:
        (tmp_path / "ratings.dat").write_text(
            "".join(f"1::{i}::{i % 5 + 1}::{i}\n" for i in (1, 2)) * 7 + "2::1::3::9\n"
        )
        (tmp_path / "movies.dat").write_bytes(
            "1::Caf\xe9 (1995)::Comedy|Drama\n2::B (1990)::Comedy|Drama\n".encode("latin-1")
        )
        (tmp_path / "users.dat").write_text("1::M::25::16::85711\n2::F::56::3::94043\n")
        ages = ["25"]
    assert cli.main(["prepare-tasks", str(tmp_path), "--to", str(tmp_path / "s"), "--val", "0", "--test", "0"]) == 0
    made = read_tasks(tmp_path / "s")
    assert names_of(made) == ["1"] and made.num_records == 14
    assert values_of(tmp_path / "s", "age") == ages
    assert values_of(tmp_path / "s", "genres") == ["Comedy", "Drama"]
    assert set(values_of(tmp_path / "s", "year")) == ({"1995"} if kind == "100k" else {"1995", "1990"})
    assert made.labels(0, 14).tolist() == [2.0] * 7 + [3.0] * 7, "in the order of time"


def test_what_is_no_number_counts_as_missing(tmp_path):
    """Labels that are NaN are none, dense numbers that are not finite are 0, an empty place of a bag is row 0."""
    columns = log(200)
    clicked, price = columns["clicked"].astype(np.float64), columns["price"].copy()
    clicked[7], price[3], price[5] = np.nan, np.nan, np.inf
    tags = [[None, "g1"] if i == 0 else some for i, some in enumerate(columns["tags"])]
    whole = {**columns, "clicked": clicked, "price": price, "tags": tags}
    pa_parquet.write_table(pa.table(whole), tmp_path / "log.parquet")
    named = Columns(**{**COLUMNS.__dict__, "hashed": {"tags": 5}})
    made = prepare_tasks(tmp_path / "log.parquet", tmp_path / "s", named, Cut(query=1, least=2, val=0, test=0))
    assert made.num_records == 199
    floats = made.records[:, :2].contiguous().view(torch.float32)
    assert bool(floats.isfinite().all()) and int((floats[:, 1] == 0).sum()) == 2
    assert int(made.records.min()) == -1, "an empty slot"


def test_without_times_queries_are_drawn_and_it_is_said(tmp_path):
    pa_parquet.write_table(pa.table(log(200)), tmp_path / "log.parquet")
    for time, said in (("t", "a task's last records"), (None, "drawn from a task's records")):
        columns = Columns("user", "clicked", time, sparse=(("item", "item"),))
        made = prepare_tasks(tmp_path / "log.parquet", tmp_path / f"{time}", columns, Cut(query=1, least=2))
        assert any(said in note for note in made.notes)
    times = pa.table({**log(200), "t": pa.array([None, *range(199)])})
    pa_parquet.write_table(times, tmp_path / "gap.parquet")
    columns = Columns("user", "clicked", "t", sparse=(("item", "item"),))
    with pytest.raises(InputError, match="1 records have no time in t"):
        prepare_tasks(tmp_path / "gap.parquet", tmp_path / "gap", columns)


def test_whole_numbers_are_the_same_ids_as_floats(tmp_path):
    """A column of whole numbers with gaps often comes as floats."""
    columns = log(200)
    pa_parquet.write_table(pa.table(columns), tmp_path / "ints.parquet")
    pa_parquet.write_table(pa.table({**columns, "item": columns["item"].astype(float)}), tmp_path / "floats.parquet")
    cut = Cut(query=1, least=2)
    a, b = (prepare_tasks(tmp_path / f"{k}.parquet", tmp_path / k, COLUMNS, cut) for k in ("ints", "floats"))
    assert torch.equal(a.records, b.records) and values_of(tmp_path / "ints", "item") == values_of(
        tmp_path / "floats", "item"
    )


def test_strings_come_back():
    for values in ([], ["a", "", "é", "日本"], [""]):
        assert strings(*text(values)) == values
        whole = pa.record_batch({"v": pa.array(["before", *values], pa.string())})
        assert strings(*text_of([whole.slice(1), whole.slice(1)])) == values * 2
        assert strings(*text_of([])) == []


def test_what_cannot_be_prepared_is_refused(tmp_path, capsys):
    pa_parquet.write_table(pa.table(log(40)), tmp_path / "log.parquet")
    usual = ["prepare-tasks", str(tmp_path / "log.parquet"), "--to", str(tmp_path / "s")]
    named = [*usual, "--task", "user", "--label", "clicked", "--sparse", "item"]
    for flags, words in (
        (usual, "--task and --label"),
        ([*usual, "--task", "user", "--label", "clicked"], "no column of ids"),
        ([*named, "--sparse", "item,nosuch"], "no column nosuch"),
        ([*named, "--least", "1000"], "no task is left"),
        ([*named, "--hashed", "item=x"], "no table=rows"),
        ([*named, "--hashed", "other=10"], "a table that a column names"),
        ([*named, "--new-items", "0.1"], "needs --item"),
        ([*named, "--new-items", "2", "--item", "item"], "a share lies between 0 and 1"),
        ([*named, "--new-items", "garb("], "cannot be prepared"),
        ([*named, "--label", "city"], "cannot be prepared"),
        ([*named, "--by", "time"], "--by time needs the column of times"),
        ([*named, "--time", "city"], "no order in time"),
        ([*named, "--query", "2.7"], "a whole number of records"),
        ([*named, "--query", "nan"], "a whole number of records"),
        ([*named, "--bag-size", "0"], "--bag-size 0"),
        ([*named, "--threads", "0"], "--threads 0"),
        ([*named, "--hashed", "item=3000000000"], "fewer than 2^31"),
        (["prepare-tasks", str(tmp_path / "no.parquet"), *named[2:]], "there is no file"),
        (["prepare-tasks", str(tmp_path), "--to", "x"], "neither u.data"),
    ):
        assert cli.main(flags) == 2
        assert words in capsys.readouterr().err
    prepare_tasks(tmp_path / "log.parquet", tmp_path / "s", COLUMNS, Cut(query=1, least=2, val=0, test=0))
    assert cli.main(named) == 2 and "is in use" in capsys.readouterr().err
    with open(tmp_path / "s" / "support.npy", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(InputError, match=r"inconsistent in support"):
        read_tasks(tmp_path / "s")
