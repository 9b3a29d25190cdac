"""Bytes of a pass, by hand: indices and results once, a row of what is gathered for every entry."""

from __future__ import annotations

import pytest
import torch

from graphscale.csr import from_entries
from graphscale.kernels import entries, meter
from graphscale.kernels.aggregate import aggregate, gather_sum, normalised
from graphscale.kernels.attention import attend
from graphscale.kernels.maximum import maximum

# Three rows, four columns, five entries; not symmetric.
ROW, COL = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 3, 0, 1, 2])
R, C, E, H, D = 3, 4, 5, 2, 6
INDICES = 4 * (R + 1) + 4 * E  # int32
BACK = 4 * (C + 1) + 4 * E  # of the transpose


def matrix(values=None):
    return from_entries(ROW, COL, (R, C), values)[0]


def draw(*shape, dtype=torch.float32):
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()


def bytes_of(work):
    with meter.metered() as counted:
        work()
    return counted.moved, counted.least


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float64, 8), (torch.bfloat16, 2)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_sum_over_neighbours(dtype, size, weighted):
    adj = matrix(torch.ones(E, dtype=torch.float64) if weighted else None)
    x = draw(C, D, dtype=dtype)
    own = INDICES + R * D * size + weighted * E * 8
    assert bytes_of(lambda: gather_sum(adj, x.detach())) == (own + E * D * size, own + C * D * size)


def test_the_backward_pass_is_a_sum_over_the_transpose():
    adj, x = matrix(), draw(C, D)
    out = aggregate(adj, x)
    own = BACK + C * D * 4
    assert bytes_of(lambda: out.sum().backward()) == (own + E * D * 4, own + R * D * 4)


def test_a_normalised_sum_counts_its_sum():
    adj, x = from_entries(ROW, COL, (C, C))[0], draw(C, D)
    by = {"pre": torch.ones(C, 1), "post": torch.ones(C, 1), "diag": torch.ones(C, 1)}
    assert bytes_of(lambda: normalised(adj, x, **by)) == bytes_of(lambda: gather_sum(adj, x.detach()))


CASES = {  # call, numbers read for every entry, numbers read or written once, numbers of the gathered tensor
    "weighted_sum": (
        lambda adj: entries.weighted_sum(adj, draw(E, H), draw(C, H, D)), H * D, E * H + R * H * D, C * H * D,
    ),
    "dot": (lambda adj: entries.dot(adj, draw(R, H, D), draw(C, H, D)), H * D, R * H * D + E * H, C * H * D),
    "additive": (
        lambda adj: entries.additive(adj, draw(R, H, D), draw(C, H, D), draw(H, D), 0.2),
        H * D, R * H * D + E * H, C * H * D,
    ),
    "of_rows": (lambda adj: entries.of_rows(adj, draw(R, H)), 0, R * H + E * H, 0),
    "of_columns": (lambda adj: entries.of_columns(adj, draw(C, H)), H, E * H, C * H),
    "row_sum": (lambda adj: entries.row_sum(adj, draw(E, H)), 0, E * H + R * H, 0),
    "column_sum": (lambda adj: entries.column_sum(adj, draw(E, H)), 0, E * H + C * H, 0),
    "softmax": (lambda adj: entries.softmax(adj, draw(E, H)), 0, 2 * E * H, 0),
    "maximum": (lambda adj: maximum(adj, draw(C, D)), D, 2 * R * D, C * D),  # the values and their places
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_functions_of_entries(name):
    work, every, once, gathered = CASES[name]
    own = INDICES + 4 * once
    assert bytes_of(lambda: work(matrix())) == (own + 4 * E * every, own + 4 * gathered)


@pytest.mark.parametrize("name", CASES)
def test_their_backward_passes_are_counted_too(name):
    out = CASES[name][0](matrix())
    moved, least = bytes_of(lambda: out.square().sum().backward())
    assert moved > 0 and least > 0


def test_attention_is_counted_as_the_passes_that_it_makes():
    adj = from_entries(ROW, COL, (C, C))[0]
    indices = 4 * (C + 1 + E)
    out = []
    found = bytes_of(lambda: out.append(attend(adj, draw(C, H, D), draw(H, D), draw(H, D), 0.2)))
    own = indices + 4 * (E * H + C * H * D + C * H * D)  # shares, results, h once more for its products
    assert found == (own + 4 * E * (H + H * D), own + 4 * (C * H + C * H * D))
    rows = indices + 4 * (E * H + C * H + C * H + E * H + C * H * D)
    columns = indices + 4 * (C * H + C * H * D + 2 * E + C * H)  # places of entries are int64
    moved, least = bytes_of(lambda: out[0].sum().backward())
    assert moved == rows + columns + 4 * E * (H + H * D) + 4 * E * (2 * H + H * D)
    assert least == rows + columns + 4 * (C * H + C * H * D) + 4 * (2 * E * H + C * H * D)


def test_the_backward_pass_of_a_maximum():
    # The transpose is passed over: for every entry a row of gradients and a row of chosen places.
    out = maximum(matrix(), draw(C, D))
    own = BACK + 4 * C * D
    assert bytes_of(lambda: out.sum().backward()) == (own + 2 * 4 * E * D, own + 2 * 4 * R * D)


def test_arguments_may_be_named():
    adj, x = matrix(), draw(C, D).detach()
    assert bytes_of(lambda: gather_sum(x=x, adj=adj)) == bytes_of(lambda: gather_sum(adj, x))


def test_what_is_outside_the_block_is_not_counted():
    adj, x = matrix(), draw(C, D).detach()
    with meter.metered() as counted:
        pass
    with meter.metered() as outer:
        gather_sum(adj, x)
        with meter.metered() as inner:
            pass
        gather_sum(adj, x)
    gather_sum(adj, x)
    assert (counted.moved, inner.moved) == (0, 0)
    assert outer.moved == 2 * bytes_of(lambda: gather_sum(adj, x))[0]


def test_counting_changes_no_number():
    adj, x = matrix(), draw(C, D).detach()
    plain = gather_sum(adj, x)
    with meter.metered():
        assert torch.equal(gather_sum(adj, x), plain)
