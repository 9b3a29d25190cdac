"""Products of sparse features, against dense ones."""

from __future__ import annotations

import pytest
import torch

from graphscale.csr import Csr, from_entries
from graphscale.kernels.sparse_linear import sparse_linear

N, F = 30, 50


def features(dtype: torch.dtype, *, values: bool = True) -> Csr:
    torch.manual_seed(0)
    mask = torch.rand(N, F) < 0.1
    mask[4] = False  # a node without features
    mask[:, 7] = False  # a feature of no node
    row, col = mask.nonzero().t()
    return from_entries(row, col, (N, F), torch.randn(row.numel(), dtype=dtype) if values else None)[0]


@pytest.mark.parametrize("height", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("turned", [False, True])
def test_products_and_gradients_are_those_of_the_dense_matrix(height, dtype, values, turned):
    x = features(dtype, values=values)
    weight = (
        torch.randn(F, height, dtype=dtype).t() if turned else torch.randn(height, F, dtype=dtype)
    ).requires_grad_()
    grad = torch.randn(N, height, dtype=dtype)
    out = sparse_linear(x, weight)
    (found,) = torch.autograd.grad(out, weight, grad)
    dense = x.dense(dtype)
    near = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(out, dense @ weight.t(), **near)
    torch.testing.assert_close(found, grad.t() @ dense, **near)


def test_derivatives_of_any_order():
    x, weight = features(torch.float64), torch.randn(5, F, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda w: sparse_linear(x, w), weight)
    torch.autograd.gradgradcheck(lambda w: sparse_linear(x, w).pow(3), weight)


def test_nothing_to_sum():
    none = from_entries(torch.empty(0).long(), torch.empty(0).long(), (3, F))[0]
    weight = torch.randn(4, F, requires_grad=True)
    out = sparse_linear(none, weight)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(3, 4)) and torch.equal(weight.grad, torch.zeros(4, F))
    assert sparse_linear(features(torch.float32), torch.randn(0, F)).shape == (N, 0)


def test_a_weight_of_other_features_is_refused():
    with pytest.raises(ValueError, match="columns"):
        sparse_linear(features(torch.float32), torch.randn(4, F + 1))
