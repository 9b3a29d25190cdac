"""PRES's correction and penalty: values and gradients are those of the formulas, written out for autograd."""

from __future__ import annotations

import pytest
import torch

from graphscale.kernels.corrections import corrected, incoherence


def rows(count=7, dim=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(count, dim, generator=draw, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_the_correction_and_its_gradients(kind):
    before, measured = (x.to(kind) for x in rows())
    ahead, known = rows(9)[0].to(kind), torch.arange(9) % 3 > 0
    nodes = torch.tensor([0, 1, 3, 4, 6, 7, 8])
    gamma = torch.tensor(0.3, dtype=kind, requires_grad=True)
    measured.requires_grad_()
    predicted = before + ahead[nodes]
    formula = torch.where(known[nodes][:, None], gamma * measured + (1 - gamma) * predicted, measured)
    out, off = corrected(before, ahead, known, nodes, measured, gamma)
    near = {} if kind != torch.bfloat16 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(out, formula, **near)
    weights = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).to(kind)
    cosine = torch.nn.functional.cosine_similarity(
        *(x.float() if kind == torch.bfloat16 else x for x in (before, formula))
    )
    torch.testing.assert_close(off, (1 - cosine).mean(), **near)
    for task, penalty in ((1.0, 0.0), (0.0, 2.0), (1.0, 2.0)):  # either reaches both, alone and with the other
        for a, b in zip(
            torch.autograd.grad((task * out * weights).sum() + penalty * off, [measured, gamma], retain_graph=True),
            torch.autograd.grad(
                (task * formula * weights).sum() + penalty * (1 - cosine).mean(), [measured, gamma], retain_graph=True
            ),
            strict=True,
        ):
            torch.testing.assert_close(a, b, **near)


@pytest.mark.parametrize("size", [1e-15, 1e-6, 1e6, 1e12])
def test_the_penalty_does_not_depend_on_the_length_of_memories(size):
    before, after = (x.float() for x in rows(seed=4))
    scaled = (size * after).requires_grad_()
    found = incoherence(size * before, scaled)
    if size > 1e-8:  # the length of what comes out is bounded from below
        torch.testing.assert_close(found, incoherence(before, after), rtol=1e-4, atol=1e-6)
    assert found.isfinite() and torch.autograd.grad(found, scaled)[0].isfinite().all()


def test_the_penalty_alone_needs_no_gradient_of_the_rest():
    before, measured = rows()
    measured.requires_grad_()
    gamma, known = torch.tensor(0.3).double(), torch.ones(7, dtype=torch.bool)
    found = [corrected(before, before, known, torch.arange(7), measured, gamma)[1] for _ in range(2)]
    formula = 1 - torch.nn.functional.cosine_similarity(before, 0.3 * measured + 0.7 * 2 * before).mean()
    got, want = (torch.autograd.grad(x, measured)[0] for x in (found[0], formula))
    torch.testing.assert_close(got, want)


def test_the_penalty_and_its_gradient():
    before, after = rows(seed=2)
    before[2] = 0  # no memory: no direction
    after.requires_grad_()
    cosine = torch.nn.functional.cosine_similarity(before, after)
    expected = (1 - cosine)[[0, 1, 3, 4, 5, 6]].mean()
    found = incoherence(before, after)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(3 * x, after)[0] for x in (found, expected)))
    nothing = incoherence(torch.zeros(3, 5), torch.ones(3, 5, requires_grad=True))
    nothing.backward()
    assert float(nothing.detach()) == 0.0
