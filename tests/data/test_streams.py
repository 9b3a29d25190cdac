"""Readers of streams: what they read, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch_geometric.data import TemporalData

import graphscale
from graphscale.data.planted_stream import planted_stream
from graphscale.data.streams import from_temporal_data, load
from graphscale.errors import InputError
from graphscale.events import stream


def parquet(path, columns, **said):
    table = pa.table(columns).replace_schema_metadata({k: str(v) for k, v in said.items()})
    pq.write_table(table, path)
    return path


COLUMNS = {"src": [0, 1, 0], "dst": [2, 3, 3], "t": [10**15, 10**15 + 1, 10**15 + 1]}


def test_parquet_with_features_and_labels(tmp_path):
    columns = {**COLUMNS, "label": [0, 1, 0], "feat": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}
    events = load(parquet(tmp_path / "e.parquet", columns, num_nodes=6, num_src_partition=2))
    assert (events.num_nodes, events.num_src, events.num_features) == (6, 2, 2)
    assert events.t.tolist() == COLUMNS["t"], "times are exact far beyond float32"
    assert events.label.tolist() == [0, 1, 0] and events.feat.tolist() == columns["feat"]
    assert load(parquet(tmp_path / "n.parquet", columns, has_label=False)).label is None


def test_jodies_csv(tmp_path):
    file = tmp_path / "wiki.csv"
    file.write_text(
        "user_id,item_id,timestamp,state_label,features\n0,0,0.0,0,0.5,1\n1,0,5.5,1,0.25,2\n0,1,9.0,0,0,3\n"
    )
    events = load(file)
    assert events.src.tolist() == [0, 1, 0] and events.dst.tolist() == [2, 2, 3]
    assert events.num_src == 2 and events.t.tolist() == [0.0, 5.5, 9.0]
    assert events.feat.tolist() == [[0.5, 1], [0.25, 2], [0, 3]] and events.label.tolist() == [0, 1, 0]


def test_csv_with_names(tmp_path):
    file = tmp_path / "e.csv"
    file.write_text("t,src,dst\n1,0,1\n2,1,2\n")
    assert load(file).dst.tolist() == [1, 2]


@pytest.mark.parametrize(
    "header",
    ['"t","src","dst","label"', "t, src , dst,label", "\ufefft,src,dst,label"],
    ids=["quoted", "spaces", "mark"],
)
def test_csv_whose_header_is_written_otherwise(tmp_path, header):
    (tmp_path / "e.csv").write_text(f"{header}\n100,0,1,0\n200,1,2,1\n", encoding="utf-8")
    events = load(tmp_path / "e.csv")
    assert (events.t.tolist(), events.src.tolist(), events.dst.tolist()) == ([100, 200], [0, 1], [1, 2])
    assert events.label.tolist() == [0, 1] and not events.bipartite


@pytest.mark.parametrize("names", [["feat"], ["feat0", "feat1"], ["feat_0", "feat_1"]], ids=str)
def test_csv_with_features(tmp_path, names):
    rows = [",".join(map(str, [i, 0, 1, *range(len(names)), "x"])) for i in range(3)]
    (tmp_path / "e.csv").write_text("\n".join([",".join(["t", "src", "dst", *names, "kind"]), *rows]) + "\n")
    events = load(tmp_path / "e.csv")
    assert events.feat.tolist() == [[float(i) for i in range(len(names))]] * 3
    assert "kind" in events.notes[0]


@pytest.mark.parametrize("text", ["source,target,time,weight\n0,1,5,2\n1,2,6,2\n", "0,1,5,0\n1,2,6,0\n"])
def test_csv_that_names_nothing_we_know_is_refused(tmp_path, text):
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(InputError, match="Name the columns"):
        load(tmp_path / "e.csv")


@pytest.mark.parametrize("row", ["0.7,1,3,0,1", "0,1.5,3,0,1", "0,1,3,0.5,1"])
def test_fractions_of_ids_and_labels_are_refused(tmp_path, row):
    (tmp_path / "e.csv").write_text(f"user_id,item_id,timestamp,state_label,features\n0,0,1,0,1\n{row}\n")
    with pytest.raises(InputError, match="no whole number"):
        load(tmp_path / "e.csv")


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64])
def test_unsigned_ids(tmp_path, kind):
    events = load(parquet(tmp_path / "e.parquet", {**COLUMNS, "src": np.array([0, 1, 0], dtype=kind)}))
    assert events.src.tolist() == [0, 1, 0]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_are_seconds_whatever_the_file_counts_in(tmp_path, unit):
    t = pa.array([10**9, 10**9 + 1, 10**9 + 7], type=pa.timestamp("s")).cast(pa.timestamp(unit))
    events = load(parquet(tmp_path / "e.parquet", {**COLUMNS, "t": t}))
    assert events.t.tolist() == [10**9, 10**9 + 1, 10**9 + 7]
    assert events.t.dtype == torch.float64


def test_a_feature_that_is_no_list(tmp_path):
    assert load(parquet(tmp_path / "e.parquet", {**COLUMNS, "feat": [0.5, 1.0, 2.0]})).feat.tolist() == [
        [0.5],
        [1],
        [2],
    ]
    with pytest.raises(InputError, match="numbers are needed"):
        load(parquet(tmp_path / "f.parquet", {**COLUMNS, "feat": ["a", "b", "c"]}))


def test_columns_of_one_name(tmp_path):
    (tmp_path / "e.csv").write_text("src,dst,t,t\n0,1,2,3\n")
    with pytest.raises(InputError, match="two columns t"):
        load(tmp_path / "e.csv")


def test_a_store_of_temporal_data(tmp_path):
    data = TemporalData(src=torch.tensor([0, 1]), dst=torch.tensor([2, 3]), t=torch.tensor([4, 9]))
    made = graphscale.prepare_events(data, tmp_path / "s")
    assert made.num_events == 2 and load(tmp_path / "s").identity() == from_temporal_data(data).identity()
    with pytest.raises(InputError, match="TemporalData"):
        graphscale.prepare_events(TemporalData(src=torch.tensor([0])), tmp_path / "t")


def test_pygs_temporal_data_in_any_order():
    data = TemporalData(
        src=torch.tensor([0, 1]), dst=torch.tensor([2, 3]), t=torch.tensor([9, 4]), msg=torch.tensor([[1.0], [2.0]])
    )
    events = from_temporal_data(data)
    assert events.src.tolist() == [1, 0] and events.feat.tolist() == [[2.0], [1.0]]
    assert events.num_src == 0 and events.notes  # that sources lie below destinations so far says nothing of later ones
    assert from_temporal_data(data, num_src=2).bipartite


def test_events_are_stored_as_they_are(tmp_path):
    events = stream(torch.tensor([0, 3]), torch.tensor([4, 5]), torch.tensor([1, 2]), num_nodes=50, directed=True,
                    label=torch.tensor([0, 1]))  # fmt: skip
    assert graphscale.prepare_events(events, tmp_path / "s").identity() == events.identity()
    assert repr(events) == "Events(directed, 2 of 50 nodes, 0 features, labels)"
    parted = graphscale.prepare_events(events, tmp_path / "p", num_src=4, spare_sources=3)
    assert (parted.num_src, parted.dst.tolist(), parted.num_nodes) == (7, [7, 8], 53)
    with pytest.raises(InputError, match="room"):
        graphscale.prepare_events(events, tmp_path / "q", spare_sources=3)
    with pytest.raises(InputError, match="the source says 4"):
        graphscale.prepare_events(replace(events, num_src=4, kept={}), tmp_path / "q", num_src=3)


def test_events_of_every_kind_are_appended(tmp_path):
    first, second = (
        stream(torch.tensor([0, 1]), torch.tensor([1, n]), torch.tensor([t, t])) for t, n in ((1, 2), (5, 3))
    )
    graphscale.prepare_events(first, tmp_path / "s")
    assert graphscale.append_events(second, tmp_path / "s").identity() == first.appended(second).identity()
    data = TemporalData(src=torch.tensor([4]), dst=torch.tensor([0]), t=torch.tensor([9]))
    assert graphscale.append_events(data, tmp_path / "s").num_nodes == 5
    with pytest.raises(InputError, match="fractions"):
        graphscale.append_events(TemporalData(src=data.src, dst=data.dst, t=torch.tensor([9.5])), tmp_path / "s")


def test_a_later_event_may_name_any_node_of_a_large_stream(tmp_path):
    first = stream(torch.tensor([0]), torch.tensor([1]), torch.tensor([1]), num_nodes=1_500_000)
    graphscale.prepare_events(first, tmp_path / "s")
    data = TemporalData(src=torch.tensor([0]), dst=torch.tensor([1_499_999]), t=torch.tensor([5]))
    assert graphscale.append_events(data, tmp_path / "s").num_nodes == 1_500_000


def test_numbers_of_nodes_grow_beyond_int32():
    few = stream(torch.tensor([0]), torch.tensor([5]), torch.tensor([1]), num_nodes=6, num_src=5)
    huge = replace(few, dst=torch.tensor([2**31 - 5], dtype=torch.int32), num_nodes=2**31 - 4)
    assert huge.roomier(100).dst.tolist() == [2**31 + 95]


def test_jodies_later_files_go_on_with_its_items(tmp_path):
    def wiki(name, *rows):
        lines = "".join(f"{user},{item},{t}.0,0,0.5\n" for user, item, t in rows)
        (tmp_path / name).write_text("user_id,item_id,timestamp,state_label,features\n" + lines)
        return tmp_path / name

    graphscale.prepare_events(wiki("a.csv", (0, 0, 1), (2, 1, 2)), tmp_path / "s", spare_sources=1)
    grown = graphscale.append_events(wiki("b.csv", (1, 4, 3), (3, 0, 4)), tmp_path / "s")
    assert (grown.num_src, grown.num_nodes) == (4, 9)
    assert grown.src.tolist() == [0, 2, 1, 3] and grown.dst.tolist() == [4, 5, 8, 4]
    with pytest.raises(InputError, match="user 4 is new"):
        graphscale.append_events(wiki("c.csv", (4, 0, 5)), tmp_path / "s")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"src": [0], "dst": [1]}, "no column t"),
        ({**COLUMNS, "t": [3, 2, 1]}, "before event 0"),
        ({**COLUMNS, "t": [1.0, float("nan"), 2.0]}, "no finite time"),
        ({**COLUMNS, "src": [0, None, 1]}, "empty cells"),
        ({**COLUMNS, "src": [0, -1, 1]}, "nodes are 0"),
        ({**COLUMNS, "src": [0.0, 1.0, 1.0]}, "whole numbers"),
        ({**COLUMNS, "src": ["a", "b", "c"]}, "numbers are needed"),
        ({**COLUMNS, "feat": [[1.0], [2.0, 3.0], [4.0]]}, "several lengths"),
        ({**COLUMNS, "feat": [[1.0], [float("inf")], [4.0]]}, "NaN or an infinity"),
        ({name: [] for name in COLUMNS}, "no event"),
        ({**COLUMNS, "src": [0, 160_000_000, 1]}, "without gaps"),
        ({**COLUMNS, "label": [0.0, 0.5, 1.0]}, "no whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_stream_is_refused(tmp_path, columns, says):
    with pytest.raises(InputError, match=says):
        load(parquet(tmp_path / "e.parquet", columns))


def test_ids_and_parts_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="nodes are 0 .. 2"):
        load(parquet(tmp_path / "e.parquet", COLUMNS, num_nodes=3))
    with pytest.raises(InputError, match="does not go from"):
        load(parquet(tmp_path / "f.parquet", COLUMNS, num_src_partition=1))
    with pytest.raises(InputError, match="metadata says num_nodes"):
        load(parquet(tmp_path / "g.parquet", COLUMNS, num_nodes="many"))


def test_times_as_far_apart_as_int64_has_them(tmp_path):
    far = [-(2**62) - 2**61, 0, 2**62 + 2**61]
    assert load(parquet(tmp_path / "e.parquet", {**COLUMNS, "t": far})).t.tolist() == far
    with pytest.raises(InputError, match="before event 0"):
        load(parquet(tmp_path / "f.parquet", {**COLUMNS, "t": far[::-1]}))


def test_files_that_are_none(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not a file")
    for name, says in (
        (tmp_path / "bad.parquet", "Parquet"), ("nothing-of-the-kind", "no stream"), ("planted-stream:9", "from 100"),
        ("tgb:tgbl-wiki", "py-tgb"), ("NoSuchClass:x", "no data set class"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            load(name)


def test_a_longer_planted_stream_begins_as_a_shorter_one():
    short, long = (planted_stream(n, num_src=50, num_dst=20) for n in (500, 900))
    for name in ("src", "dst", "t", "label"):
        assert torch.equal(getattr(short, name), getattr(long, name)[:500])
    checked = stream(long.src, long.dst, long.t, num_nodes=70, num_src=50, label=long.label)
    assert checked.num_events == 900
    assert 0.1 < float(long.label.float().mean()) < 0.35
    assert not torch.equal(planted_stream(500, num_src=50, num_dst=20, seed=1).dst, short.dst)
