"""Attention over mails in one pass: torch's operations, their gradients, and dropout of shares."""

from __future__ import annotations

import pytest
import torch

from graphscale.kernels.mail_attention import attend_mails, of_parts


def given(kind=torch.float64, rows=40, slots=4, width=6, times=5, heads=2, *, learned=True):
    draw = torch.Generator().manual_seed(0)
    there = torch.rand(rows, slots, generator=draw) < 0.6
    there[3], there[5] = False, True
    nodes = there.any(1).nonzero()[:, 0]
    age = torch.where(there, 100 * torch.rand(rows, slots, generator=draw), 0)
    mail = torch.randn(rows, slots, width, generator=draw).to(kind)
    w, b = torch.logspace(0, -3, times, dtype=kind), torch.randn(times, generator=draw).to(kind)
    asked = torch.randn(heads, len(nodes), width + times, generator=draw).to(kind)
    bias = torch.randn(len(nodes), heads, generator=draw).to(kind)
    taught = [x.requires_grad_() for x in ((asked, bias, w, b) if learned else (asked, bias))]
    return (nodes, there, age, mail, w, b, asked, bias), taught


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(("kind", "off"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_it_is_what_torchs_operations_give(kind, off, learned):
    parts, taught = given(kind, learned=learned)
    found, want = attend_mails(*parts), of_parts(*parts)
    draw = torch.Generator().manual_seed(1)
    grads = [torch.randn(x.shape, generator=draw).to(kind) for x in want]
    for got, expected in zip(found, want, strict=True):
        torch.testing.assert_close(got, expected, atol=off, rtol=off)
    torch.testing.assert_close(found[1], torch.ones_like(found[1]), atol=1e-5, rtol=0)
    of_found, of_want = (torch.autograd.grad(x, taught, grads) for x in (found, want))
    for got, expected in zip(of_found, of_want, strict=True):
        torch.testing.assert_close(got, expected, atol=100 * off, rtol=off)


def test_gradients_with_dropout_are_those_of_what_was_kept():
    parts, taught = given(rows=9)

    def drawn_the_same(*learned):
        torch.manual_seed(3)
        asked, bias, w, b = learned
        return attend_mails(*parts[:4], w, b, asked, bias, 0.4, True)

    assert torch.autograd.gradcheck(drawn_the_same, taught, atol=1e-5)
    assert not torch.equal(drawn_the_same(*taught)[1], attend_mails(*parts)[1])


def test_dropout_keeps_what_is_expected():
    parts, _ = given(rows=4000)
    torch.manual_seed(0)
    total = attend_mails(*parts, 0.3, True)[1].detach()
    assert abs(float(total.mean()) - 1) < 0.03
    assert torch.equal(attend_mails(*parts, 0.3, False)[1], attend_mails(*parts)[1])


def test_threads_make_no_difference():
    parts, taught = given(torch.float32, rows=3000)
    results = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        out = attend_mails(*parts, 0.2, True)
        results.append([*out, *torch.autograd.grad(sum(x.square().sum() for x in out), taught)])
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_what_is_not_a_number_stays_none():
    parts, _ = given()
    asked = parts[6].detach().clone()
    asked[1, 7] = torch.nan
    sums, _ = attend_mails(*parts[:6], asked, parts[7])
    assert sums[1, 7].isnan().all() and not sums[0].isnan().any()


def test_nobody_asks():
    parts, _ = given()
    none = torch.empty(0, dtype=torch.int64)
    sums, total = attend_mails(none, *parts[1:6], parts[6][:, :0], parts[7][:0])
    assert sums.shape == (2, 0, 11) and total.shape == (0, 2)
