"""Every engine beside dense matrices in float64: types, widths, heads, rows that are empty, long, or said twice."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from graphscale.csr import Csr, from_entries
from graphscale.kernels.engine import VARIABLE, Engine, engine_of

R, C = 4, 6
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
TYPES = [(torch.float64, torch.int32), (torch.float32, torch.int32), (torch.float32, torch.int64)]
TYPES += [(torch.bfloat16, torch.int32), (torch.float16, torch.int64)]

every_type = pytest.mark.parametrize(("dtype", "index"), TYPES, ids=lambda t: str(t).removeprefix("torch."))
every_width = pytest.mark.parametrize("width", [1, 3, 16, 130])
every_heads = pytest.mark.parametrize(("heads", "dim"), [(1, 1), (1, 130), (3, 5), (9, 16), (130, 1)])


def matrix(index: torch.dtype = torch.int32, device: torch.device | None = None, *, weighted: bool = True) -> Csr:
    """Row 0 is empty, row 1 longer than any tile, places are stored twice, column 5 is nobody's."""
    draw = torch.Generator().manual_seed(0)
    row = torch.cat([torch.full((70,), 1), torch.tensor([2, 2, 2, 3])])
    col = torch.cat([torch.randint(5, (70,), generator=draw), torch.tensor([4, 0, 4, 2])])
    weight = torch.rand(74, generator=draw, dtype=torch.float64) if weighted else None
    adj, _ = from_entries(row, col, (R, C), weight)
    return Csr(adj.indptr.to(index), adj.indices.to(index), adj.values, C).to(device or torch.device("cpu"))


def ends(adj: Csr) -> tuple[list[int], list[int]]:
    """Row and column of every entry."""
    bounds = adj.indptr.tolist()
    return [r for r in range(R) for _ in range(bounds[r], bounds[r + 1])], adj.indices.tolist()


class Case:
    """An engine, a matrix, and tensors of one type beside their float64 selves."""

    def __init__(self, dtype: torch.dtype, index: torch.dtype, device: torch.device, *, weighted: bool = True) -> None:
        self.dtype, self.device = dtype, device
        self.adj = matrix(index, device, weighted=weighted)
        self.rows, self.cols = ends(self.adj)
        self.draw = torch.Generator().manual_seed(1)

    @property
    def engine(self) -> Engine:
        return engine_of(torch.empty(0, device=self.device))

    def tensor(self, *shape: int) -> tuple[Tensor, Tensor]:
        """What the engine gets, and the same numbers in float64."""
        given = torch.randn(*shape, generator=self.draw).to(self.dtype)
        return given.to(self.device), given.double()

    def agree(self, found: Tensor, expected: Tensor) -> None:
        assert found.dtype == self.dtype and found.device.type == self.device.type
        limit = TOLERANCE[self.dtype]
        torch.testing.assert_close(found.cpu().double(), expected, rtol=limit, atol=limit * 4)


def dense(rows: Any, cols: Any, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """[R, C] of one number an entry, or [R, C, H] of H: by hand."""
    out = torch.zeros(*shape, *values.shape[1:], dtype=torch.float64)
    for e, (r, c) in enumerate(zip(rows, cols, strict=True)):
        out[r, c] += values[e]
    return out


@every_type
@every_width
@pytest.mark.parametrize("weighted", [False, True])
def test_gather_sum(dtype, index, width, weighted, device):
    case = Case(dtype, index, device, weighted=weighted)
    x, exact = case.tensor(C, width)
    values = case.adj.values.cpu().double() if weighted else torch.ones(74)
    if weighted and dtype.itemsize < 4:  # engines may round the weights as they round x
        case.adj = case.adj.with_values(case.adj.values.to(dtype))
        values = case.adj.values.cpu().double()
    case.agree(case.engine.gather_sum(case.adj, x), dense(case.rows, case.cols, values, (R, C)) @ exact)


@every_type
@pytest.mark.parametrize("width", [3, 130])
def test_gather_sum_with_scales(dtype, index, width, device):
    case = Case(dtype, index, device, weighted=False)
    square = Csr(torch.nn.functional.pad(case.adj.indptr, (0, 2), value=74), case.adj.indices, None, C)  # two more rows
    (x, exact), (pre, a), (post, b), (diag, d) = (case.tensor(C, n) for n in (width, 1, 1, 1))
    product = dense(case.rows, case.cols, torch.ones(74), (C, C)) @ (a * exact)
    limit = 4 * TOLERANCE[dtype]  # x * pre may be rounded before the sum
    for given, expected in (
        ((pre, post, diag), b * product + d * exact),
        ((pre, None, None), product),
        ((pre, post, None), b * product),
    ):
        found = case.engine.gather_sum(square, x, *given)
        assert found.dtype == dtype
        torch.testing.assert_close(found.cpu().double(), expected, rtol=limit, atol=limit * 8)


@every_type
@every_heads
def test_weighted_sum(dtype, index, heads, dim, device):
    case = Case(dtype, index, device)
    (values, v), (x, exact) = case.tensor(74, heads), case.tensor(C, heads, dim)
    expected = torch.einsum("rch,chd->rhd", dense(case.rows, case.cols, v, (R, C)), exact)
    case.agree(case.engine.weighted_sum(case.adj, values, x), expected)


@every_type
@every_heads
def test_scores(dtype, index, heads, dim, device):
    case = Case(dtype, index, device)
    (a, near), (b, far), (att, weight) = (case.tensor(*s) for s in ((R, heads, dim), (C, heads, dim), (heads, dim)))
    near, far = near[case.rows], far[case.cols]
    case.agree(case.engine.dot(case.adj, a, b), (near * far).sum(2))
    z = near + far
    expected = (torch.where(z > 0, z, 0.2 * z) * weight).sum(2)
    case.agree(case.engine.additive(case.adj, a, b, att, 0.2), expected)


@every_type
@every_heads
def test_derivatives_of_additive_scores(dtype, index, heads, dim, device):
    case = Case(dtype, index, device)
    shapes = ((R, heads, dim), (C, heads, dim), (heads, dim), (74, heads))
    (a, near), (b, far), (att, weight), (grad, g) = (case.tensor(*s) for s in shapes)
    z = near[case.rows] + far[case.cols]
    to_z = g[:, :, None] * torch.where(z > 0, 1.0, torch.tensor(0.2, dtype=torch.float64))
    at_row = dense(case.rows, range(74), torch.ones(74), (R, 74))
    at_col = dense(case.cols, range(74), torch.ones(74), (C, 74))
    found = case.engine.additive_back(case.adj, grad, a, b, att, 0.2)
    case.agree(found[0], torch.einsum("re,ehd->rhd", at_row, to_z * weight))
    case.agree(found[1], torch.einsum("ce,ehd->chd", at_col, to_z * weight))
    case.agree(found[2], (to_z * z).sum(0))


@every_type
@every_width
def test_row_sum(dtype, index, width, device):
    case = Case(dtype, index, device)
    values, exact = case.tensor(74, width)
    at_row = dense(case.rows, range(74), torch.ones(74), (R, 74))
    case.agree(case.engine.row_sum(case.adj, values), at_row @ exact)
    order = torch.randperm(74, generator=case.draw)
    case.agree(case.engine.row_sum(case.adj, values, order.to(device)), at_row @ exact[order])


@every_type
@every_width
def test_softmax(dtype, index, width, device):
    case = Case(dtype, index, device)
    scores, exact = case.tensor(74, width)
    row = torch.tensor(case.rows)
    expected = torch.cat([exact[row == r].softmax(0) for r in range(R)])
    case.agree(case.engine.softmax(case.adj, scores), expected)


def test_softmax_of_large_scores(device):
    case = Case(torch.float32, torch.int32, device)
    scores = 1e4 * case.tensor(74, 3)[0]
    row, exact = torch.tensor(case.rows), scores.cpu().double()
    case.agree(case.engine.softmax(case.adj, scores), torch.cat([exact[row == r].softmax(0) for r in range(R)]))


@every_type
@every_width
def test_maximum(dtype, index, width, device):
    case = Case(dtype, index, device)
    exact = torch.randint(-2, 0, (C, width), generator=case.draw).double()  # below 0, and often equal
    expected, first = torch.zeros(R, width, dtype=torch.float64), torch.full((R, width), -1)
    for r, c in zip(case.rows, case.cols, strict=True):
        better = (first[r] < 0) | (exact[c] > expected[r])
        expected[r], first[r] = torch.where(better, exact[c], expected[r]), torch.where(better, c, first[r])
    out, chosen = case.engine.maximum(case.adj, exact.to(device, dtype))
    assert out.dtype == dtype and chosen.dtype == index
    assert torch.equal(out.cpu().double(), expected) and torch.equal(chosen.cpu().long(), first)


@every_type
@every_width
def test_linear_maps_of_a_choice(dtype, index, width, device):
    case = Case(dtype, index, device)
    (grad, g), (x, exact) = case.tensor(R, width), case.tensor(C, width)
    choices = {1: [0, 3], 2: [4], 3: [2]}  # of every row, among its columns
    chosen = torch.full((R, width), -1)
    for r, columns in choices.items():
        chosen[r] = torch.tensor([columns[w % len(columns)] for w in range(width)])
    to_x, picked = torch.zeros(C, width, dtype=torch.float64), torch.zeros(R, width, dtype=torch.float64)
    for r in choices:
        for w in range(width):
            to_x[chosen[r, w], w] += g[r, w]
            picked[r, w] = exact[chosen[r, w], w]
    chosen = chosen.to(device, index)
    case.agree(case.engine.from_chosen(case.adj, chosen, grad), to_x)
    case.agree(case.engine.pick(chosen, x), picked)


def test_no_number_and_infinity_still_find_an_entry(device):
    adj = matrix(device=device)
    x = torch.full((C, 2), -torch.inf, device=device)
    x[:, 1] = torch.nan
    out, chosen = engine_of(x).maximum(adj, x)
    assert out[1:, 0].isneginf().all() and out[1:, 1].isnan().all()
    assert out[0].tolist() == [0, 0]
    first = adj.indices[adj.indptr[1:-1].long()]
    assert torch.equal(chosen[1:], first[:, None].expand(-1, 2))


@pytest.mark.parametrize(("rows", "cols", "heads", "dim"), [(0, 0, 2, 3), (3, 5, 2, 3), (3, 5, 0, 3), (3, 5, 2, 0)])
def test_nothing_to_compute(rows, cols, heads, dim, device):
    nothing = torch.empty(0, dtype=torch.int64)
    adj = from_entries(nothing, nothing, (rows, cols))[0].to(device)
    a, b, att = (torch.ones(s, device=device) for s in ((rows, heads, dim), (cols, heads, dim), (heads, dim)))
    values, flat, engine = torch.ones(0, heads, device=device), b.flatten(1), engine_of(b)
    assert torch.equal(engine.gather_sum(adj, flat), torch.zeros(rows, heads * dim, device=device))
    assert torch.equal(engine.weighted_sum(adj, values, b), torch.zeros_like(a))
    assert torch.equal(engine.row_sum(adj, values), torch.zeros(rows, heads, device=device))
    for scores in (engine.dot(adj, a, b), engine.softmax(adj, values), engine.additive(adj, a, b, att, 0.2)):
        assert scores.shape == (0, heads)
    for found, like in zip(engine.additive_back(adj, values, a, b, att, 0.2), (a, b, att), strict=True):
        assert torch.equal(found, torch.zeros_like(like))
    out, chosen = engine.maximum(adj, flat)
    assert torch.equal(out, torch.zeros_like(out)) and torch.equal(chosen, torch.full_like(chosen, -1))
    assert torch.equal(engine.from_chosen(adj, chosen, out), torch.zeros_like(flat))
    assert torch.equal(engine.pick(chosen, flat), out)


def test_rows_of_no_numbers_have_products_of_zero(device):
    adj = matrix(device=device)
    a, b, att = (torch.ones(s, device=device) for s in ((R, 2, 0), (C, 2, 0), (2, 0)))
    assert torch.equal(engine_of(a).dot(adj, a, b), torch.zeros(74, 2, device=device))
    assert torch.equal(engine_of(a).additive(adj, a, b, att, 0.2), torch.zeros(74, 2, device=device))


def test_places_beyond_int32(device):
    if os.environ[VARIABLE] != "programs":
        pytest.skip("others widen all of x, here 4.5 GB")
    last = 70_000_000 - 1  # times 32 numbers a row: more than 2^31
    x = torch.empty(last + 1, 32, dtype=torch.bfloat16, device=device)  # memory that is never touched is never taken
    x[last] = 3
    adj = Csr(torch.tensor([0, 1]).int(), torch.tensor([last]).int(), None, last + 1).to(device)
    chosen = torch.full((1, 32), last, dtype=torch.int32, device=device)
    engine, heads = engine_of(x), x.view(-1, 2, 16)
    a, values = torch.ones(1, 2, 16, dtype=torch.bfloat16, device=device), torch.ones(1, 2, device=device)
    assert (engine.gather_sum(adj, x) == 3).all() and (engine.weighted_sum(adj, values, heads) == 3).all()
    assert (engine.maximum(adj, x)[0] == 3).all() and (engine.pick(chosen, x) == 3).all()
    assert (engine.dot(adj, a, heads) == 48).all()
    assert (engine.additive(adj, a, heads, a[0], 0.2) == 64).all()


def test_parts_of_wider_tensors(device):
    adj = matrix(device=device)
    wide, values = torch.randn(C, 2, 5, device=device), torch.randn(2, 74, device=device).t()
    part = wide.transpose(1, 2)
    found = engine_of(wide).weighted_sum(adj, values[:, :1], part[:, :1])
    expected = engine_of(wide).weighted_sum(adj, values[:, :1].contiguous(), part[:, :1].contiguous())
    torch.testing.assert_close(found, expected)  # a GPU adds in any order
    torch.testing.assert_close(engine_of(wide).softmax(adj, values), engine_of(wide).softmax(adj, values.contiguous()))
