"""Laws of training over tasks: ranks, resume, bytes, coverage, order; and the inner loop beside one written out."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from forked import started
from rating import STOP, WAYS, composed, objective_of, ranks, saved, small, state_of, stepped

from graphscale import folder
from graphscale.batches.task_decoder import EMBEDDING, Decoder, grouped
from graphscale.batches.task_reader import TaskReader
from graphscale.loop import Log
from graphscale.nn.affine import FED
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
    started(ranks, str(place), request.param, ways_of(request.param), size=request.param)
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
    for size, spare in ((1, 1), (1, 1024), (2, 1), (4, 1)):
        for index in range(2):
            met = []
            for rank in range(size):
                reader = TaskReader(Decoder(tasks, spare=spare), 7, world=World(rank, size), seed=3)
                batches = list(reader.epoch(index))
                assert len(batches) == len(reader)
                for batch in batches:
                    assert batch.padding == (batch.count == 0)
                    for block in batch.blocks:
                        whole = tasks.offset.diff()[block.tasks]
                        assert torch.equal(block.shown + block.asked, whole), "all records of a task, at once"
                        assert torch.equal(block.shown, tasks.support[block.tasks])
                        met.append(block.tasks)
            assert torch.equal(torch.cat(met).sort().values, tasks.numbers("train"))


def test_batches_hold_the_records_of_their_tasks():
    tasks = small()
    layout = tasks.layout
    for private in (False, True):
        for batch in TaskReader(Decoder(tasks, private=private, spare=5), 7).epoch(0):
            assert bool((batch.rows.diff() > 0).all()), "distinct, ascending"
            for block, t, number in each(batch):
                first, end = tasks.offset[number : number + 2].tolist()
                words, present = tasks.records[first:end], block.present()[t]
                assert torch.equal(block.y[t][present], tasks.labels(first, end))
                assert torch.equal(block.dense[t][present], words[:, 1:2].contiguous().view(torch.float32))
                place = block.ids[t][present].long()
                there = batch.rows if block.own is None else batch.rows[block.own[t]]
                rows = torch.where(place < 0, -1, there[place.clamp(min=0)])
                assert torch.equal(rows, layout.rows(words[:, 2:]))


def each(batch):
    """(Block, place in it, number) of every task."""
    return [(block, t, number) for block in batch.blocks for t, number in enumerate(block.tasks.tolist())]


def test_redrawn_queries_are_a_share_of_a_tasks_records_and_others_every_epoch():
    tasks = small()
    met = []
    for index in range(2):
        for batch in TaskReader(Decoder(tasks, redraw=0.5), 7).epoch(index):
            for block, t, number in each(batch):
                size = int(tasks.offset[number + 1] - tasks.offset[number])
                assert block.asked[t] == round(0.5 * size) and block.shown[t] + block.asked[t] == size
                hours = block.dense[t][block.present()[t]].flatten()
                there = tasks.records[int(tasks.offset[number]) :][:size, 1].contiguous().view(torch.float32)
                assert torch.equal(hours.sort().values, there.sort().values), "each record once"
                met.append((number, hours[int(block.shown[t]) :].sort().values.tolist()))
    met.sort()
    assert sum(a[1] != b[1] for a, b in zip(met[::2], met[1::2], strict=True)) > 20


def test_blocks_hold_every_task_once_and_spare_padding():
    shown, asked = np.array([3, 90, 4, 5, 80, 4, 3]), np.array([1, 10, 1, 1, 10, 1, 1])
    groups = grouped(shown, asked, 40)
    assert sorted(np.concatenate(groups).tolist()) == list(range(7))
    assert [sorted(g.tolist()) for g in groups] == [[1, 4], [0, 2, 3, 5, 6]]
    assert len(grouped(shown, asked, 10**6)) == 1


def test_the_order_is_a_function_of_seed_and_epoch():
    tasks = small()

    def order(seed, epoch, rank=0, size=1, start=0):
        reader = TaskReader(Decoder(tasks), 4, seed=seed, world=World(rank, size))
        batches = reader.epoch(epoch, start)
        return [sorted(number for block in batch.blocks for number in block.tasks.tolist()) for batch in batches]

    first = order(0, 0)
    assert first == order(0, 0)
    assert first != order(0, 1) and first != order(1, 0)
    assert first[3:] == order(0, 0, start=3), "start=k resumes at step k"
    shares = [order(0, 0, rank, 3) for rank in range(3)]
    assert [a + b + c for a, b, c in zip(*shares, strict=True)] == first, "ranks share each step, in the file's order"


@pytest.mark.parametrize("way", [name for name in WAYS if name != "joint"])
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(("spare", "blocks", "top"), [(1024, 1, (8, 5)), (7, 2, (8, 5)), (7, 2, (90, 80))], ids=str)
def test_the_batched_inner_loop_equals_one_written_out(way, order, spare, blocks, top):
    """Task by task, a copy of the network each: the same loss and the same gradients of weights, rates and rows."""
    tasks = small()
    objective = copy.deepcopy(objective_of(tasks, way, top=top))
    object.__setattr__(objective, "order", order)
    private = objective.model.private
    batch = next(iter(TaskReader(Decoder(tasks, private=private, spare=spare), 6).epoch(0)))
    assert len(batch.blocks) == blocks
    rows = torch.randn(batch.rows.numel(), objective.model.net.row_dim, dtype=torch.float64, requires_grad=True)
    params = dict(objective.model.named_parameters())
    leaves = [*params.values(), rows]
    outcome = objective({**params, TABLE: rows}, batch)
    fast = objective.fast({**params, TABLE: rows}, batch.blocks[0], order)
    assert (NET + "top.1" + FED in fast) == (top == (90, 80)), "wide layers descend as factors"
    assert outcome.count == batch.count == 6
    expected = sum(_by_hand(objective, params, rows, block, t, order) for block, t, _ in each(batch))
    torch.testing.assert_close(outcome.loss_sum, expected)
    found = torch.autograd.grad(outcome.loss_sum, leaves, allow_unused=True)
    for got, want in zip(found, torch.autograd.grad(expected, leaves, allow_unused=True), strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want)


def _by_hand(objective, params, rows, block, t, order):
    """The query loss of one task, after its inner loop."""
    model, present = objective.model, block.present()[t]
    table = rows if block.own is None else rows[block.own[t]]
    fast = {name: params[name] for name in model.names} | ({TABLE: table} if block.own is not None else {})
    rates = model.rates_of(params)

    def losses(weights, places):
        some = torch.arange(len(present))[places]
        some = some[present[some]]
        ids = block.ids[t : t + 1, some]
        vectors = pooled(weights.get(TABLE, table), ids, objective.layout, whole=False)
        net = {n.removeprefix(NET): v for n, v in {**params, **weights}.items() if n.startswith(NET)}
        return (model.net.score(net, vectors, block.dense[t : t + 1, some])[0] - block.y[t, some]) ** 2

    for _ in range(objective.steps):
        loss = losses(fast, slice(None, block.width)).sum() / (block.shown[t] + objective.shrink)
        gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=order == "second", retain_graph=True)
        fast = {name: fast[name] - rates[name] * g for name, g in zip(fast, gradients, strict=True)}
    return losses(fast, slice(block.width, None)).mean()
