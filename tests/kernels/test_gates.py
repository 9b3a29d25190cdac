"""A GRU's gates in one pass: torch's cell, its gradients, and bfloat16 in float32."""

from __future__ import annotations

import pytest
import torch

from graphscale.kernels.gates import gated


def parts(rows, dim, dtype, scale=1.0):
    draw = torch.Generator().manual_seed(0)
    told, mine = (scale * torch.randn(rows, n * dim, dtype=dtype, generator=draw) for n in (3, 4))
    return told, mine, torch.randn(rows, dim, dtype=dtype, generator=draw)


def by_formula(told, mine, state):
    d = state.shape[1]
    reset, update = (told[:, : 2 * d] + mine[:, : 2 * d]).sigmoid().split(d, dim=1)
    fresh = torch.tanh(told[:, 2 * d :] + mine[:, 2 * d : 3 * d] + reset * mine[:, 3 * d :])
    return (1 - update) * fresh + update * state


@pytest.mark.parametrize("rows", [0, 1, 70])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_gates_are_those_of_the_formula(rows, dtype, off):
    told, mine, state = parts(rows, 9, dtype, scale=4.0)
    grad = torch.randn_like(state)
    given = [x.requires_grad_() for x in (told, mine)]
    got, want = gated(*given, state), by_formula(*given, state)
    torch.testing.assert_close(got, want, atol=off, rtol=0)
    for mine_is, theirs in zip(torch.autograd.grad(got, given, grad), torch.autograd.grad(want, given, grad),
                               strict=True):  # fmt: skip
        torch.testing.assert_close(mine_is, theirs, atol=off, rtol=0)


def test_they_saturate_as_the_formula_does():
    told, mine, state = parts(3, 5, torch.float32, scale=1e4)
    torch.testing.assert_close(gated(told, mine, state), by_formula(told, mine, state), atol=1e-6, rtol=0)


def test_a_cell_of_torch_is_these_gates():
    cell, d = torch.nn.GRUCell(6, 4).double(), 4
    message, state = torch.randn(8, 6, dtype=torch.float64), torch.randn(8, d, dtype=torch.float64)
    told = torch.nn.functional.linear(message, cell.weight_ih, cell.bias_ih)
    by_state = torch.nn.functional.linear(state, cell.weight_hh, cell.bias_hh)
    mine = torch.cat([by_state[:, : 2 * d], torch.zeros(8, d).double(), by_state[:, 2 * d :]], dim=1)
    torch.testing.assert_close(gated(told, mine, state), cell(message, state))


def test_shorter_floats_are_summed_in_float32():
    told, mine, state = parts(20, 8, torch.float32)
    short = [x.bfloat16() for x in (told, mine)]
    out = gated(*(x.requires_grad_() for x in short), state)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, by_formula(*(x.float() for x in short), state), atol=1e-6, rtol=0)
    out.sum().backward()
    assert short[0].grad is not None and short[0].grad.dtype == torch.bfloat16


def test_what_is_not_a_number_stays_none():
    told, mine, state = parts(4, 3, torch.float32)
    told[2, 1] = float("nan")
    assert gated(told, mine, state).isnan().any(1).tolist() == [False, False, True, False]
