from __future__ import annotations

import pytest
import torch
from graphs import random_graph
from torch.autograd import gradcheck, gradgradcheck

from graphscale.csr import from_entries
from graphscale.kernels.aggregate import aggregate, normalised


def matrices():
    for weighted in (False, True):
        for directed in (False, True):
            yield random_graph(20, weighted=weighted, directed=directed).adj
    generator = torch.Generator().manual_seed(0)
    row, col = torch.randint(7, (30,), generator=generator), torch.randint(11, (30,), generator=generator)
    yield from_entries(row, col, (7, 11), torch.rand(30, generator=generator, dtype=torch.float64))[0]


@pytest.mark.parametrize("adj", list(matrices()))
def test_equals_a_dense_product(adj):
    x = torch.randn(adj.num_cols, 4, dtype=torch.float64)
    dense = adj.dense(torch.float64)
    torch.testing.assert_close(aggregate(adj, x), dense @ x, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(aggregate(adj.t, dense @ x), dense.t() @ dense @ x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("adj", list(matrices()))
def test_first_and_second_derivatives(adj):
    x = torch.randn(adj.num_cols, 2, dtype=torch.float64, requires_grad=True)
    # A function that is not linear in x, so that the second derivative is not zero.
    assert gradcheck(lambda v: aggregate(adj, v.square()).sin(), (x,))
    assert gradgradcheck(lambda v: aggregate(adj, v.square()).sin(), (x,))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision(dtype, tolerance):
    adj = random_graph(200, weighted=True).adj
    x = torch.randn(200, 8)
    out = aggregate(adj, x.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), adj.dense() @ x, rtol=tolerance, atol=tolerance * 10)


def test_no_entries_and_no_columns():
    empty, _ = from_entries(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), (3, 5))
    assert torch.equal(aggregate(empty, torch.ones(5, 2)), torch.zeros(3, 2))
    assert aggregate(random_graph(20).adj, torch.ones(20, 0)).shape == (20, 0)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="19 rows for 20 columns"):
        aggregate(random_graph(20).adj, torch.ones(19, 2))


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("without", ["", "pre", "post", "diag"])
def test_normalised(directed, without):
    adj = random_graph(12, weighted=True, directed=directed).adj
    draw = torch.Generator().manual_seed(0)
    given = {name: torch.rand(12, 1, dtype=torch.float64, generator=draw) for name in ("pre", "post", "diag")}
    given[without] = None
    given.pop("", None)
    one = torch.ones(12, 1, dtype=torch.float64)
    pre, post = (one if given[name] is None else given[name] for name in ("pre", "post"))
    diag = 0 * one if given["diag"] is None else given["diag"]
    x = torch.randn(12, 2, dtype=torch.float64, generator=draw).requires_grad_()
    matrix = post * adj.dense(torch.float64) * pre.t() + torch.diag(diag[:, 0])
    torch.testing.assert_close(normalised(adj, x, **given), matrix @ x)
    assert gradcheck(lambda v: normalised(adj, v.square(), **given), (x,))
    assert gradgradcheck(lambda v: normalised(adj, v.square(), **given).sin(), (x,))
