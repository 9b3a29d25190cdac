"""Rows in round numbers: zeros behind, in the type of products under autocast, and nothing anywhere else."""

from __future__ import annotations

import pytest
import torch

from graphscale.kernels.even import even, even_number


def test_elsewhere_a_tensor_stays_what_it_is():
    x = torch.randn(70, 3)
    assert even(x) is x


@pytest.mark.parametrize(("rows", "want"), [(0, 0), (1, 64), (64, 64), (65, 128), (1000, 1024)])
def test_under_autocast_there_are_zeros_behind(rows, want):
    x = torch.randn(rows, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = even(x)
    assert out.shape == (want, 3) and out.dtype == torch.bfloat16
    assert torch.equal(out[:rows], x.bfloat16()) and not out[rows:].any()
    out.float().sum().backward()
    assert torch.equal(x.grad, torch.ones(rows, 3))


def test_rows_are_of_any_dimension():
    with torch.autocast("cpu", torch.bfloat16):
        assert even(torch.ones(2, 70, 5), 1).shape == (2, 128, 5)


@pytest.mark.parametrize("rows", [1, 64, 100, 128])
def test_the_first_rows_of_an_even_tensor_are_even(rows):
    assert even_number(rows, 128) == -(-rows // 64) * 64
    assert even_number(rows, 130) == rows  # of one that is not
