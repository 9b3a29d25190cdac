"""Attention and its parts beside dense matrices, and beside their own numerical derivatives."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from graphs import random_graph
from torch.autograd import gradcheck, gradgradcheck

from graphscale.csr import Csr, from_entries
from graphscale.kernels import entries
from graphscale.kernels.maximum import maximum

H, D = 3, 2


def matrices():
    yield random_graph(12).adj  # symmetric
    yield random_graph(12, directed=True, loops=True).adj
    draw = torch.Generator().manual_seed(0)
    row, col = torch.randint(7, (25,), generator=draw), torch.randint(11, (25,), generator=draw)
    yield from_entries(row, col, (7, 11))[0]  # rectangular, with rows that are empty and places stored twice


MATRICES = list(matrices())
every = pytest.mark.parametrize("adj", MATRICES, ids=["symmetric", "directed", "rectangular"])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=draw).requires_grad_()


def by_hand(adj: Csr):
    """(row, column) of every entry, in a Python list."""
    ends = adj.indptr.tolist()
    return [(r, adj.indices[e].item()) for r in range(adj.num_rows) for e in range(ends[r], ends[r + 1])]


@every
def test_values(adj):
    values, x, a = random(adj.num_entries, H), random(adj.num_cols, H, D, seed=1), random(adj.num_rows, H, D, seed=2)
    pairs = by_hand(adj)
    summed = torch.zeros(adj.num_rows, H, D, dtype=torch.float64)
    rows, columns = torch.zeros(adj.num_rows, H).double(), torch.zeros(adj.num_cols, H).double()
    for e, (r, c) in enumerate(pairs):
        summed[r] += values[e, :, None].detach() * x[c].detach()
        rows[r] += values[e].detach()
        columns[c] += values[e].detach()
    torch.testing.assert_close(entries.weighted_sum(adj, values, x), summed)
    torch.testing.assert_close(entries.row_sum(adj, values), rows)
    torch.testing.assert_close(entries.column_sum(adj, values), columns)
    dots = torch.stack([(a[r] * x[c]).sum(1) for r, c in pairs])
    torch.testing.assert_close(entries.dot(adj, a, x), dots)
    assert torch.equal(entries.of_rows(adj, rows), torch.stack([rows[r] for r, _ in pairs]))
    assert torch.equal(entries.of_columns(adj, columns), torch.stack([columns[c] for _, c in pairs]))


@every
def test_softmax_is_that_of_a_masked_dense_row(adj):
    scores = 5 * random(adj.num_entries, H)
    share = entries.softmax(adj, scores)
    ends = adj.indptr.tolist()
    for lo, hi in pairwise(ends):
        torch.testing.assert_close(share[lo:hi], scores[lo:hi].softmax(0))


def test_softmax_of_large_scores():
    adj = MATRICES[0]
    share = entries.softmax(adj, torch.full((adj.num_entries, 1), 1e4))
    there = (adj.indptr.diff() > 0).float()[:, None]
    torch.testing.assert_close(entries.row_sum(adj, share), there)


@every
def test_maximum(adj):
    x = random(adj.num_cols, D)
    out = maximum(adj, x)
    for r in range(adj.num_rows):
        columns = [c for row, c in by_hand(adj) if row == r]
        expected = x[columns].amax(0) if columns else torch.zeros(D, dtype=torch.float64)
        assert torch.equal(out[r], expected)


def test_between_equal_ones_the_first_gets_the_gradient():
    adj, _ = from_entries(torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2]), (2, 3))
    x = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    maximum(adj, x).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1]


FUNCTIONS = {
    "weighted_sum": lambda adj: (
        lambda v, x: entries.weighted_sum(adj, v.sin(), x),
        (random(adj.num_entries, H), random(adj.num_cols, H, D)),
    ),
    "dot": lambda adj: (lambda a, b: entries.dot(adj, a, b), (random(adj.num_rows, H, D), random(adj.num_cols, H, D))),
    "additive": lambda adj: (
        lambda a, b, att: entries.additive(adj, a, b, att, 0.2),
        (random(adj.num_rows, H, D), random(adj.num_cols, H, D, seed=1), random(H, D, seed=2)),
    ),
    "of_rows": lambda adj: (lambda v: entries.of_rows(adj, v).sin(), (random(adj.num_rows, H),)),
    "of_columns": lambda adj: (lambda v: entries.of_columns(adj, v).sin(), (random(adj.num_cols, H),)),
    "row_sum": lambda adj: (lambda v: entries.row_sum(adj, v).sin(), (random(adj.num_entries, H),)),
    "column_sum": lambda adj: (lambda v: entries.column_sum(adj, v).sin(), (random(adj.num_entries, H),)),
    "softmax": lambda adj: (lambda v: entries.softmax(adj, v), (random(adj.num_entries, H),)),
    "maximum": lambda adj: (lambda x: maximum(adj, x).sin(), (random(adj.num_cols, D),)),
}


@every
@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives(adj, name):
    function, inputs = FUNCTIONS[name](adj)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_additive_scores_with_something_frozen(frozen):
    adj = MATRICES[1]
    inputs = [random(12, H, D), random(12, H, D, seed=1), random(H, D, seed=2)]
    inputs[frozen] = inputs[frozen].detach()
    assert gradcheck(lambda *v: entries.additive(adj, *v, 0.2), inputs)
    assert gradgradcheck(lambda *v: entries.additive(adj, *v, 0.2), inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision(dtype, tolerance):
    adj = random_graph(200).adj
    values, x = torch.rand(adj.num_entries, H), torch.randn(200, H, D)
    out = entries.weighted_sum(adj, entries.softmax(adj, values.to(dtype)), x.to(dtype))
    assert out.dtype == dtype
    expected = entries.weighted_sum(adj, entries.softmax(adj, values.double()), x.double())
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


def test_the_number_of_threads_changes_nothing():
    adj = random_graph(300, seed=3).adj
    values, x = torch.rand(adj.num_entries, H), torch.randn(300, H, D)
    one = entries.weighted_sum(adj, values, x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(entries.weighted_sum(adj, values, x), one)
    finally:
        torch.set_num_threads(before)


def test_nothing_to_sum():
    empty, _ = from_entries(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), (3, 5))
    assert torch.equal(entries.weighted_sum(empty, torch.empty(0, H), torch.ones(5, H, D)), torch.zeros(3, H, D))
    assert entries.softmax(empty, torch.empty(0, H)).shape == (0, H)
    assert torch.equal(maximum(empty, torch.ones(5, D)), torch.zeros(3, D))
