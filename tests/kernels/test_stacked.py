"""Maps of many tasks against a loop, with first and second derivatives."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from graphscale.kernels.stacked import lifted_linear, stacked_linear

UNEVEN, EVEN = (0, 2, 5, 6), (0, 2, 4, 6)


def drawn(*shapes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(*s, generator=draw, dtype=torch.float64, requires_grad=True) for s in shapes]


def looped(x, w, b, ptr):
    pick = lambda v, t, dim: v if v.dim() == dim else v[t]  # noqa: E731
    return torch.cat([x[i:j] @ pick(w, t, 2) + pick(b, t, 1) for t, (i, j) in enumerate(pairwise(ptr))])


@pytest.mark.parametrize("ptr", [UNEVEN, EVEN])
@pytest.mark.parametrize(("own_w", "own_b"), [(True, True), (True, False), (False, True), (False, False)])
def test_stacked_linear(ptr, own_w, own_b):
    x, w, b = drawn((6, 4), (3, 4, 2) if own_w else (4, 2), (3, 2) if own_b else (2,))
    torch.testing.assert_close(stacked_linear(x, w, b, ptr), looped(x, w, b, ptr))
    assert torch.autograd.gradcheck(lambda *a: stacked_linear(*a, ptr), (x, w, b))
    assert torch.autograd.gradgradcheck(lambda *a: stacked_linear(*a, ptr), (x, w, b))


@pytest.mark.parametrize("own_b", [True, False])
def test_lifted_linear(own_b):
    rows, own = (0, 3, 4, 8), UNEVEN
    base, c, b = drawn((8, 2), (6, 2), (3, 2) if own_b else (2,))
    blocks = [k.detach() for k in drawn((3, 2), (1, 3), (4, 1), seed=1)]
    want = base + torch.block_diag(*blocks) @ c
    want = want + (b.repeat_interleave(torch.tensor([3, 1, 4]), 0) if own_b else b)
    torch.testing.assert_close(lifted_linear(base, blocks, c, b, rows, own), want)
    assert torch.autograd.gradcheck(lambda *a: lifted_linear(a[0], blocks, a[1], a[2], rows, own), (base, c, b))
    assert torch.autograd.gradgradcheck(lambda *a: lifted_linear(a[0], blocks, a[1], a[2], rows, own), (base, c, b))
    torch.testing.assert_close(lifted_linear(base, blocks, None, b, rows, own), want - torch.block_diag(*blocks) @ c)


def test_rows_that_are_not_the_tasks_are_refused():
    x, w, b = drawn((5, 4), (3, 4, 2), (3, 2))
    with pytest.raises(ValueError, match="5 rows, and the tasks 6"):
        stacked_linear(x, w, b, UNEVEN)
