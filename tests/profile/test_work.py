"""Operations of products: by hand, and as torch's own counter has them."""

from __future__ import annotations

import pytest
import torch
from graphs import random_graph
from torch.utils.flop_counter import FlopCounterMode

from graphscale.kernels.shared import sparse_tensor
from graphscale.nn import named
from graphscale.profile.rates import Rates, measure
from graphscale.profile.work import Work


def test_a_linear_layer():
    n, f, c = 7, 5, 3
    layer, x = torch.nn.Linear(f, c), torch.rand(n, f)
    forward, backward = Work(), Work()
    with forward.counted():
        out = layer(x)
    with backward.counted():
        out.sum().backward()
    assert forward.flops == 2 * n * f * c
    assert backward.flops == 2 * n * f * c  # to the weights alone: nobody asks for x's gradient
    assert forward.moved == backward.moved == 0


@pytest.mark.parametrize("name", ["gcn", "gat", "pna"])
def test_a_stock_model_as_torch_counts_it(name):
    graph = random_graph(30)
    x, index = graph.x.float(), torch.stack([graph.adj.indices.long(), graph.adj.row_of])
    model = named.build(name, graph, in_dim=5, hidden=8, num_layers=2, dropout=0.0, heads=2)
    work = Work()
    with work.counted():
        model(x, index).sum().backward()
    with FlopCounterMode(display=False) as counter:
        model(x, index).sum().backward()
    assert work.flops == counter.get_total_flops() > 0


def test_a_sparse_product_is_no_dense_work():
    graph = random_graph(30)
    matrix, x = sparse_tensor(graph.adj, torch.float32), torch.rand(30, 4, requires_grad=True)
    weight = torch.rand(4, 2)
    work = Work()
    with work.counted():
        (matrix @ (x @ weight)).sum().backward()
    assert work.flops == 2 * (2 * 30 * 4 * 2)  # forward, and back to x


def test_work_adds_up():
    work, a = Work(), torch.ones(2, 2)
    for _ in range(3):
        with work.counted():
            a @ a
    assert work.flops == 3 * 2 * 8


def test_the_floor_is_bytes_and_operations_one_after_the_other():
    assert Rates(bandwidth=10.0, products=4.0).floor(moved=20.0, flops=2.0) == 2.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rates_are_measured_without_drawing(dtype, monkeypatch):
    from graphscale.profile import rates

    monkeypatch.setattr(rates, "_SECONDS", 0.0)
    state = torch.random.get_rng_state()
    found = measure(torch.device("cpu"), dtype)
    assert found.bandwidth > 0 and found.products > 0
    assert torch.equal(torch.random.get_rng_state(), state)
