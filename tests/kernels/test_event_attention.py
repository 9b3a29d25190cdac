"""Attention over sampled events beside its parts and beside every event projected; encoded times beside libm's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from graphscale.csr import Csr
from graphscale.kernels.event_attention import attend_events, of_parts
from graphscale.kernels.waves import waves
from graphscale.nn.memories import Mails, Messages, Time


def sampled(features: int, dtype: torch.dtype, heads: int = 2, width: int = 5, times: int = 7):
    """40 queries, of which some have no event, 50 nodes; one query has all ten."""
    draw = torch.Generator().manual_seed(0)
    count = torch.randint(0, 5, (40,), generator=draw)
    count[3], count[7] = 10, 0
    indptr = torch.nn.functional.pad(count.cumsum(0), (1, 0)).int()
    events = int(indptr[-1])
    block = Csr(indptr, torch.randint(50, (events,), generator=draw).int(), None, 50)
    rows = Csr(indptr, torch.arange(events).int(), None, events)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    age = (3 * torch.rand(events, generator=draw)).to(dtype)
    feat = normal(events, features) if features else None
    shapes = [(times,), (times,), (40, heads, width), (50, heads, width), (50, heads, width)]
    learned = [normal(*shape).requires_grad_() for shape in (*shapes, (heads, 40, times + features))]
    return block, rows, age, feat, learned


@pytest.mark.parametrize("features", [0, 3])
@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-5)])
def test_equals_its_parts(features, p, dtype, tolerance):
    found = []
    for function in (attend_events, of_parts):
        *fixed, learned = sampled(features, dtype)
        torch.manual_seed(3)  # one draw decides what is dropped, by either way
        out, sums = function(*fixed, *learned, p)
        loss = out.sin().sum() + sums.cos().sum()
        found.append([out, sums, *torch.autograd.grad(loss, learned)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_derivative_is_that_of_differences():
    *fixed, learned = sampled(2, torch.float64, width=2, times=3)
    assert gradcheck(lambda *x: attend_events(*fixed, *x), learned)


def test_constant_frequencies_leave_the_other_gradients_as_they_are():
    *fixed, learned = sampled(3, torch.float64)
    found = []
    for wanted in (learned, learned[2:]):
        given = [x if any(x is y for y in wanted) else x.detach() for x in learned]
        out, sums = attend_events(*fixed, *given)
        found.append(torch.autograd.grad(out.sin().sum() + sums.cos().sum(), wanted))
    assert all(torch.equal(one, other) for one, other in zip(found[0][2:], found[1], strict=True))


def test_equals_events_projected_one_by_one():
    """Against the text of TGN: keys and values of [h_u || e] by one matrix each, a softmax over a query's events."""
    block, rows, age, feat, (w, b, query, key, value, _) = sampled(3, torch.float64)
    heads, width = query.shape[1:]
    to_key, to_value = (torch.randn(heads, width, 10, dtype=torch.float64) for _ in range(2))
    by_event = torch.einsum("mhw,hwd->hmd", query, to_key)
    seen, sums = attend_events(block, rows, age, feat, w, b, query, key, value, by_event)
    ours = seen + torch.einsum("hmd,hwd->mhw", sums, to_value)
    for r in range(block.num_rows):
        lo, hi = block.indptr[r : r + 2].tolist()
        told = torch.cat([torch.cos(age[lo:hi, None] * w + b), feat[lo:hi]], dim=1)
        at = block.indices[lo:hi].long()
        keys, values = (x[at] + torch.einsum("ed,hwd->ehw", told, to) for x, to in ((key, to_key), (value, to_value)))
        share = torch.softmax(torch.einsum("hw,ehw->eh", query[r], keys), dim=0)
        torch.testing.assert_close(ours[r], torch.einsum("eh,ehw->hw", share, values))


def test_times_are_encoded_to_the_precision_of_their_parameters():
    w, b = torch.logspace(0, -9, 100), torch.randn(100, generator=torch.Generator().manual_seed(0))
    dt = torch.tensor([0.0, 0.5, 3.0, 86_400.0, 2.6e6, 3.1e8, -7.0])
    exact = [[math.cos(float(w[d]) * float(t) + float(b[d])) for d in range(100)] for t in dt]
    torch.testing.assert_close(waves(dt, w, b), torch.tensor(exact), rtol=0, atol=1e-7)
    assert waves(torch.empty(0, 2), w, b).shape == (0, 2, 100)


def test_encoding_can_be_differentiated_twice():
    w, b = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    dt = torch.linspace(-1, 4, 130, dtype=torch.float64)  # of three chunks
    assert gradcheck(lambda w, b: waves(dt, w, b), (w, b))
    assert gradgradcheck(lambda w, b: waves(dt[:4], w, b), (w, b))


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("pending", [1, 3])
def test_parted_products_are_those_of_the_cell(cell, pending):
    """Messages taken in as torch's own cell takes them in, whole; with several pending, their mean."""
    torch.manual_seed(0)
    net = Messages(6, 2, Time(4), cell).double()
    state, of = torch.randn(9, 6).double(), torch.tensor([0, 2, 5]).repeat_interleave(pending)
    parts = {
        "state": state, "of": of, "other": torch.randn(len(of), 6).double(), "feat": torch.randn(len(of), 2).double(),
        "elapsed": torch.rand(len(of)).double(),
    }  # fmt: skip
    message = torch.cat([state[of], parts["other"], parts["feat"], net.time(parts["elapsed"])], dim=1)
    whole = message.view(3, pending, -1).mean(1)
    nodes, found = net(parts, torch.tensor(0))
    assert nodes.tolist() == [0, 2, 5]
    torch.testing.assert_close(found, net.cell(whole, state[nodes]))


def test_mails_are_weighed_as_if_every_mail_were_projected():
    """Against APAN's text: keys and values of [mail || phi], a softmax of leaky products over a node's mails."""
    torch.manual_seed(0)
    net = Mails(6, 0, Time(4), 2, 0.0).double()
    there = torch.rand(9, 3) < 0.6
    parts = {"state": torch.randn(9, 6), "mail": torch.randn(9, 3, 12), "there": there}
    parts |= {"moment": torch.randint(50, (9, 3))}
    parts = {name: value if value.dtype == torch.bool else value.double() for name, value in parts.items()}
    nodes, found = net(parts, torch.tensor(60.0))
    assert torch.equal(nodes, there.any(1).nonzero()[:, 0]) and 0 < len(nodes) < 9
    for node, row in zip(nodes.tolist(), found, strict=True):
        mail = torch.cat([parts["mail"][node], net.time(60 - parts["moment"][node])], dim=1)[there[node]]
        key, value = (f(mail).view(-1, 2, 3) for f in (net.key, net.value))
        query = net.query(parts["state"][node]).view(2, 3)
        score = torch.nn.functional.leaky_relu((query * key).sum(2) / 3**0.5, 0.2)
        seen = (score.softmax(0)[..., None] * value).sum(0).reshape(6)
        torch.testing.assert_close(row, net.out(net.norm(seen + parts["state"][node])))
    nobody = {**parts, "there": torch.zeros_like(there)}
    assert net(nobody, torch.tensor(60.0))[1].shape == (0, 6)
