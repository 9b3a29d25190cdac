"""Whose dropout is drawn by the house, and whose is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphscale.kernels.dropout import dropout
from graphscale.nn.fast_calls import FastCalls


def drawn(work, seed=0):
    torch.manual_seed(seed)
    return work()


@pytest.mark.parametrize("module", [nn.Dropout(0.3), lambda x: F.dropout(x, 0.3), lambda x: F.dropout(x, p=0.3)])
def test_every_way_to_call_it(module):
    x = torch.ones(1000)
    with FastCalls():
        inside = drawn(lambda: module(x))
    assert torch.equal(inside, drawn(lambda: dropout(x, 0.3)))
    assert torch.equal(drawn(lambda: module(x)), drawn(lambda: F.dropout(x, 0.3)))  # outside it is torch's again


def test_what_is_left_to_torch():
    x = torch.ones(50)
    with FastCalls():
        assert F.dropout(x, 0.5, training=False) is x
        assert torch.equal(F.dropout(x, 1.0), torch.zeros(50))
        whole = torch.ones(1000)
        F.dropout(whole, 0.5, inplace=True)
        assert set(whole.tolist()) == {0.0, 2.0}
        with pytest.raises(ValueError, match="probability"):
            F.dropout(x, 1.5)
        assert torch.equal(torch.add(x, x), 2 * x)


def test_in_evaluation_nothing_is_dropped():
    layer = nn.Dropout(0.5).eval()
    with FastCalls():
        assert torch.equal(layer(torch.ones(9)), torch.ones(9))


def test_under_autocast_and_nested():
    x = torch.ones(400, 10)
    with torch.autocast("cpu", torch.bfloat16), FastCalls(), FastCalls():
        out = drawn(lambda: F.dropout(x @ torch.eye(10), 0.5))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out.float(), drawn(lambda: dropout(x.bfloat16(), 0.5)).float())
