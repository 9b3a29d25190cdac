"""One process here; tests/laws/test_ranks.py runs two."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from graphscale.step import Outcome
from graphscale.sync.buckets import Buckets
from graphscale.sync.replicas import Replicas
from graphscale.testing import check_sync
from graphscale.world import World


def replicas(**options):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    return Replicas(
        model, torch.optim.SGD(model.parameters(), lr=0.1), lambda p, b: Outcome(p["0.weight"].sum(), 1), **options
    )


def test_conformance():
    check_sync(replicas)


def test_a_frozen_parameter_is_in_no_slot():
    sync = replicas()
    sync.slot.module[0].weight.requires_grad_(False)
    assert set(sync.slots()[0].params()) == {"0.bias", "1.weight", "1.bias"}


def test_the_norm_that_is_clipped_is_that_of_the_mean():
    sync = replicas(clip=1.0)
    params = sync.slot.params()
    for p in params.values():
        p.grad = torch.full_like(p, 10.0)
    assert sync.reduce(sync.slot, 5) == 5
    flat = torch.cat([p.grad.flatten() for p in params.values()])
    assert float(flat.norm()) == pytest.approx(1.0, abs=1e-5)
    for p in params.values():
        p.grad = torch.full_like(p, 0.5)
    sync.reduce(sync.slot, 5)  # 0.1 each, and 23 of them: below 1 already
    assert all(torch.allclose(p.grad, torch.tensor(0.1)) for p in params.values())


class Alone(World):
    """A world whose sums are over one rank."""

    def begin_sum(self, tensor):
        return SimpleNamespace(wait=lambda: None)


def test_buckets_of_one_rank_leave_gradients_as_they_are():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 2))
    buckets = Buckets(list(model.parameters()), Alone(), size=32)
    assert len(buckets.buckets) > 2
    x = torch.randn(5, 4)
    model[:2](x).sum().backward()  # the last layer is not used
    expected = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    buckets.finish()
    for name, p in model.named_parameters():
        assert (p.grad is None) == (expected[name] is None)
        assert p.grad is None or torch.equal(p.grad, expected[name])


def test_two_backward_passes_before_a_reduction_are_refused():
    model = nn.Linear(4, 3)
    Buckets(list(model.parameters()), Alone())
    model(torch.randn(2, 4)).sum().backward()
    with pytest.raises(RuntimeError, match="two backward passes before one reduction"):
        model(torch.randn(2, 4)).sum().backward()
