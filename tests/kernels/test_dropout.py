from __future__ import annotations

import pytest
import torch

from graphscale.kernels.dropout import dropout

HALF = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_numbers_are_zeroed_with_probability_p_and_the_others_scaled(dtype, p):
    torch.manual_seed(0)
    x = torch.full((200, 1000), 3.0, dtype=dtype)
    out = dropout(x, p)
    assert out.dtype == dtype and out.shape == x.shape
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 3 / (1 - p)))
    assert float((out == 0).double().mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / out.numel()) ** 0.5)


def test_places_and_draws_are_independent():
    torch.manual_seed(0)
    zeros = torch.stack([dropout(torch.ones(100_000), 0.3) == 0 for _ in range(20)]).double()
    bound = 5 / 100_000**0.5
    between = torch.corrcoef(zeros) - torch.eye(20)  # of one draw with another
    assert float(between.abs().max()) < bound
    for lag in (1, 2, 3, 7, 8, 16, 100, 400, 1 << 14):  # of a place with another, such as the same column's next row
        shifted = torch.corrcoef(torch.stack([zeros[:, lag:].flatten(), zeros[:, :-lag].flatten()]))[0, 1]
        assert abs(float(shifted)) < bound
    counts = zeros.view(-1, 1000).sum(1)  # sums over rows spread as a binomial's
    assert float(counts.var()) == pytest.approx(1000 * 0.3 * 0.7, rel=0.12)


def test_the_generator_decides_and_threads_do_not():
    x = torch.randn(300, 700)
    outs = []
    before = torch.get_num_threads()
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        outs.append(dropout(x, 0.4))
    torch.set_num_threads(before)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    assert not torch.equal(dropout(x, 0.4), outs[0])


def test_the_gradient_goes_where_the_number_stayed():
    torch.manual_seed(0)
    x = torch.randn(50, 30, requires_grad=True)
    out = dropout(x, 0.25)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, torch.where(out == 0, 0.0, 1 / 0.75))


def test_derivatives_of_any_order():
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def same(x):
        torch.manual_seed(0)
        return dropout(x, 0.5).square()

    torch.autograd.gradcheck(same, x)
    torch.autograd.gradgradcheck(same, x)


def test_what_needs_no_drawing():
    x = torch.randn(3, 4)
    assert dropout(x, 0.5, training=False) is x and dropout(x, 0.0) is x
    assert dropout(torch.empty(0, 4), 0.5).shape == (0, 4)
    assert torch.equal(dropout(x, 1.0), torch.zeros_like(x))
    turned = torch.randn(30, 20).t()
    out = dropout(turned, 0.5)
    assert torch.equal(out[out != 0], 2 * turned[out != 0])
