"""Laws of sub-networks (GIST): any number of processes, one sub-network, the identity, bytes, coverage, resumption."""

from __future__ import annotations

import json
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from forked import started
from subnetwork import DIMS, GRAPH, LR, batches, build, composed, fed, initial, mixed_ranks, ranks, trained
from torch.distributed.checkpoint import FileSystemReader

from graphscale import gist_advice
from graphscale.errors import InputError
from graphscale.loop import train_step
from graphscale.nn.stock import Feed
from graphscale.run import Run, check
from graphscale.sync.replicas import Replicas
from graphscale.width.plan import coverage, deal
from graphscale.world import World

KINDS = {
    "sage": {},
    "carried": {"carry": True},
    "batch norm, gcn": {"norm": "batch", "kind": "gcn"},
    "clipped": {"clip": 0.1, "every": 3},
    "uneven": {"m": 3},
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
    started(ranks, size, str(folder), tasks, size=size)
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name, *_ in tasks}


def equal(found, expected, *, atol=1e-9):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol)


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_gives_the_same_model(tmp_path, size):
    kinds = {name: settings for name, settings in KINDS.items() if settings.get("m", 4) >= size}
    found = spawned(tmp_path, size, [(name, STEPS, 0, None, None, s) for name, s in kinds.items()])
    for name, settings in kinds.items():
        run = composed(World(), **settings)
        # A bias before BatchNorm has no gradient but for rounding, of which Adam makes a step.
        equal(found[name]["state"], trained(run, STEPS), atol=1e-6 if "batch norm" in name else 1e-9)
        total, packed = found[name]["sent"]
        assert packed == run.sync.shards.packed, "what is handed over does not depend on the ranks"
        shared = 8 * sum(t.numel() for t in run.sync.shards.shared.values())
        merges = -(-STEPS // run.sync.every)  # the last one at the end, in mid-round or not
        crossing = total - merges * 2 * (size - 1) * shared
        assert crossing / packed == pytest.approx((size - 1) / size, rel=0.2), "all but a rank's own part crosses"


def test_bytes_are_those_of_the_formula():
    """A round hands over every sub-network's part twice: P_edge/m + P_hid/m^2, counted by hand."""
    run = composed(World(), every=4, m=3)
    trained(run, 8)

    def numbers(dims):  # GraphSAGE: two weights and a bias a layer, LayerNorm; the last bias is shared
        a, b = dims["h1"], dims["h2"]
        return (2 * 5 * a + a + 2 * a) + (2 * a * b + b + 2 * b) + 2 * b * 3

    def of(number):
        return sum(8 * numbers(deal(DIMS, 3, seed=3, number=number).dims(i)) for i in range(3))

    dispatched, merged = of(0) + of(1) + of(2), of(0) + of(1)  # the third round has begun, and nothing has changed
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


def test_replicas_of_a_subnetwork_are_one_that_sees_both_batches(tmp_path):
    """A mesh of 2 x 2, and of 1 x 2, beside one process that adds up the gradients of two batches."""
    settings = {"m": 2, "replicas": 2, "carry": True}
    found = [spawned(tmp_path, size, [(f"of-{size}", 6, 0, None, None, settings)]) for size in (2, 4)]
    run = composed(World(), m=2, carry=True)
    streams = [iter([b for i in range(4) for b in batches(World(rank, 2)).epoch(i)]) for rank in range(2)]
    for step in range(6):
        pair = [batch for batch in map(next, streams) if not batch.padding]
        for slot in run.sync.slots():
            slot.optimiser.zero_grad()
            outcomes = [slot.objective(slot.params(), batch) for batch in pair]
            sum(outcome.loss_sum for outcome in outcomes).backward()
            for p in slot.params().values():
                p.grad /= sum(outcome.count for outcome in outcomes)
            slot.optimiser.step()
        run.sync.finish(step)
    expected = trained(run, 0)
    for states in found:
        for result in states.values():
            equal(result["state"], expected)


@pytest.mark.parametrize("size", [2, 4])
def test_columns_of_several_ranks_are_the_whole(tmp_path, size):
    """Four ranks are more than there are classes: the last one has none."""
    settings = {"m": 5, "norm": "batch"}
    found = spawned(tmp_path, size, [("columns", 3, 0, None, None, settings)])["columns"]
    model = build(DIMS, "batch").eval()
    model.load_state_dict(found["state"])
    feed = Feed("edge_index", False, False)
    expected = feed(model, GRAPH.x, GRAPH.adj, None).detach()
    torch.testing.assert_close(found["logits"], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("damage", ["flip", "cut", "lose", "metadata"])
def test_damaged_shards_are_an_error_in_words(tmp_path, damage):
    run = composed(World())
    trained(run, 3)
    run.sync.save(tmp_path / "at-3")
    file = next(f for f in (tmp_path / "at-3").iterdir() if f.suffix == ".distcp")
    if damage == "metadata":
        file = tmp_path / "at-3" / ".metadata"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "lose":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 3] if damage == "cut" else content)
    with pytest.raises(RuntimeError, match="at-3: .*(damaged|missing)"):
        composed(World()).sync.load(tmp_path / "at-3")


class Evil:
    def __reduce__(self):
        return (print, ("code has run",))


class Reaching:
    """Reaches a module by the names that a metadata file may hold, and a function in it."""

    def __reduce__(self):
        return (getattr, (FileSystemReader, "__init__"))


M, N = b"torch.distributed.checkpoint.filesystem", b"FileSystemReader.read_metadata"


def dotted():
    return b"\x80\x04\x8c" + bytes([len(M)]) + M + b"\x8c" + bytes([len(N)]) + N + b"\x93."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps(Evil()), r"it names builtins\.print"),
        (pickle.dumps(Reaching(), protocol=4), "no checkpoint needs"),
        (dotted(), "no checkpoint needs"),
    ],
)
def test_metadata_runs_no_code(tmp_path, capsys, content, says):
    """Checksums do not help against who writes them too."""
    run = composed(World())
    run.sync.save(tmp_path / "at-0")
    (tmp_path / "at-0" / ".metadata").write_bytes(content)
    sums = json.loads((tmp_path / "at-0" / "checksums.json").read_text())
    del sums[".metadata"]
    (tmp_path / "at-0" / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(RuntimeError, match=says):
        run.sync.load(tmp_path / "at-0")
    assert "code has run" not in capsys.readouterr().out


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("carry", [False, True])
def test_bytes_between_processes_are_those_that_were_said(tmp_path, size, carry):
    """What the recipe announces a round to move, beside what moved; rows of a slice lie where chance has put them."""
    settings = {"carry": carry, "every": 1}
    sent, _ = spawned(tmp_path, size, [("bytes", 40, 0, None, None, settings)])["bytes"]["sent"]
    run = composed(World(), **settings)
    said = gist_advice.round_bytes(run.sync.shards.spec, 4, size)
    assert sent / 40 == pytest.approx(said, rel=0.05)


@pytest.mark.parametrize(("size", "replicas", "norm"), [(2, 2, "batch"), (4, 2, "layer")])
def test_bytes_of_replicas_within_are_those_that_were_said(tmp_path, size, replicas, norm):
    """On a mesh: the exchange of every column, and each step the gradients and buffers of every row."""
    settings = {"m": 4, "every": 5, "replicas": replicas, "norm": norm}
    sent, _ = spawned(tmp_path, size, [("bytes", 20, 0, None, None, settings)])["bytes"]["sent"]
    run = composed(World(), m=4, norm=norm)
    spec = run.sync.shards.spec
    exchanged = gist_advice.round_bytes(spec, 4, size // replicas)
    reduced = gist_advice.step_bytes(spec, run.model, 4, replicas)
    assert (exchanged > 0) == (size > replicas)
    assert sent == pytest.approx(4 * replicas * exchanged + 20 * reduced, rel=0.05 if exchanged else 0.001)


def test_what_is_said_beside_replicas_of_the_whole(tmp_path):
    """As many steps of as many processes, each with the whole model: 2 (W - 1) P numbers a step."""
    spec, model = (run := composed(World())).sync.shards.spec, run.model
    numbers = sum(p.numel() + 1 for p in model.parameters())
    assert gist_advice.step_bytes(spec, model, 1, 4) == 2 * 3 * 8 * numbers


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
        check(
            Run(
                **{
                    **vars(run),
                    "metrics": ("f1",),
                    "monitor": "f1",
                    "tables": {"history": SimpleNamespace(learns=False)},
                }
            )
        )


def test_tensors_of_several_types_travel_as_what_they_are(tmp_path):
    started(mixed_ranks, str(tmp_path), size=2)
