"""Laws of sub-networks (GIST): any number of processes, one sub-network, the identity, bytes, coverage, resumption."""

from __future__ import annotations

import math

import pytest
import torch
import torch.multiprocessing as mp
from subnetwork import DIMS, LR, batches, composed, fed, initial, ranks, trained

from graphscale.errors import InputError
from graphscale.loop import train_step
from graphscale.run import Run, check
from graphscale.sync.replicas import Replicas
from graphscale.width.plan import coverage, deal
from graphscale.world import World

KINDS = {
    "sage": {},
    "carried": {"carry": True},
    "batch norm, gcn": {"norm": "batch", "kind": "gcn"},
    "clipped": {"clip": 0.1, "every": 3},
}
STEPS = 8


@pytest.fixture(autouse=True)
def _as_ranks_have(request):
    """One thread: another order of summation is another sum. Adam makes much of it where a gradient is all but 0."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spawned(folder, size, tasks):
    mp.spawn(ranks, (size, str(folder), tasks), nprocs=size)
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name, *_ in tasks}


def equal(found, expected, *, atol=1e-9):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol)


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_gives_the_same_model(tmp_path, size):
    found = spawned(tmp_path, size, [(name, STEPS, 0, None, None, s) for name, s in KINDS.items()])
    for name, settings in KINDS.items():
        run = composed(World(), **settings)
        # A bias before BatchNorm has no gradient but for rounding, of which Adam makes a step.
        equal(found[name]["state"], trained(run, STEPS), atol=1e-6 if "batch norm" in name else 1e-9)
        total, packed = found[name]["sent"]
        assert packed == run.sync.shards.packed, "what is handed over does not depend on the ranks"
        shared = 8 * sum(t.numel() for t in run.sync.shards.shared.values())
        merges = STEPS // run.sync.every + 1
        crossing = total - merges * size * shared
        assert crossing / packed == pytest.approx((size - 1) / size, rel=0.12), "all but a rank's own part crosses"


def test_bytes_are_those_of_the_formula():
    """A round hands over every sub-network's part twice: P_edge/m + P_hid/m^2, counted by hand."""
    run = composed(World(), every=4, m=3)
    trained(run, 8)

    def numbers(dims):  # GraphSAGE: two weights and a bias a layer, LayerNorm; the last bias is shared
        a, b = dims["h1"], dims["h2"]
        return (2 * 5 * a + a + 2 * a) + (2 * a * b + b + 2 * b) + 2 * b * 3

    def of(number):
        return sum(8 * numbers(deal(DIMS, 3, seed=3, number=number).dims(i)) for i in range(3))

    dispatched, merged = of(0) + of(1) + of(2), of(0) + of(1) + of(2)  # the last one by trained()
    assert run.sync.shards.packed == dispatched + merged
    assert run.sync.shards.sent == 0


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_one_subnetwork_that_carries_its_optimiser_is_plain_training(norm):
    model = initial(norm)
    slot = fed(model)
    plainly = Run(
        model=model, batches=batches(World()), sync=Replicas(model, slot.optimiser, slot.objective), evaluate=dict,
        metrics=(), monitor="",
    )  # fmt: skip
    stream = (batch for index in range(9) for batch in plainly.batches.epoch(index))
    for step, batch in zip(range(11), stream, strict=False):
        train_step(plainly, batch, step)
    state = trained(composed(World(), m=1, every=3, carry=True, norm=norm), 11)
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name


def test_the_identity_is_local_sgd(tmp_path):
    """Two ranks, each on its own batches: beside two models that are trained and averaged by hand."""
    settings = {"m": 2, "every": 2, "identity": True}
    found = spawned(tmp_path, 2, [("local", 6, 0, None, None, settings)])["local"]["state"]
    models = [initial(), initial()]
    streams = [iter([b for i in range(4) for b in batches(World(rank, 2)).epoch(i)]) for rank in range(2)]
    for _ in range(3):
        slots = [fed(model) for model in models]  # with fresh optimisers
        for slot, stream in zip(slots, streams, strict=True):
            for _ in range(2):
                batch = next(stream)
                slot.optimiser.zero_grad()
                if batch.padding:
                    continue
                outcome = slot.objective(slot.params(), batch)
                (outcome.loss_sum / outcome.count).backward()
                slot.optimiser.step()
        mean = {n: (v + models[1].state_dict()[n]) / 2 for n, v in models[0].state_dict().items()}
        for model in models:
            model.load_state_dict(mean)
    equal(found, models[0].state_dict())


def test_replicas_of_a_subnetwork_see_other_batches(tmp_path):
    """A mesh of 2 x 2: the same as one process that hosts both, beside another that sees the other batches."""
    settings = {"m": 2, "replicas": 2, "norm": "batch"}
    four = spawned(tmp_path, 4, [("four", 6, 0, None, None, settings)])["four"]["state"]
    two = spawned(tmp_path, 2, [("two", 6, 0, None, None, settings)])["two"]["state"]
    equal(four, two, atol=1e-6)
    alone = trained(composed(World(), m=2, norm="batch"), 6)
    assert not torch.allclose(alone["convs.0.lin_l.weight"], two["convs.0.lin_l.weight"])


@pytest.mark.parametrize("carry", [False, True])
def test_another_number_of_processes_goes_on(tmp_path, carry):
    """Saved in mid-round by two, gone on with by four, then by one: as if nothing had happened."""
    settings = {"every": 3, "carry": carry}
    spawned(tmp_path, 2, [("two", 4, 0, None, "at-4", settings)])
    spawned(tmp_path, 4, [("four", 8, 4, "at-4", "at-8", settings)])
    run = composed(World(), **settings)
    run.sync.load(tmp_path / "at-8")
    equal(trained(run, 11, start=8), trained(composed(World(), **settings), 11))


def test_what_a_round_trains():
    """The share of a hidden matrix that has changed is 1 - (1 - 1/m)^T, and the first and last layers change whole."""
    m, rounds = 3, 3
    before, run = initial().state_dict(), composed(World(), m=m, every=1)
    for number in range(rounds):
        plan = run.sync.plan
        assert plan.digest() == deal(DIMS, m, seed=3, number=number).digest()
        stream = (batch for index in range(9) for batch in run.batches.epoch(index))
        train_step(run, next(stream), number)
    after = trained(run, 0)
    changed = (after["convs.1.lin_l.weight"] != before["convs.1.lin_l.weight"]).double().mean()
    expected = torch.zeros(7, 9, dtype=torch.bool)
    for number in range(rounds):
        plan = deal(DIMS, m, seed=3, number=number)
        for i in range(m):
            expected[plan.of(i)["h2"][:, None], plan.of(i)["h1"]] = True
    assert float(changed) == pytest.approx(float(expected.double().mean()), abs=1e-12)
    assert float(changed) == pytest.approx(coverage(m, rounds), abs=0.1)
    for name in ("convs.0.lin_l.weight", "convs.2.lin_r.weight"):
        assert (after[name] != before[name]).double().mean() > 0.95


def test_merging_in_mid_round_changes_no_training():
    plainly = trained(composed(World(), every=4), 7)
    run = composed(World(), every=4)
    stream = (batch for index in range(9) for batch in run.batches.epoch(index))
    for step, batch in zip(range(7), stream, strict=False):
        train_step(run, batch, step)
        run.sync.merge()
    state = run.model.state_dict()
    run.sync.whole(state)
    equal(state, plainly)


def test_the_learning_rate_drops_by_global_steps():
    run = composed(World(), every=3, drops=(2, 4))
    stream = (batch for index in range(9) for batch in run.batches.epoch(index))
    seen = []
    for step, batch in zip(range(6), stream, strict=False):
        seen.append({g["lr"] for slot in run.sync.slots() for g in slot.optimiser.param_groups})
        train_step(run, batch, step)
    assert [round(math.log10(LR / lr)) for (lr,) in seen] == [0, 0, 1, 1, 2, 2]


def test_tables_are_refused():
    run = composed(World())
    with pytest.raises(InputError, match="the columns that one sub-network"):
        check(Run(**{**vars(run), "metrics": ("f1",), "monitor": "f1", "tables": {"history": object()}}))
