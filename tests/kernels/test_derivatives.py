"""First and second derivatives through every engine; values and gradients that do not depend on the engine.

The matrices are tiny, since Triton's interpreter takes milliseconds a row.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from graphscale.csr import Csr, from_entries
from graphscale.kernels import entries
from graphscale.kernels.aggregate import aggregate, normalised
from graphscale.kernels.attention import attend
from graphscale.kernels.engine import VARIABLE
from graphscale.kernels.maximum import maximum

N, H, D = 4, 2, 3


def matrix() -> Csr:
    """Directed and weighted; row 0 is empty, a place is stored twice."""
    row, col = torch.tensor([1, 1, 1, 2, 3, 3]), torch.tensor([0, 2, 2, 1, 0, 3])
    return from_entries(row, col, (N, N), torch.rand(6, generator=torch.Generator().manual_seed(0)).double())[0]


def leaves(*shapes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(1)
    return tuple(torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)


SCALE, POST, DIAG = leaves((N, 1), (N, 1), (N, 1))
# Functions that are not linear, so that no second derivative is zero, and the shapes of what they take.
FUNCTIONS = {
    "aggregate": (lambda adj, x: aggregate(adj, x.sin()), [(N, D)]),
    "normalised": (lambda adj, x: normalised(adj, x.sin(), **scales(x)), [(N, D)]),
    "weighted_sum": (lambda adj, v, x: entries.weighted_sum(adj, v.sin(), x), [(6, H), (N, H, D)]),
    "dot": (entries.dot, [(N, H, D), (N, H, D)]),
    "additive": (lambda adj, a, b, att: entries.additive(adj, a, b, att, 0.2), [(N, H, D), (N, H, D), (H, D)]),
    "of_rows": (lambda adj, v: entries.of_rows(adj, v).sin(), [(N, H)]),
    "of_columns": (lambda adj, v: entries.of_columns(adj, v).sin(), [(N, H)]),
    "row_sum": (lambda adj, v: entries.row_sum(adj, v).sin(), [(6, H)]),
    "column_sum": (lambda adj, v: entries.column_sum(adj, v).sin(), [(6, H)]),
    "softmax": (entries.softmax, [(6, H)]),
    "attend": (lambda adj, h, s, t: attend(adj, h, s, t, 0.2), [(N, H, D), (H, D), (H, D)]),
    "maximum": (lambda adj, x: maximum(adj, x).sin(), [(N, D)]),
}
# Along random directions, since every number apart would take the interpreter minutes; and torch's scatters add in
# any order on a GPU.
FAST = {"fast_mode": True, "nondet_tol": 1e-12}
every = pytest.mark.parametrize("name", FUNCTIONS)


def scales(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pre": SCALE.to(x), "post": POST.to(x), "diag": DIAG.to(x)}


@every
def test_first_and_second_derivatives(name, device):
    function, shapes = FUNCTIONS[name]
    adj = matrix().to(device)
    inputs = [x.to(device).requires_grad_() for x in leaves(*shapes)]
    assert gradcheck(lambda *given: function(adj, *given), inputs, **FAST)
    assert gradgradcheck(lambda *given: function(adj, *given), inputs, **FAST)


@every
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]
)
def test_engines_agree(name, dtype, tolerance, device, monkeypatch):
    function, shapes = FUNCTIONS[name]
    found = both(function, shapes, dtype, device)
    monkeypatch.setenv(VARIABLE, "loops")
    expected = both(function, shapes, torch.float64, torch.device("cpu"))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype and one.device.type == device.type
        torch.testing.assert_close(one.cpu().double(), other, rtol=tolerance, atol=tolerance)


def both(function, shapes, dtype, device):
    """Value and gradients of a function of leaves that every type holds exactly."""
    inputs = [x.bfloat16().to(device, dtype).requires_grad_() for x in leaves(*shapes)]
    out = function(matrix().to(device), *inputs)
    grad = torch.linspace(-1, 1, out.numel()).bfloat16().view(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_additive_scores_with_something_frozen(frozen, device):
    inputs = [x.to(device).requires_grad_() for x in leaves((N, H, D), (N, H, D), (H, D))]
    inputs[frozen] = inputs[frozen].detach()
    adj = matrix().to(device)
    assert gradcheck(lambda *given: entries.additive(adj, *given, 0.2), inputs, **FAST)
    assert gradgradcheck(lambda *given: entries.additive(adj, *given, 0.2), inputs, **FAST)


def test_equal_runs_give_equal_bits(device):
    if device.type == "cuda" and os.environ[VARIABLE] == "torch":
        pytest.skip("torch's scatters add in any order on a GPU")
    draw = torch.Generator().manual_seed(0)
    row, col = torch.randint(20, (400,), generator=draw), torch.randint(30, (400,), generator=draw)
    adj = from_entries(row, col, (20, 30))[0].to(device)
    x = torch.randn(30, 2, 8, generator=draw).to(device)
    values = torch.randn(400, 2, generator=draw).to(device)
    once, again = (entries.weighted_sum(adj, entries.softmax(adj, values), x) for _ in range(2))
    assert torch.equal(once, again)
