"""Slices of thirty modules: inferred without a word, put back to the bit, and exact where the mathematics allows."""

from __future__ import annotations

import pytest
import torch
from pieces import HEADS, NODES, ONE_IN_ONE_OUT, TIED, plain
from torch import nn

from graphscale.errors import InputError
from graphscale.width.inference import infer
from graphscale.width.plan import deal
from graphscale.width.shards import Shards
from graphscale.width.spec import Seg
from graphscale.world import World

WIDE = {"i": 12, "o": 10}
CASES = {**ONE_IN_ONE_OUT, **HEADS, **TIED}


def case(name):
    """(build, call on an input of the module's own width, the name of the input's dimension, reason)."""
    make, call, reason = CASES[name]
    if name in TIED:
        return (lambda d: make(d["o"])), {"o": 10}, call, "o", reason
    return (lambda d: make(d["i"], d["o"])), dict(WIDE), call, "i", reason


class Framed(nn.Module):
    """A module between two layers that make its inputs and outputs hidden dimensions."""

    def __init__(self, build, dims, call, width):
        super().__init__()
        self.before, self.inner, self.call = nn.Linear(5, dims[width]), build(dims), call
        with torch.device("meta"):
            out = call_shape(build, dims, call, width)
        self.after = nn.Linear(out, 3)

    def forward(self, x):
        return self.after(self.call(self.inner, self.before(x)))


def call_shape(build, dims, call, width):
    with torch.device("cpu"):
        return call(build(dims).eval(), torch.zeros(NODES, dims[width])).shape[1]


def framed(name):
    build, dims, call, width, reason = case(name)
    x = torch.randn(NODES, 5, generator=torch.Generator().manual_seed(1)).double()

    def make(d):
        return Framed(build, d, call, width)

    return infer(make, dims, call=lambda m: m(x)), make, build, call, width, reason


def whole(spec, make):
    torch.manual_seed(0)
    model = make(spec.dims).double()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model.eval()


def shards_of(spec, state):
    return Shards(spec, World(), lambda n, a, b: state[n].clone() if spec.entries[n].shared else state[n][a:b].clone())


def test_there_are_thirty():
    assert len(CASES) >= 30


@pytest.mark.parametrize("name", CASES)
def test_slices_put_back_are_the_model(name):
    spec, make, *_ = framed(name)
    model = whole(spec, make)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    shards = shards_of(spec, state)
    for number in range(3):
        plan = deal(spec.dims, 3, seed=0, number=number)
        parts = shards.dispatch(plan, 3)
        for i, part in parts.items():
            make(plan.dims(i)).double().load_state_dict(part)  # a real, narrower module takes it
        shards.aggregate(plan, 3, parts)
        assert all(torch.equal(rows, state[n]) for n, rows in shards.own.items())
        for n, tensor in shards.shared.items():
            torch.testing.assert_close(tensor, state[n], rtol=1e-15, atol=0)  # a mean of three equal numbers


@pytest.mark.parametrize("name", CASES)
def test_slices_are_disjoint(name):
    """Numbers that change when every slice adds 1 are as many as the slices have: none is in two of them."""
    spec, make, *_ = framed(name)
    state = {n: t.clone() for n, t in whole(spec, make).state_dict().items()}
    shards, plan = shards_of(spec, state), deal(spec.dims, 3, seed=0, number=0)
    parts = {i: {n: t + 1 for n, t in part.items()} for i, part in shards.dispatch(plan, 3).items()}
    shards.aggregate(plan, 3, parts)
    for n, tensor in shards.own.items():
        changed = tensor - state[n]
        assert torch.isclose(changed, torch.ones_like(changed)).sum() == sum(part[n].numel() for part in parts.values())
        assert torch.isclose(changed, changed.round()).all() and changed.abs().max() < 1.5
    for n, tensor in shards.shared.items():
        torch.testing.assert_close(tensor, state[n] + 1)


@pytest.mark.parametrize("name", CASES)
def test_a_slice_is_the_whole_with_the_other_inputs_zero(name):
    spec, make, _, call, width, reason = framed(name)
    model = whole(spec, make)
    plan = deal(spec.dims, 3, seed=1, number=0)
    parts = shards_of(spec, model.state_dict()).dispatch(plan, 3)
    for i, part in parts.items():
        narrow = make(plan.dims(i)).double().eval()
        narrow.load_state_dict(part)
        chosen = plan.of(i)
        some = torch.randn(NODES, plan.dims(i)[width], generator=torch.Generator().manual_seed(2)).double()
        x = torch.zeros(NODES, spec.dims[width]).double()
        x[:, chosen[width]] = some
        with torch.no_grad():
            full, own = call(model.inner, x), call(narrow.inner, some)
        columns = spec.entries["after.weight"].places(spec.dims, chosen)[1]
        same = own.shape == full[:, columns].shape and torch.allclose(own, full[:, columns], rtol=1e-10, atol=1e-12)
        assert same == (not reason), reason or "expected to be exact"


class Cat(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.a, self.b = nn.Linear(5, dims["a"]), nn.Linear(5, dims["b"])
        self.last = nn.Linear(dims["a"] + dims["b"] + 5, 2)

    def forward(self, x):
        return self.last(torch.cat([self.b(x).relu(), x, self.a(x).relu()], 1))


def test_the_order_of_a_concatenation_is_found():
    x = torch.randn(7, 5).double()
    spec = infer(Cat, {"a": 6, "b": 9}, call=lambda m: m(x))
    assert spec.entries["last.weight"].axes[1] == (Seg("b"), Seg(None, size=5), Seg("a"))


def test_an_open_layout_is_refused_by_name_and_may_be_given():
    with pytest.raises(InputError, match=r"axis 1 of last\.weight may be laid out in 6 ways"):
        infer(Cat, {"a": 6, "b": 9})
    layout = (Seg("b"), Seg(None, size=5), Seg("a"))
    spec = infer(Cat, {"a": 6, "b": 9}, layouts={"last.weight": {1: layout}})
    assert spec.entries["last.weight"].axes[1] == layout
    with pytest.raises(InputError, match="has 15 numbers, and the axis 20"):
        infer(Cat, {"a": 6, "b": 9}, layouts={"last.weight": {1: (Seg("b"), Seg("a"))}})
    with pytest.raises(InputError, match="which the model does not have"):
        infer(Cat, {"a": 6, "b": 9}, layouts={"lost.weight": {1: layout}})


@pytest.mark.parametrize("width", [1, 2, 3, 8])
@pytest.mark.parametrize("name", HEADS)
def test_heads_are_told_from_channels_whatever_their_number(name, width):
    make, call, _ = HEADS[name]
    x = torch.randn(NODES, 5, generator=torch.Generator().manual_seed(1)).double()
    spec = infer(
        lambda d: make(5, d["o"]), {"o": width}, call=lambda m: call(m, x).sum(1)
    )  # an output that does not tell
    assert all(seg.outer == 1 for e in spec.entries.values() for axis in e.axes for seg in axis) or width == 1


class Bent(Cat):
    """Its units saturate on inputs as large as counts."""

    def forward(self, x):
        return self.last(torch.cat([self.b(x).tanh(), x, self.a(x).tanh()], 1))


def test_units_that_saturate_are_told_apart():
    x = torch.randn(7, 5).double()
    spec = infer(Bent, {"a": 1, "b": 2}, call=lambda m: m(x))  # too few units to exchange: the trial takes others
    assert spec.entries["last.weight"].axes[1] == (Seg("b"), Seg(None, size=5), Seg("a"))


def test_of_layouts_that_do_not_matter_the_most_uniform_is_taken():
    x = torch.randn(NODES, 5).double()
    make = HEADS["TransformerConv heads"][0]
    spec = infer(lambda d: make(5, d["o"]), {"o": 4}, call=lambda m: plain(m, x).sum(1))
    assert {seg.inner for seg in spec.entries["lin_key.bias"].axes[0]} == {3}


class Odd(nn.Module):
    """An axis that follows no multiple of its dimension."""

    def __init__(self, dims):
        super().__init__()
        self.a, self.pad = nn.Linear(5, dims["a"]), nn.Parameter(torch.ones(max(dims["a"], 7)))

    def forward(self, x):
        return self.a(x).sum(1)


def test_a_layout_that_is_given_is_not_asked_of_sizes():
    x = torch.randn(7, 5).double()
    with pytest.raises(InputError, match="axis 0 of pad"):
        infer(Odd, {"a": 5}, call=lambda m: m(x))
    spec = infer(Odd, {"a": 5}, layouts={"pad": {0: (Seg(None, size=7),)}})
    assert spec.entries["pad"].shared


class Residual(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.a, self.b = nn.Linear(5, dims["a"]), nn.Linear(dims["a"], dims.get("b", dims["a"]))
        self.last = nn.Linear(dims["a"], 2)

    def forward(self, x):
        h = self.a(x).relu()
        return self.last(h + self.b(h).relu())


class Grouped(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, dims["a"]), nn.GroupNorm(2, dims["a"]), nn.Linear(dims["a"], 2))

    def forward(self, x):
        return self.layers(x)


def test_units_that_cannot_be_exchanged_are_refused():
    x = torch.randn(7, 5).double()
    assert infer(Residual, {"a": 8}, call=lambda m: m(x)).entries["b.weight"].axes == ((Seg("a"),), (Seg("a"),))
    for build, dims in ((Residual, {"a": 8, "b": 8}), (Grouped, {"a": 8})):
        with pytest.raises(InputError, match="renumbering the units of"):
            infer(build, dims, call=lambda m: m(x))


def test_models_that_widths_do_not_describe_are_refused():
    with pytest.raises(InputError, match="no hidden dimension"):
        infer(lambda d: nn.Linear(2, 2), {})
    with pytest.raises(InputError, match="no tensor of the model follows b"):
        infer(lambda d: nn.Linear(2, d["a"]), {"a": 3, "b": 4})
    with pytest.raises(InputError, match=r"build\(\{'a': 3\}\) failed: KeyError"):
        infer(lambda d: nn.Linear(2, d["c"]), {"a": 3})
    with pytest.raises(InputError, match="returned int, not a torch.nn.Module"):
        infer(lambda d: d["a"], {"a": 3})
    with pytest.raises(InputError, match="too many orders to try"):
        names = [f"h{i}" for i in range(9)]
        infer(lambda d: nn.Linear(sum(d.values()), 2), dict.fromkeys(names, 3), call=lambda m: m)
    with pytest.raises(InputError, match="is lazy"):
        infer(lambda d: nn.LazyLinear(d["a"]), {"a": 3})
    with pytest.raises(InputError, match="the model's tensors change with a"):
        infer(lambda d: nn.ModuleList(nn.Linear(2, 2) for _ in range(d["a"])), {"a": 3})
    with pytest.raises(InputError, match="no multiple of a"):
        infer(lambda d: nn.Linear(2, d["a"] * d["a"] + 1 if d["a"] == 3 else 11), {"a": 3})
