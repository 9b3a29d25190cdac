from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from graphscale.kernels.pairs import pair_products


def by_torch(x):
    low, high = torch.tril_indices(x.shape[1], x.shape[1], -1)
    return (x[:, low] * x[:, high]).sum(-1)


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 2, 1), (4, 1, 3), (0, 4, 2)])
def test_products_and_derivatives_are_those_of_torch(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(pair_products(x), by_torch(x))
    found, expected = (
        torch.autograd.grad(f(x).square().sum(), x, create_graph=True)[0] for f in (pair_products, by_torch)
    )
    torch.testing.assert_close(found, expected)
    if x.numel():
        second = [torch.autograd.grad(g.pow(3).sum(), x)[0] for g in (found, expected)]
        torch.testing.assert_close(*second)
        assert gradcheck(pair_products, x) and gradgradcheck(pair_products, x)


def test_strided_and_float32():
    x = torch.randn(6, 4, 9).transpose(1, 2)
    torch.testing.assert_close(pair_products(x), by_torch(x))
