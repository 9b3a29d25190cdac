"""Attention in one function beside the same made of its parts, dropout and all."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from graphs import random_graph
from torch.autograd import gradcheck, gradgradcheck

from graphscale.csr import Csr, from_entries
from graphscale.kernels import entries
from graphscale.kernels.attention import attend
from graphscale.kernels.dropout import dropout
from graphscale.kernels.engine import VARIABLE


def hubs() -> Csr:
    """A star within random entries: rows of 0, 1 and 90 entries, places stored twice."""
    draw = torch.Generator().manual_seed(0)
    row, col = torch.randint(40, (120,), generator=draw), torch.randint(100, (120,), generator=draw)
    return from_entries(torch.cat([row, torch.full((90,), 7)]), torch.cat([col, torch.arange(90)]), (100, 100))[0]


MATRICES = {
    "undirected": random_graph(12).adj,
    "loops": random_graph(12, directed=True, loops=True).adj,
    "hubs": hubs(),
}
every = pytest.mark.parametrize("adj", MATRICES.values(), ids=MATRICES)


def inputs(adj: Csr, heads: int, dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    shapes = [(adj.num_rows, heads, dim), (heads, dim), (heads, dim)]
    return [torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def of_parts(adj, h, sources, targets, slope, p, training=True):
    """PyG's order of things, of functions that are tested by themselves."""
    far, near = (h * sources).sum(-1), (h * targets).sum(-1)
    scores = F.leaky_relu(entries.of_columns(adj, far) + entries.of_rows(adj, near), slope)
    return entries.weighted_sum(adj, dropout(entries.softmax(adj, scores), p, training), h)


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize(("heads", "dim"), [(1, 1), (3, 5), (4, 16)])
def test_equals_its_parts(adj, dtype, tolerance, p, heads, dim):
    found = []
    for function in (attend, of_parts):
        given = inputs(adj, heads, dim, dtype)
        torch.manual_seed(3)  # one draw decides what is dropped, by either way
        out = function(adj, *given, 0.2, p)
        found.append([out, *torch.autograd.grad(out.sin().sum(), given)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_nothing_is_dropped_or_drawn_where_it_does_not_train():
    given = inputs(MATRICES["hubs"], 2, 3, torch.float64)
    torch.manual_seed(0)
    out = attend(MATRICES["hubs"], *given, 0.2, 0.5, training=False)
    torch.testing.assert_close(out, of_parts(MATRICES["hubs"], *given, 0.2, 0.0))
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    attend(MATRICES["hubs"], *given, 0.2, 0.5, training=False)
    assert torch.equal(torch.rand(1), before)


@every
@pytest.mark.parametrize("frozen", [(), (0,), (1, 2)])
def test_derivatives_with_dropout(adj, frozen):
    given = inputs(adj, 2, 3, torch.float64)
    for i in frozen:
        given[i] = given[i].detach()

    def function(*given):
        torch.manual_seed(0)
        return attend(adj, *given, 0.2, 0.3)

    assert gradcheck(function, given, fast_mode=True)
    assert gradgradcheck(function, given, fast_mode=True)


def test_scores_of_any_size():
    """The softmax neither overflows nor loses a row whose other scores are far below."""
    adj = MATRICES["hubs"]
    for size in (1e2, 1e4, 1e18):
        h, sources, targets = inputs(adj, 2, 4, torch.float32)
        given = [size * h.detach(), sources.detach(), targets.detach()]
        exact = of_parts(adj, *(t.double() for t in given), 0.2, 0.0) / size
        torch.testing.assert_close(attend(adj, *given, 0.2) / size, exact.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_what_is_no_number_is_seen(bad, p):
    adj = MATRICES["undirected"]
    h, sources, targets = (t.detach() for t in inputs(adj, 2, 4, torch.float32))
    h[3] = bad
    told = attend(adj, h, sources, targets, 0.2, p)
    assert told[adj.indices[adj.row_of == 3].long()].isnan().any(1).any(1).all()


def test_threads_and_engines_do_not_change_it(monkeypatch):
    adj = random_graph(3000).adj
    given = inputs(adj, 2, 4, torch.float32)
    outs, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        out = attend(adj, *given, 0.2, 0.5)
        outs.append([out, *torch.autograd.grad(out.square().sum(), given)])
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*outs, strict=True))
    monkeypatch.setenv(VARIABLE, "torch")
    torch.manual_seed(0)
    torch.testing.assert_close(attend(adj, *given, 0.2, 0.5), outs[0][0])
