"""A memory carries what its gate keeps, in bfloat16 too."""

from __future__ import annotations

import pytest
import torch

from graphscale.nn.memories import Messages, Time


@pytest.mark.parametrize("rows", [3, 64, 100])
def test_what_a_gate_keeps_is_not_rounded(rows):
    torch.manual_seed(0)
    messages = Messages(8, 0, Time(4), "gru")
    with torch.no_grad():
        messages.cell.bias_ih[8:16] = 100.0  # the update gate keeps everything
    state, other = torch.randn(rows, 8), torch.randn(rows, 8)
    with torch.autocast("cpu", torch.bfloat16):
        kept = messages.take_in(state, other, messages.time(torch.rand(rows)))
    torch.testing.assert_close(kept, state, atol=1e-6, rtol=0)  # bfloat16 would be off by a hundredth


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("rows", [1, 64, 100])
def test_short_floats_give_what_long_ones_give(cell, rows):
    torch.manual_seed(0)
    messages = Messages(8, 0, Time(4), cell)
    state, other, phi = torch.randn(rows, 8), torch.randn(rows, 8), torch.rand(rows, 4)
    with torch.autocast("cpu", torch.bfloat16):
        short = messages.take_in(state, other, phi)
    long = messages.take_in(state, other, phi)
    assert short.shape == long.shape == (rows, 8)
    torch.testing.assert_close(short.float(), long, atol=0.03, rtol=0.03)
