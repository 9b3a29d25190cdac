"""Laws of training over tasks: ranks, resume, bytes, coverage, order; and the inner loop beside one written out."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.multiprocessing as mp
from rating import STOP, WAYS, composed, objective_of, ranks, saved, small, state_of, stepped

from graphscale import folder
from graphscale.batches.task_reader import EMBEDDING, Decoder, TaskReader
from graphscale.loop import Log
from graphscale.nn.dlrm import pooled
from graphscale.objectives.rating import NET, TABLE
from graphscale.world import World

GOING_ON = ("first", "rows-first")


@pytest.fixture(scope="module")
def alone():
    """State after training in one process, by way."""
    found = {}
    for way in WAYS:
        run = composed(way, World())
        stepped(run, Log())
        found[way] = state_of(run)
    return found


@pytest.fixture(scope="module", params=[2, 4])
def spawned(request, tmp_path_factory):
    """(ranks, the folder with what they left)."""
    place = tmp_path_factory.mktemp(f"ranks-{request.param}")
    for way in GOING_ON:
        run = composed(way, World())
        saved(run, stepped(run, Log(), until=STOP), place / f"{way}-from-1")
    mp.spawn(ranks, (str(place), request.param, ways_of(request.param)), nprocs=request.param)
    return request.param, place


def ways_of(size):
    """Four ranks are tried with what needs most: second order, rows adapted or not."""
    return tuple(WAYS) if size == 2 else ("second", "rows-second", *GOING_ON[:1])


def assert_close(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-11, msg=name)


def test_ranks_equal_one_process(spawned, alone):
    size, place = spawned
    for way in ways_of(size):
        for rank in range(size):
            assert_close(torch.load(place / f"{way}-{size}-{rank}.pt", weights_only=True), alone[way])


def test_another_number_of_ranks_goes_on(spawned, alone):
    size, place = spawned
    for way in set(GOING_ON) & set(ways_of(size)):
        assert_close(torch.load(place / f"{way}-went-on-{size}-0.pt", weights_only=True), alone[way])
        run = composed(way, World())
        stepped(run, folder.restore(place / f"{way}-from-{size}", run))
        assert_close(state_of(run), alone[way])


def test_measured_bytes_equal_the_formulas(spawned):
    size, place = spawned
    for way in ways_of(size):
        run = composed(way, World())
        width, steps = 8 * run.tables[EMBEDDING].dim, 2 * len(run.batches)
        said = [json.loads((place / f"{way}-{size}-{rank}.json").read_text()) for rank in range(size)]
        abroad, sent_rows, share = [0] * size, [0] * size, -(-run.tables[EMBEDDING].num_rows // size)
        for rank in range(size):
            readers = TaskReader(run.batches.decoder, 7, world=World(rank, size))
            for index in range(2):
                for batch in readers.epoch(index):
                    owner = batch.rows // share
                    abroad[rank] += int((owner != rank).sum())
                    for other in range(size):
                        sent_rows[other] += int((owner == other).sum()) * (other != rank)
        for rank, found in enumerate(said):
            assert found["counts"] == 8 * (size - 1) * steps
            assert found["ids"] == 8 * abroad[rank]
            assert found["rows"] == width * sent_rows[rank]
            assert found["gradients"] == width * abroad[rank]
            assert found["wire"] == sum(found[name] for name in ("counts", "ids", "rows", "gradients"))
            assert found["calls"] == 4 * steps, "counts, ids, rows, gradients: one exchange for support and query"
            weights = sum(p.numel() for p in run.model.parameters())
            flags = len(list(run.model.parameters()))
            assert found["dense"] == steps * (2 * 8 * (weights + flags) * (size - 1) // size), "as in a ring"


def test_every_record_is_read_once_an_epoch_and_no_batch_splits_a_task():
    tasks = small()
    for size in (1, 2, 4):
        for index in range(2):
            met = []
            for rank in range(size):
                reader = TaskReader(Decoder(tasks), 7, world=World(rank, size), seed=3)
                batches = list(reader.epoch(index))
                assert len(batches) == len(reader)
                for batch in batches:
                    whole = tasks.offset.diff()[batch.tasks]
                    assert torch.equal(batch.shown + batch.asked, whole), "all records of a task, at once"
                    assert torch.equal(batch.shown, tasks.support[batch.tasks])
                    assert batch.padding == (batch.size == 0)
                    met.append(batch.tasks)
            assert torch.equal(torch.cat(met).sort().values, tasks.numbers("train"))


def test_batches_hold_the_records_of_their_tasks():
    tasks = small()
    layout = tasks.layout
    for private in (False, True):
        for batch in TaskReader(Decoder(tasks, private=private), 7).epoch(0):
            present = batch.present()
            for t, number in enumerate(batch.tasks.tolist()):
                first, end = tasks.offset[number : number + 2].tolist()
                words = tasks.records[first:end]
                assert torch.equal(batch.y[t][present[t]], tasks.labels(first, end))
                assert torch.equal(batch.dense[t][present[t]], words[:, 1:2].contiguous().view(torch.float32))
                place = batch.ids[t][present[t]].long()
                there = batch.rows if batch.own is None else batch.rows[batch.own[t]]
                rows = torch.where(place < 0, -1, there[place.clamp(min=0)])
                assert torch.equal(rows, layout.rows(words[:, 2:]))


def test_the_order_is_a_function_of_seed_and_epoch():
    tasks = small()

    def order(seed, epoch, rank=0, size=1, start=0):
        reader = TaskReader(Decoder(tasks), 4, seed=seed, world=World(rank, size))
        return [batch.tasks.tolist() for batch in reader.epoch(epoch, start)]

    first = order(0, 0)
    assert first == order(0, 0)
    assert first != order(0, 1) and first != order(1, 0)
    assert first[3:] == order(0, 0, start=3), "start=k resumes at step k"
    shares = [order(0, 0, rank, 3) for rank in range(3)]
    assert [a + b + c for a, b, c in zip(*shares, strict=True)] == first, "ranks share each step, in the file's order"


@pytest.mark.parametrize("way", [name for name in WAYS if name != "joint"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_the_batched_inner_loop_equals_one_written_out(way, order):
    """Task by task, a copy of the network each: the same loss and the same gradients of weights, rates and rows."""
    tasks = small()
    objective = copy.deepcopy(objective_of(tasks, way))
    object.__setattr__(objective, "order", order)
    private = objective.model.private
    batch = next(iter(TaskReader(Decoder(tasks, private=private), 6).epoch(0)))
    rows = torch.randn(batch.rows.numel(), objective.model.net.row_dim, dtype=torch.float64, requires_grad=True)
    params = dict(objective.model.named_parameters())
    leaves = [*params.values(), rows]
    outcome = objective({**params, TABLE: rows}, batch)
    assert outcome.count == batch.size
    expected = sum(_by_hand(objective, params, rows, batch, t, order) for t in range(batch.size))
    torch.testing.assert_close(outcome.loss_sum, expected)
    found = torch.autograd.grad(outcome.loss_sum, leaves, allow_unused=True)
    for got, want in zip(found, torch.autograd.grad(expected, leaves, allow_unused=True), strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want)


def _by_hand(objective, params, rows, batch, t, order):
    """The query loss of one task, after its inner loop."""
    model, present = objective.model, batch.present()[t]
    table = rows if batch.own is None else rows[batch.own[t]]
    fast = {name: params[name] for name in model.names} | ({TABLE: table} if batch.own is not None else {})
    rates = model.rates_of(params)

    def losses(weights, places):
        some = torch.arange(len(present))[places]
        some = some[present[some]]
        ids = batch.ids[t : t + 1, some]
        vectors = pooled(weights.get(TABLE, table), ids, objective.layout, whole=False)
        net = {n.removeprefix(NET): v for n, v in {**params, **weights}.items() if n.startswith(NET)}
        return (model.net.score(net, vectors, batch.dense[t : t + 1, some])[0] - batch.y[t, some]) ** 2

    for _ in range(objective.steps):
        loss = losses(fast, slice(None, batch.width)).sum() / (batch.shown[t] + objective.shrink)
        gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=order == "second", retain_graph=True)
        fast = {name: fast[name] - rates[name] * g for name, g in zip(fast, gradients, strict=True)}
    return losses(fast, slice(batch.width, None)).mean()
