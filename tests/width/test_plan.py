"""Blocks are disjoint and cover; a plan is a function of (seed, round)."""

from __future__ import annotations

import pytest
import torch

from graphscale.errors import InputError
from graphscale.width.plan import coverage, deal, rounds_for

DIMS = {"h1": 13, "h2": 8}


@pytest.mark.parametrize("m", [1, 2, 3, 8])
def test_blocks_are_disjoint_and_cover(m):
    plan = deal(DIMS, m, seed=3, number=5)
    for dim, width in DIMS.items():
        assert torch.equal(torch.cat(plan.blocks[dim]).sort().values, torch.arange(width))
        sizes = [block.numel() for block in plan.blocks[dim]]
        assert max(sizes) - min(sizes) <= 1 and all(torch.equal(b, b.sort().values) for b in plan.blocks[dim])
    assert [plan.dims(i)["h1"] for i in range(m)] == [plan.of(i)["h1"].numel() for i in range(m)]


def test_a_plan_follows_from_seed_and_round_and_nothing_else():
    torch.manual_seed(0)
    one = deal(DIMS, 4, seed=1, number=2)
    torch.manual_seed(5)
    torch.rand(7)
    assert one.digest() == deal(DIMS, 4, seed=1, number=2).digest()
    others = [deal(DIMS, 4, seed=1, number=3), deal(DIMS, 4, seed=2, number=2), deal(DIMS, 2, seed=1, number=2)]
    assert len({one.digest(), *(other.digest() for other in others)}) == 4


def test_dimensions_of_one_width_are_dealt_apart():
    plan = deal({"a": 30, "b": 30}, 2, seed=0, number=0)
    assert not torch.equal(plan.blocks["a"][0], plan.blocks["b"][0])


def test_every_unit_meets_every_other():
    """Over many rounds each pair of units is together in 1/m of them, as coverage needs."""
    together = torch.zeros(8, 8)
    for number in range(800):
        plan = deal({"a": 8, "b": 8}, 4, seed=0, number=number)
        for i in range(4):
            together[plan.of(i)["a"][:, None], plan.of(i)["b"]] += 1
    assert float((together / 800 - 0.25).abs().max()) < 5 * (0.25 * 0.75 / 800) ** 0.5


def test_the_identity_gives_all_to_all():
    plan = deal(DIMS, 3, seed=0, number=0, identity=True)
    assert all(torch.equal(plan.of(i)["h1"], torch.arange(13)) for i in range(3))


def test_too_few_units_are_refused():
    with pytest.raises(InputError, match="h2 has 8 units, which 9 sub-networks cannot share"):
        deal(DIMS, 9, seed=0, number=0)


def test_measured_coverage_is_the_formula():
    for m, rounds in ((2, 4), (4, 6), (8, 10)):
        seen = torch.zeros(64, 64, dtype=torch.bool)
        for number in range(rounds):
            plan = deal({"a": 64, "b": 64}, m, seed=9, number=number)
            for i in range(m):
                seen[plan.of(i)["a"][:, None], plan.of(i)["b"]] = True
        assert float(seen.float().mean()) == pytest.approx(coverage(m, rounds), abs=0.02)


def test_rounds_that_cover():
    for m in (1, 2, 8):
        needed = rounds_for(m, 0.99)
        assert coverage(m, needed) >= 0.99 and (needed == 1 or coverage(m, needed - 1) < 0.99)
