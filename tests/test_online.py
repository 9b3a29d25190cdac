"""A run in use: replaying the stream gives evaluation's scores; scoring and saving change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import graphscale
from graphscale import checkpoint, session, stream_runs
from graphscale.errors import InputError
from graphscale.online import live
from graphscale.recipes.pres import PRESConfig
from graphscale.run import device_of

SMALL = PRESConfig(data="planted-stream:600", dim=8, time_dim=4, epochs=2, batch_size=50, eval_batch=40, threads=1,
                   ranked=4, fanout="5")  # fmt: skip
KINDS = {
    "tgn": {},
    "fresh, two hops, new nodes": {"see": "fresh", "fanout": "4,3", "new": 0.1},
    "two hops": {"fanout": "4,3"},
    "apan": {"model": "apan", "gamma": "learn", "beta": 0.1, "fanout": "10"},
    "jodie, rate": {"model": "jodie", "gamma": "0.5", "form": "rate", "fanout": "10"},
    "mean": {"aggregate": "mean"},
    "apan, last": {"model": "apan", "aggregate": "last", "fanout": "10"},
    "snapshot": {"messages": "snapshot"},
    "tgat": {"model": "tgat"},
    "uniform": {"neighbors": "uniform", "fanout": "2"},
    "directed, new nodes": {"directed": True, "fanout": "4,3", "new": 0.1},
    "spread, two components": {"gamma": "0.5", "spread": True, "components": 2, "anchors": 11},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("live") / "run"
    session.train("pres", replace(SMALL, out=out))
    return out


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_replay_is_the_evaluation(kind, tmp_path):
    """Score a batch of what happened and of what did not, observe it, and so on through validation and test."""
    config = replace(SMALL, **kind, out=tmp_path / "run")
    session.train("pres", config)
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt", needs=("epoch", "model"))
    net, table, views = stream_runs.restored(config, state)
    evaluate = stream_runs.scorer(config, views, net, table, device_of(config.device))
    used, events = live(tmp_path / "run", until="training"), views.events
    assert used.num_events == views.val
    drawn_of = evaluate.negatives["test"]
    for numbers, (pos, neg) in evaluate.passes(views.val, events.num_events, drawn_of):
        drawn = drawn_of.draw(numbers, events.src[numbers], events.dst[numbers])
        src, dst, t = events.src[numbers], events.dst[numbers], events.t[numbers]
        if config.see == "lag":  # there a batch is seen at the moment of its first event
            found = used.score(src, torch.cat([dst[:, None], drawn], dim=1), t[0])
            torch.testing.assert_close(found[:, 0], pos, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[:, 1:], neg, rtol=1e-4, atol=1e-5)
        else:  # an event sees those before it: the first one sees what score sees
            found = used.score(src[:1], torch.cat([dst[:1, None], drawn[:1]], dim=1), t[:1])
            torch.testing.assert_close(found[:, 0], pos[:1], rtol=1e-4, atol=1e-5)
        used.observe(src, dst, t, label=events.label[numbers])


@pytest.mark.parametrize("kind", [KINDS["tgn"], KINDS["apan"], {"eval_batch": 70}], ids=str)
def test_what_it_begins_with_is_what_evaluation_leaves(kind, tmp_path):
    """Evaluation begins a batch at the first test event, in the middle of what would be one."""
    config = replace(SMALL, **kind, out=tmp_path / "run")
    session.train("pres", config)
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt", needs=("epoch", "model"))
    net, table, views = stream_runs.restored(config, state)
    assert (views.test - views.val) % config.eval_batch
    evaluate = stream_runs.scorer(config, views, net, table, device_of(config.device))
    for split, (first, end) in views.splits.items():
        list(evaluate.passes(first, end, evaluate.negatives[split]))
    used = live(tmp_path / "run")
    assert used.num_events == views.events.num_events
    for name, column in used._table.columns.items():
        torch.testing.assert_close(column, table.columns[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["apan", "tgn"])
def test_nodes_that_were_kept_from_training_may_have_none_of_its_events(model, tmp_path):
    """Then training has every event before validation, and nothing of a later one must be known twice."""
    pairs = [(i % 7, 7 + i * 5 % 6, i) for i in range(280)] + [(20 + i % 7, 27 + i % 9, 280 + i) for i in range(120)]
    (tmp_path / "e.csv").write_text("src,dst,t\n" + "".join(f"{u},{v},{t}\n" for u, v, t in pairs))
    config = replace(SMALL, data=str(tmp_path / "e.csv"), model=model, fanout="10", new=0.1, out=tmp_path / "run")
    session.train("pres", config)
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt", needs=("epoch", "model"))
    net, table, views = stream_runs.restored(config, state)
    assert views.numbers.numel() == views.val and not views.known.all()
    evaluate = stream_runs.scorer(config, views, net, table, device_of(config.device))
    for split, (first, end) in views.splits.items():
        list(evaluate.passes(first, end, evaluate.negatives[split]))
    used = live(tmp_path / "run")
    for name, column in used._table.columns.items():
        torch.testing.assert_close(column, table.columns[name], rtol=1e-5, atol=1e-6)
    csr = used._growing.csrs["lived"]
    assert csr.event.numel() + (csr.tail.size if csr.tail else 0) == 2 * views.events.num_events


def test_ids_of_any_whole_type_are_observed(run):
    used = live(run)
    used.observe(torch.tensor([1], dtype=torch.uint8), torch.tensor([40], dtype=torch.uint16), [used.now])
    assert used.score(np.array([1], dtype=np.uint32), [40]).isfinite().all()


def test_a_bipartite_stream_grows_by_destinations_and_by_sources_that_have_room(tmp_path):
    lines = "".join(f"{i % 10},{10 + i * 7 % 10},{i}\n" for i in range(300))
    (tmp_path / "e.csv").write_text("src,dst,t\n" + lines)
    made = graphscale.prepare_events(tmp_path / "e.csv", tmp_path / "s", num_src=10, spare_sources=2)
    assert (made.num_src, made.num_nodes, int(made.dst.min())) == (12, 22, 12)
    session.train("pres", replace(SMALL, data=str(tmp_path / "s"), out=tmp_path / "run"))
    used = live(tmp_path / "run")
    used.observe([3, 10], [25, 12], [500, 501])  # a new destination, and a new source
    assert used.score([3, 10], [25, 25]).isfinite().all()
    with pytest.raises(InputError, match="12 sources"):
        used.observe([12], [13], [600])


@pytest.mark.parametrize("model", ["tgn", "apan"])
def test_pairs_of_many_moments_are_scored_as_one_by_one(model, run, tmp_path):
    if model != "tgn":
        run = tmp_path / "run"
        session.train("pres", replace(SMALL, model=model, fanout="10", out=run))
    used = graphscale.live(run)
    t = used.now + torch.tensor([0, 7, 7, 1000])
    src, dst = torch.tensor([0, 1, 0, 2]), torch.tensor([31, 32, 33, 32])
    together = used.score(src, dst, t)
    assert torch.equal(together[:, None], used.score(src, dst[:, None], t))
    apart = [used.score(src[i : i + 1], dst[i : i + 1], int(t[i])) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-5, atol=1e-6)
    assert together[0] != used.score(src[:1], dst[:1], int(t[3]))[0]


def test_scoring_changes_nothing_and_observing_does(run):
    used = live(run)
    first = used.score([0], [35])
    assert torch.equal(first, used.score([0], [35]))
    used.observe([0], [35], [used.now + 1], label=[0])
    used.observe([0], [35], [used.now + 1], label=[0])
    assert not torch.equal(first, used.score([0], [35]))


def test_a_saved_state_goes_on_as_if_it_had_not_been_away(run, tmp_path):
    stayed = live(run)
    stayed.observe([1, 2], [33, 34], [stayed.now + 1, stayed.now + 2], label=[0, 0])
    stayed.save(tmp_path / "state")
    back = live(run, state=tmp_path / "state")
    assert back.num_events == stayed.num_events and back.now == stayed.now
    for used in (stayed, back):
        used.observe([1], [35], used.now + 3, label=[0])
    assert torch.equal(stayed.score([1, 3], [34, 33]), back.score([1, 3], [34, 33]))
    with pytest.raises(InputError, match="in use"):
        back.save(tmp_path / "state")
    (tmp_path / "state" / "t.npy").write_bytes(b"x")
    with pytest.raises(InputError, match="damaged"):
        live(run, state=tmp_path / "state")


def test_new_nodes_can_be_observed_and_then_scored(tmp_path):
    file = tmp_path / "events.csv"
    rows = [f"{i % 7},{(3 * i + 1) % 7},{i}" for i in range(300)]
    file.write_text("\n".join(["src,dst,t", *rows]) + "\n")
    config = replace(SMALL, data=str(file), out=tmp_path / "run", gamma="learn", model="apan", fanout="10")
    session.train("pres", config)
    used = live(tmp_path / "run")
    with pytest.raises(InputError, match="must be observed"):
        used.score([0], [12])
    used.observe([12, 3], [0, 12], [400, 401])
    used.observe([12], [3], [402])
    assert used.score([0], [12]).isfinite().all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda used: used.observe([0], [33], [0], label=[0]), "before the stream ends"),
        (lambda used: used.observe([0], [33], [1e9]), "whole numbers"),
        (lambda used: used.score([0], [33], used.now + 0.5), "whole numbers"),
        (lambda used: used.observe([0], [33], ["noon"], label=[0]), "no moments"),
        (lambda used: used.observe([0], [33], [used.now], label=[0.5]), "no whole number"),
        (lambda used: used.observe([0], [33], [used.now], feat=torch.ones(1), label=[0]), "Give .E, F."),
        (lambda used: used.observe([0], [10**13], [used.now], label=[0]), "next numbers"),
        (lambda used: used.observe(["a"], [33], [10**9]), "no numbers"),
        (lambda used: used.score([0], [["a"]]), "no numbers"),
        (lambda used: used.score([0], [33], 0), "before the latest"),
        (lambda used: used.score([0, 1], [33]), "do not match"),
        (lambda used: used.score([0.5], [33]), "whole numbers"),
        (lambda used: live(used._run, until="later"), "now or training"),
    ],
)
def test_what_cannot_be_is_said(run, call, says):
    used = live(run)
    before = used.num_events
    with pytest.raises(InputError, match=says):
        call(used)
    assert used.num_events == before
    used.observe([0], [33], [used.now], label=[0])  # it goes on
    assert used.num_events == before + 1


def test_nothing_can_be_scored(run):
    assert live(run).score([], []).shape == (0,)
    assert live(run).score([], torch.empty(0, 3)).shape == (0, 3)


def test_nothing_can_be_observed(run):
    used = live(run)
    used.observe([], [], [])
    assert used.num_events == live(run).num_events


def test_moments_are_float64_from_end_to_end(tmp_path):
    """A year is 3e7 seconds and float32 ends telling them apart at 1.6e7."""
    file, began = tmp_path / "events.csv", 1_098_777_142.25
    rows = [f"{i % 7},{(3 * i + 1) % 7},{began + 0.25 * i}" for i in range(300)]
    file.write_text("\n".join(["src,dst,t", *rows]) + "\n")
    session.train("pres", replace(SMALL, data=str(file), out=tmp_path / "run"))
    used = live(tmp_path / "run")
    assert used.score([0], [1], used.now).isfinite().all()
    later = used.now + 100.25
    used.observe([0, 1], [1, 2], [later, later + 0.25])
    assert used.now == later + 0.25
    with pytest.raises(InputError, match="float64"):
        used.observe([0], [1], torch.tensor([later + 500]))


def test_a_state_belongs_to_its_run(run, tmp_path):
    session.train("pres", replace(SMALL, seed=7, out=tmp_path / "other"))
    used = live(run)
    used.observe([0], [33], [used.now], label=[0])
    used.save(tmp_path / "state")
    with pytest.raises(InputError, match="another run"):
        live(tmp_path / "other", state=tmp_path / "state")


def test_a_memory_on_disk_stays_there_where_nodes_come(tmp_path):
    out = tmp_path / "run"
    session.train("pres", replace(SMALL, epochs=1, memory="disk", out=out))
    used = live(out)
    before = used._table.columns["state"].clone()
    used._table.follow(replace(used._growing.events, num_nodes=used._table.num_rows + 3), used._table.csr)
    after = used._table.columns["state"]
    assert torch.equal(after[: len(before)], before)
    assert len(after) == len(before) + 3 and not after[len(before) :].any()
    assert after.untyped_storage().data_ptr() % 4096 == 0  # pages of a file: malloc puts a header before an array
