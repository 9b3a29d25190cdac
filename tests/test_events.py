"""Streams: appended, split by time, and bound to what they hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from streams import small

from graphscale import cli, configure, preparing, session, store
from graphscale.data import streams
from graphscale.errors import InputError
from graphscale.events import stream
from graphscale.store.stream import read_stream, write_stream


@pytest.mark.parametrize("features", [0, 2])
def test_appended_events_are_those_of_the_whole_stream(features):
    whole = small(num_events=50, features=features)
    part = whole.select(torch.arange(20))
    assert part.csr.num_nodes == 9
    for first, end in ((20, 21), (21, 50)):
        part = part.appended(whole.select(torch.arange(first, end)))
    assert part.identity() == whole.identity()
    for name in ("indptr", "neighbour", "event"):
        assert torch.equal(getattr(part.csr, name), getattr(whole.csr, name))


def test_new_nodes_may_come_with_later_events():
    first = stream(torch.tensor([0]), torch.tensor([1]), torch.tensor([1]))
    assert first.csr.num_nodes == 2
    grown = first.appended(stream(torch.tensor([5]), torch.tensor([1]), torch.tensor([2])))
    assert grown.num_nodes == 6
    assert grown.csr.neighbour[grown.csr.indptr[1] : grown.csr.indptr[2]].tolist() == [0, 5]


def test_what_cannot_be_appended():
    whole = small(num_events=20)
    with pytest.raises(InputError, match="before the stream ends"):
        whole.appended(whole.select(torch.arange(3)))
    with pytest.raises(InputError, match="features"):
        whole.appended(small(features=1))


def test_events_of_one_moment_are_not_parted():
    t = torch.tensor([1, 2, 3, 4, 5, 6, 6, 6, 7, 8])
    events = stream(torch.zeros(10).long(), torch.ones(10).long(), t)
    assert events.split(0.2, 0.2) == (5, 8)
    with pytest.raises(InputError, match="empty"):
        stream(torch.zeros(10).long(), torch.ones(10).long(), torch.ones(10).long()).split()


@pytest.mark.parametrize("kind", [{}, {"features": 3}])
def test_a_stored_stream_is_the_stream(tmp_path, kind):
    events = small(num_events=60, **kind)
    write_stream(events, tmp_path / "s")
    back = streams.load(tmp_path / "s")
    assert back.identity() == events.identity() and back.num_features == events.num_features
    for name in ("indptr", "neighbour", "event"):
        assert torch.equal(getattr(back.csr, name), getattr(events.csr, name))
    assert store.verify(tmp_path / "s") == []
    with pytest.raises(InputError, match="undirected"):
        streams.load(tmp_path / "s", directed=True)
    with pytest.raises(InputError, match="in use"):
        write_stream(events, tmp_path / "s")
    with pytest.raises(InputError, match="needed here"):
        store.manifest_of(tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "value"),
    [("t", np.arange(60)[::-1].copy()), ("neighbour", np.full(10, 3, dtype=np.int32)), ("src", None)],
)
def test_a_damaged_stream_is_refused(tmp_path, name, value):
    write_stream(small(num_events=60), tmp_path / "s")
    file = tmp_path / "s" / f"{name}.npy"
    if value is None:
        file.unlink()
    else:
        np.save(file, value)
    with pytest.raises(InputError, match="again"):
        streams.load(tmp_path / "s")


def test_a_training_from_a_store_is_that_from_the_file(tmp_path, monkeypatch):
    file = tmp_path / "e.csv"
    file.write_text("src,dst,t\n" + "".join(f"{i % 5},{5 + i % 3},{i}\n" for i in range(100)))
    assert cli.main(["prepare-events", str(file), "--to", str(tmp_path / "s")]) == 0
    assert cli.main(["info", str(tmp_path / "s"), "--verify"]) == 0
    settings = {"preset": "none", "epochs": 1, "dim": 8, "batch_size": 20, "ranked": 2, "threads": 1}
    results = [
        session.train("pres", configure("pres", data=str(data), out=tmp_path / f"run{i}", **settings))
        for i, data in enumerate((file, tmp_path / "s"))
    ]
    assert results[0]["test"] == pytest.approx(results[1]["test"], rel=0, abs=0, nan_ok=True)


def test_a_stream_is_known_by_its_features_and_labels_too():
    features, labels = torch.randn(30, 3), torch.arange(30) % 2
    events = replace(small(), feat=features, label=labels)
    other = [
        replace(events, feat=features + 1), replace(events, feat=None), replace(events, label=1 - labels),
        replace(events, feat=features[:, :2]),
    ]  # fmt: skip
    assert len({e.identity() for e in [events, *other]}) == 5
    assert events.identity() == replace(events, notes=("said",)).identity()


@pytest.mark.parametrize("kind", [{}, {"num_src": 5}, {"directed": True}], ids=str)
def test_a_store_with_later_events_is_that_of_the_whole_stream(tmp_path, kind):
    pairs = [(i % 5, 5 + i * 7 % 4, i // 2) for i in range(60)]
    pairs += [(i % 5, 5 + i * 7 % 6, i // 2) for i in range(60, 90)]  # two nodes come with later events
    for name, some in (("then", pairs[40:70]), ("last", pairs[70:])):
        (tmp_path / f"{name}.csv").write_text("src,dst,t\n" + "".join(f"{u},{v},{t}\n" for u, v, t in some))
    write_stream(stream(*torch.tensor(pairs[:40]).t(), **kind), tmp_path / "s")
    for name in ("then", "last"):
        assert cli.main(["prepare-events", str(tmp_path / f"{name}.csv"), "--to", str(tmp_path / "s"), "--append"]) == 0
    found, whole = read_stream(tmp_path / "s"), stream(*torch.tensor(pairs).t(), **kind)
    assert found.identity() == whole.identity() and store.verify(tmp_path / "s") == []
    for name in ("indptr", "neighbour", "event"):
        assert torch.equal(getattr(found.csr, name), getattr(whole.csr, name))
    assert len(preparing.info(tmp_path / "s")["made"]["appended"]) == 2


def test_what_a_store_cannot_go_on_with_leaves_it_as_it_is(tmp_path, capsys):
    write_stream(small(num_events=60), tmp_path / "s")
    before = read_stream(tmp_path / "s").identity()
    (tmp_path / "early.csv").write_text("src,dst,t\n0,1,-5\n")
    (tmp_path / "far.csv").write_text("src,dst,t\n0,9000000,500\n")
    (tmp_path / "new.csv").write_text("src,dst,t\n0,900000,500\n")
    to = ["--to", str(tmp_path / "s"), "--append"]
    for source, said in (("early", "before the stream ends"), ("far", "without gaps")):
        assert cli.main(["prepare-events", str(tmp_path / f"{source}.csv"), *to]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["prepare-events", str(tmp_path / "new.csv"), *to, "--overwrite"]) == 2
    assert read_stream(tmp_path / "s").identity() == before
    assert cli.main(["prepare-events", str(tmp_path / "new.csv"), "--to", str(tmp_path / "none"), "--append"]) == 2
    assert "no readable store" in capsys.readouterr().err
