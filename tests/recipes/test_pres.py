"""Runs over streams: what PRES adds, what it leaves alone, resume in mid-stream, scores of a checkpoint."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import pytest
import torch
from forked import started
from stopping import After
from streams import DIM, Made, composed, dealt_to, negatives, network, paged, rank_of_two, resident, small
from streams import KINDS as NETWORKS

import graphscale
from graphscale import checkpoint, cli, configure, session, stream_runs, stream_views
from graphscale.batches.stream import MEMORY, Sampler
from graphscale.errors import InputError
from graphscale.interrupt import Interrupted
from graphscale.kernels.corrections import incoherence
from graphscale.loop import commit, fetch, train_step
from graphscale.nn.memories import Correction
from graphscale.objectives.link import stream_loss
from graphscale.recipes.pres import PRESConfig
from graphscale.store.stream import write_stream
from graphscale.stream_scores import LinkScores
from graphscale.tables.mailbox import Mailbox
from graphscale.tables.memory import Memory
from graphscale.tables.predictive import Prediction, Predictive
from graphscale.world import World

TINY = PRESConfig(data="planted-stream:400", dim=8, time_dim=4, epochs=2, batch_size=40, threads=1, ranked=5)
KINDS = [
    {},
    {"model": "jodie"},
    {"model": "apan"},
    {"model": "tgat", "fanout": "3,3"},
    {"gamma": "learn", "beta": 0.1},
    {"model": "apan", "aggregate": "last", "gamma": "0.8", "form": "rate", "components": 2, "spread": True},
    {"aggregate": "mean", "new": 0.1, "negatives": "historical"},
    {"see": "fresh", "cut": "tbatch", "neighbors": "uniform"},
    {"messages": "snapshot", "memory": "disk", "embed": "sum", "update": "rnn"},
    {"cut": "capped", "precision": "bf16", "frequencies": "learned"},
    {"task": "states"},
    {"directed": True, "new": 0.1},
    {"directed": True, "see": "fresh", "fanout": "3,3"},
]


def trained(out, **changes):
    return session.train("pres", replace(TINY, out=out, **changes))


def metrics(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], line["loss"], line["scores"], line["measures"]) for line in lines]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_checkpoint_is_scored_as_training_scored_it(tmp_path, kind):
    result = trained(tmp_path / "run", **kind)
    again = session.evaluate(tmp_path / "run")
    for split in ("val", "test"):
        assert again[split] == pytest.approx(result[split], nan_ok=True)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2], KINDS[5]], ids=str)
@pytest.mark.parametrize("step", [3, 9])
def test_a_run_stopped_in_mid_stream_goes_on_to_the_bit(tmp_path, monkeypatch, kind, step):
    whole = trained(tmp_path / "whole", **kind)
    with monkeypatch.context() as patched:
        After(step, patched)
        with pytest.raises(Interrupted):
            trained(tmp_path / "parts", **kind)
    resumed = trained(tmp_path / "parts", resume=True, **kind)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    for part in ("val", "test", "final"):
        assert json.dumps(whole[part]) == json.dumps(resumed[part])


@pytest.mark.parametrize("kind", [*KINDS[:3], KINDS[5], {"see": "fresh", "model": "tgn"}], ids=str)
def test_what_comes_after_is_not_known_before(tmp_path, kind):
    """Other test events, new nodes and all, leave training's losses and the validation's scores as they are."""
    pairs = [(i * 7 % 13, i * 5 % 17, 3 * i) for i in range(400)]
    later = [(u + 20, v + 25, t) for u, v, t in pairs[350:]]
    found = []
    for name, events in (("as", pairs), ("other", [*pairs[:350], *later])):
        lines = "".join(f"{u},{v},{t}\n" for u, v, t in events)
        (tmp_path / f"{name}.csv").write_text("src,dst,t\n" + lines)
        trained(tmp_path / name, data=str(tmp_path / f"{name}.csv"), test=0.125, val=0.125, **kind)
        found.append([(epoch, loss, scores["val"]) for epoch, loss, scores, _ in metrics(tmp_path / name)])
    assert json.dumps(found[0]) == json.dumps(found[1])


def test_training_meets_no_node_that_is_kept_from_it():
    config = replace(TINY, new=0.4)
    views = stream_views.read(config)
    drawn = stream_runs.learning(config, views, 0)
    assert bool(views.known[drawn.candidates].all()) and not bool(views.known.all())


def test_a_stream_of_one_destination_cannot_be_ranked(tmp_path):
    (tmp_path / "e.csv").write_text("src,dst,t\n" + "".join(f"{i % 5},7,{i}\n" for i in range(100)))
    with pytest.raises(InputError, match="one destination"):
        trained(tmp_path / "run", data=str(tmp_path / "e.csv"))


@pytest.mark.parametrize("model", ["tgn", "apan", "tgat"])
def test_frequencies_are_learned_where_that_is_asked(tmp_path, model):
    for how in ("fixed", "learned"):
        trained(tmp_path / how, model=model, frequencies=how, epochs=1)
    fixed, learned = (graphscale.load(tmp_path / how).time.w.detach() for how in ("fixed", "learned"))
    assert torch.equal(fixed, torch.logspace(0, -9, 4)) and not torch.equal(fixed, learned)


@pytest.mark.parametrize(
    "settings",
    [
        {"embed_from": "measured"}, {"components": 2}, {"spread": True}, {"anchors": 5}, {"form": "rate"},
        {"model": "apan", "messages": "snapshot"}, {"model": "apan", "neighbors": "uniform"},
        {"model": "apan", "see": "fresh"}, {"model": "tgat", "aggregate": "mean"}, {"model": "jodie", "fanout": "5"},
        {"model": "jodie", "directed": True}, {"model": "jodie", "dropout": 0.5}, {"embed": "identity", "fanout": "5"},
        {"pending": 0.5}, {"task": "states", "negatives": "historical"}, {"cut": "window", "window": float("inf")},
    ],
    ids=str,
)  # fmt: skip
def test_flags_that_would_do_nothing_are_refused(settings):
    with pytest.raises(InputError, match="Leave out|finite"):
        replace(TINY, **settings)


def test_gamma_moves_at_a_rate_of_its_own(tmp_path):
    """Adam moves a number by about its rate a step: in 24 steps a weight's would leave gamma at 0.900 to 0.903."""
    trained(tmp_path / "run", gamma="learn", epochs=3)
    assert abs(metrics(tmp_path / "run")[-1][3]["gamma"] - 0.9) > 0.01


def test_the_memory_that_is_embedded_or_written_may_be_the_measured_one():
    events, measured = small(), {}
    for embeds, writes in (("corrected", "corrected"), ("measured", "corrected"), ("corrected", "measured")):
        net = network(events, correction=Correction(0.5, embeds=embeds, writes=writes))
        table = Predictive(events, events.csr, DIM, prediction=Prediction())
        stepped(table, network(events, correction=Correction(0.5)), events)
        found = net.remembered(table.parts(torch.arange(events.num_nodes)), events.t[-1])
        measured[embeds, writes] = found
    both, embedded, written = measured.values()
    assert torch.equal(both.seen, both.kept) and not torch.equal(embedded.seen, embedded.kept)
    assert torch.equal(embedded.seen, written.kept) and torch.equal(embedded.kept, written.seen)
    assert torch.equal(both.seen, embedded.kept) and torch.equal(both.after, embedded.after)


def test_classes_without_labels_are_refused(tmp_path):
    lines = "".join(f"{i % 5},{5 + i % 3},{i},{10**10 * (i % 2)}\n" for i in range(100))
    (tmp_path / "e.csv").write_text("src,dst,t,label\n" + lines)
    with pytest.raises(InputError, match="Number the labels"):
        trained(tmp_path / "run", data=str(tmp_path / "e.csv"), task="states")


def test_other_features_are_another_stream(tmp_path):
    file = tmp_path / "e.csv"
    for shift in (0, 1):
        lines = "".join(f"{i % 5},{5 + i % 3},{i},{shift + i % 4}\n" for i in range(200))
        file.write_text("src,dst,t,feat\n" + lines)
        if not shift:
            trained(tmp_path / "run", data=str(file))
    with pytest.raises(InputError, match="not the stream"):
        session.evaluate(tmp_path / "run")


def stepped(table, net, events, *, beta=0.0, size=6, hops=(5,)):
    """Losses and gradients of a pass over the events in batches."""
    sampler, found = Sampler(events, events.csr, hops), []
    for start in range(0, events.num_events, size):
        numbers = torch.arange(start, min(events.num_events, start + size))
        batch = sampler.batch(numbers, start, negatives(numbers.numel(), seed=start))
        params = dict(net.named_parameters())
        outcome = stream_loss(net, beta=beta)({**params, **fetch({MEMORY: table}, batch.needs)}, batch)
        gradients = torch.autograd.grad(outcome.loss_sum, list(params.values()), allow_unused=True)
        found += [outcome.loss_sum.detach(), *(g for g in gradients if g is not None)]
        commit({MEMORY: table}, outcome.writes)
    return found


@pytest.mark.parametrize("kind", NETWORKS)
def test_gamma_1_and_beta_0_are_the_plain_network_bit_for_bit(kind):
    events = small()
    of_net, hops, of_memory, settings = NETWORKS[kind]
    bare = Memory if of_memory is Predictive else Mailbox
    plain = stepped(bare(events, events.csr, DIM, **settings), network(events, **of_net), events, hops=hops)
    table = of_memory(events, events.csr, DIM, prediction=Prediction(), **settings)
    corrected = stepped(table, network(events, correction=Correction(1.0), **of_net), events, hops=hops)
    assert all(torch.equal(a, b) for a, b in zip(plain, corrected, strict=True))


def test_a_correction_is_what_equations_7_and_8_say():
    events = small()
    net = network(events, correction=Correction(0.7))
    table = Predictive(events, events.csr, DIM, prediction=Prediction("rate", gap=5.0))
    stepped(table, net, events)
    ids = torch.arange(events.num_nodes)
    parts = table.parts(ids)
    nodes, measured = net.update(parts, events.t[-1])
    corrected, _ = net.correction(parts, nodes, parts["state"][nodes], measured)
    for place, node in enumerate(nodes.tolist()):
        taken, newest = (int(table.columns[name][node]) for name in ("taken", "newest"))
        passed = float(events.t[newest] - events.t[taken]) if taken >= 0 else 0.0
        rate = table.columns["xi"][node, 0] / max(1.0, float(table.columns["count"][node, 0]))
        predicted = table.columns["state"][node] + min(10.0, max(0.1, passed / 5.0)) * rate
        expected = 0.3 * predicted + 0.7 * measured[place] if table.columns["count"][node, 0] else measured[place]
        torch.testing.assert_close(corrected[place], expected)


def test_the_penalty_reaches_the_update_and_changes_no_memory():
    events = small()
    before, after = torch.tensor([[1.0, 0], [0, 0], [1, 1]]), torch.tensor([[0.0, 2], [1, 1], [2, 2]]).requires_grad_()
    value = incoherence(before, after)
    torch.testing.assert_close(value, torch.tensor(0.5))  # a right angle and none; a first memory does not count
    value.backward()
    assert after.grad.abs().sum() > 0
    nets = [network(events) for _ in range(2)]
    tables = [Memory(events, events.csr, DIM) for _ in range(2)]
    plain, with_penalty = (stepped(t, n, events, beta=b) for t, n, b in zip(tables, nets, (0.0, 0.5), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, with_penalty, strict=True))
    assert torch.equal(tables[0].columns["state"], tables[1].columns["state"])


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_step_costs_what_it_touches(kind):
    """The same events among a hundred times the nodes: the same work in sampling, learning and writing."""
    work = []
    for nodes in (1_000, 100_000):
        run = composed(replace(small(num_events=60), num_nodes=nodes), World(), kind)
        batches = run.batches.epoch(0)
        for step in range(2):
            train_step(run, next(batches), step)
        with Made() as made:
            for step in range(2, 5):
                train_step(run, next(batches), step)
        work.append(made.numbers)
    assert work[0] == work[1] > 0


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system does not tell what is touched")
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_step_touches_few_pages_of_what_is_as_long_as_the_nodes(kind):
    """Compiled loops and operations in place are seen by nobody but the system."""
    run = composed(replace(small(num_events=60), num_nodes=1_000_000), World(), kind)
    table, numbers = run.tables[MEMORY], run.batches.sampler._distinct
    sizes = {name: column.numel() * column.element_size() / 1024 for name, column in table.columns.items()}
    table.columns = {name: paged(column, f"{name} of {id(run)}") for name, column in table.columns.items()}
    numbers._place = paged(torch.from_numpy(numbers._place), f"place of {id(run)}").numpy()
    for step, batch in enumerate(run.batches.epoch(0)):
        train_step(run, batch, step)
    for name, size in {**sizes, "place": 4_000_000 / 1024}.items():
        assert 0 < resident(f"{name} of {id(run)}") < 0.1 * size, name


@pytest.mark.parametrize("negatives", ["random", "historical"])
def test_evaluation_does_not_depend_on_the_batches_of_training(tmp_path, negatives):
    """One network and one memory, scored under configurations that differ in training's batches alone."""
    trained(tmp_path / "run")
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt", needs=("epoch", "model"))
    config = replace(TINY, negatives=negatives)
    want = json.dumps(stream_runs.scores(config, state))  # a NaN is a NaN
    for change in ({"batch_size": 7}, {"cut": "tbatch"}, {"cut": "capped"}, {"eval_batch": 20}):
        same = json.dumps(stream_runs.scores(replace(config, **change), state)) == want
        assert same == ("eval_batch" not in change)


def test_a_run_is_scored_beside_other_negatives_and_baselines(tmp_path, capsys):
    trained(tmp_path / "run")
    usual = graphscale.evaluate(tmp_path / "run", baselines=True)
    hard = graphscale.evaluate(tmp_path / "run", negatives="historical", ranked=3, baselines=True)
    assert usual["test"]["mrr"] != hard["test"]["mrr"]
    assert set(usual["baselines"]) == {"edgebank", "poptrack"}
    assert set(usual["baselines"]["edgebank"]["test"]) == set(usual["test"])
    assert hard["baselines"]["edgebank"]["test"]["auc"] < usual["baselines"]["edgebank"]["test"]["auc"]
    assert cli.main(["evaluate", str(tmp_path / "run"), "--baselines", "--ranked", "3"]) == 0
    assert "poptrack" in capsys.readouterr().out
    with pytest.raises(InputError, match="negatives"):
        graphscale.evaluate(tmp_path / "run", negatives="near")


def test_states_are_told_from_no_negatives(tmp_path):
    trained(tmp_path / "run", task="states")
    for asked in ({"ranked": 5}, {"baselines": True}):
        with pytest.raises(InputError, match="foretells states"):
            graphscale.evaluate(tmp_path / "run", **asked)


def test_batches_that_are_not_made_ahead_are_told_of(monkeypatch):
    monkeypatch.setattr(stream_runs.os, "sched_getaffinity", lambda _: {0}, raising=False)
    for asked, told in ((8, True), (TINY.prefetch, False)):
        config = replace(TINY, prefetch=asked)
        run = stream_runs.build(config, stream_views.read(config), 0)
        assert run.prefetch == 0 and any("--prefetch 8" in note for note in run.notes) == told


def test_few_negatives_make_hits_say_nothing_and_that_is_said():
    config = replace(TINY, ranked=5)
    run = stream_runs.build(config, stream_views.read(config), 0)
    assert any("hits@10" in note for note in run.notes)
    plain = replace(TINY, ranked=10)
    assert not any("hits@10" in note for note in stream_runs.build(plain, stream_views.read(plain), 0).notes)


def test_the_sizes_of_a_mailbox_are_settings():
    config = replace(TINY, model="apan", fanout="10", mails=3, mailed=0)
    run = stream_runs.build(config, stream_views.read(config), 0)
    assert run.tables[MEMORY].columns["mail"].shape[1] == 3
    run.begins()
    for step, batch in enumerate(run.batches.epoch(0)):
        train_step(run, batch, step)
    arrived = run.tables[MEMORY].columns["arrived"]
    assert 0 < int(arrived.sum()) <= 2 * run.batches.numbers.numel()  # to the ends alone
    with pytest.raises(InputError, match="no mailbox"):
        replace(TINY, mails=3)


@pytest.mark.parametrize("kind", NETWORKS)
def test_two_ranks_equal_one_process_that_accumulates(tmp_path, kind):
    started(rank_of_two, str(tmp_path), kind, size=2)
    events = small(num_events=50)
    run = composed(events, World(), kind)
    halves = [dealt_to(run.batches, rank) for rank in range(2)]
    slot, table = run.sync.slots()[0], run.tables[MEMORY]
    for index in range(2):
        run.begins()
        for some in zip(*(half.epoch(index) for half in halves), strict=True):
            slot.optimiser.zero_grad()
            some = [b for b in some if not b.padding]
            outcomes = [slot.objective({**slot.params(), **fetch(run.tables, b.needs)}, b) for b in some]
            sum(o.loss_sum for o in outcomes).backward()
            for p in slot.params().values():
                p.grad.div_(sum(o.count for o in outcomes))
            slot.optimiser.step()
            # Of a node that both halves write, the later event stands, as if the whole batch had been one write.
            writes = [o.writes[MEMORY] for o in outcomes]
            ids, values, newest = (torch.cat(parts) for parts in zip(*writes, strict=True))
            order = newest.argsort(stable=True)
            last = {int(node): place for place, node in zip(order.tolist(), ids[order], strict=True)}
            chosen = torch.tensor(sorted(last.values()))
            table.write(ids[chosen], values[chosen], newest[chosen])
    for rank in range(2):
        weights, memory = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in run.model.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-9)
        for name, value in table.state_dict().items():
            torch.testing.assert_close(memory[name], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"gamma": "1.5"}, "--gamma"),
        ({"gamma": "often"}, "--gamma"),
        ({"model": "tgat", "beta": 0.1}, "no memory"),
        ({"cut": "window"}, "--window"),
        ({"messages": "snapshot", "aggregate": "mean"}, "snapshot"),
        ({"fanout": "0"}, "--fanout"),
        ({"dim": 9}, "--heads"),
        ({"undirected": True}, "static graphs"),
        ({"gamma": "0.5", "embed_from": "measured", "write_back": "measured"}, "nothing to the correction"),
        ({"gamma": "learn", "embed_from": "measured"}, "no gradient"),
        ({"model": "tgat", "embed": "identity"}, "tgat has none"),
        ({"val": 0.6, "test": 0.5}, "nothing to train on"),
        ({"components": 3}, "1 or 2"),
        ({"task": "lunch"}, "links"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        configure("pres", preset="none", **settings)


def test_a_run_is_scored_on_its_own_stream_only(tmp_path):
    trained(tmp_path / "run", epochs=1)
    with pytest.raises(InputError, match="not the stream"):
        session.evaluate(tmp_path / "run", data="planted-stream:500")


def test_what_comes_out_of_a_run(tmp_path, capsys):
    trained(tmp_path / "run", epochs=1)
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt", needs=("model",))
    for name, value in graphscale.load(tmp_path / "run").state_dict().items():
        assert torch.equal(value, state["model"][name])
    assert cli.main(["predict", str(tmp_path / "run"), "--to", str(tmp_path / "p.parquet")]) == 2
    assert "graphscale.live" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "m.safetensors")]) == 0


def test_states_that_are_not_there_cannot_be_foretold(tmp_path):
    file = tmp_path / "e.csv"
    file.write_text("src,dst,t\n" + "".join(f"{i % 5},{5 + i % 3},{i}\n" for i in range(100)))
    with pytest.raises(InputError, match="--task states"):
        trained(tmp_path / "run", data=str(file), task="states")


def test_planted_states_are_found(tmp_path):
    """Users in state 1 meet other items; what they met of late tells which."""
    settings = {"epochs": 8, "lr": 0.003, "dim": 32, "time_dim": 16, "batch_size": 50}
    result = trained(tmp_path / "run", data="planted-stream:16000", task="states", **settings)
    assert result["test"]["auc"] > 0.85  # 0.889 to 0.900 over four seeds


def test_logits_that_are_no_numbers_rank_nowhere():
    means = LinkScores()
    means.add(torch.tensor([1.0, float("nan")]), torch.zeros(2, 3))
    found = means.means(["mrr", "hits@10"])
    assert all(math.isnan(value) for value in found.values())


def test_a_store_prepared_directed_serves_models_without_neighbours(tmp_path):
    write_stream(replace(small(num_events=120), directed=True), tmp_path / "s")
    results = [trained(tmp_path / model, data=str(tmp_path / "s"), model=model) for model in ("jodie", "apan")]
    assert all(result["test"]["ap"] > 0 for result in results)
    with pytest.raises(InputError, match="prepared directed"):
        trained(tmp_path / "tgn", data=str(tmp_path / "s"))
