"""A model drawn row by row is what its layers would have drawn, and the same however many ranks draw it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

from graphscale.errors import InputError
from graphscale.width import store
from graphscale.width.inference import infer
from graphscale.world import World

X, EDGES = torch.randn(9, 6).double(), torch.randint(9, (2, 30))


class Net(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.a, self.b = SAGEConv(6, dims["a"]), GCNConv(dims["a"], dims["b"])
        self.norm, self.c = nn.BatchNorm1d(dims["b"]), GATConv(dims["b"], 4, heads=1)
        self.gain = nn.Parameter(0.3 + torch.empty(dims["b"]).fill_(0.0)) if dims.get("odd") else None
        self.wild = nn.Parameter(torch.zeros(dims["b"]))
        nn.init.normal_(self.wild, 0.5, 0.1)

    def forward(self, x, edges):
        h = self.norm(self.b(self.a(x, edges).relu(), edges)) * self.wild
        return self.c(h.relu(), edges)


DIMS = {"a": 150, "b": 90}


def spec():
    return infer(Net, DIMS, call=lambda m: m(X, EDGES))


def test_rows_do_not_depend_on_the_number_of_ranks():
    one = store.drawn(spec(), World(), Net, 5)
    for size in (2, 3, 7):
        parts = [store.drawn(spec(), World(rank, size), Net, 5) for rank in range(size)]
        for name, rows in one.own.items():
            assert torch.equal(torch.cat([part.own[name] for part in parts]), rows), name
        assert all(torch.equal(part.shared[n], t) for part in parts for n, t in one.shared.items())
    other = store.drawn(spec(), World(), Net, 6)
    assert not torch.equal(other.own["a.lin_l.weight"], one.own["a.lin_l.weight"])


def test_numbers_are_distributed_as_the_layers_draw_them():
    drawn = store.drawn(spec(), World(), Net, 0)
    torch.manual_seed(0)
    built = Net(DIMS).state_dict()
    assert {*drawn.own, *drawn.shared} == set(built)
    for name, tensor in {**drawn.own, **drawn.shared}.items():
        own, other = tensor.double(), built[name].double()
        assert tensor.shape == built[name].shape and tensor.dtype == built[name].dtype
        if tensor.unique().numel() == 1 or tensor.numel() < 50:
            assert tensor.numel() < 50 or torch.equal(own, other), name  # zeros and ones
            continue
        spread, count = float(other.std()), tensor.numel()
        assert abs(float(own.mean() - other.mean())) < 6 * spread / math.sqrt(count), name
        assert float(own.std()) == pytest.approx(spread, rel=6 / math.sqrt(count)), name
        if "wild" not in name:  # uniform: its ends
            assert float(own.abs().max()) == pytest.approx(float(other.abs().max()), rel=0.1)
        assert own.unique().numel() > 0.9 * count  # chunks do not repeat one another


class Turned(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.a, self.b = nn.Linear(6, dims["a"]), nn.Linear(dims["a"], 2)
        nn.init.trunc_normal_(self.a.weight)

    def forward(self, x):
        return self.b(self.a(x).relu())


def test_what_rows_cannot_be_drawn_by_is_refused():
    made = infer(Turned, {"a": 8}, call=lambda m: m(X))
    with pytest.raises(InputError, match=r"a\.weight is not filled by uniform, normal or equal numbers"):
        store.drawn(made, World(), Turned, 0)


def test_moments_lie_beside_the_parameters():
    made = store.with_moments(spec(), Net(DIMS))
    shards = store.cut(made, World(), Net(DIMS).state_dict())
    assert shards.own["exp_avg.b.lin.weight"].shape == (90, 150) and not shards.own["exp_avg.b.lin.weight"].any()
    assert "exp_avg.norm.running_mean" not in made.entries and float(shards.shared["steps"]) == 0
