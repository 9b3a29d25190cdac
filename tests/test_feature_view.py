"""Features that stay sparse give what dense ones give, and nothing makes them dense on the way."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from graphs import random_graph
from torch import nn

from graphscale.csr import Csr, from_entries
from graphscale.feature_view import SparseRows
from graphscale.kernels.dropout import dropout
from graphscale.nn import named
from graphscale.nn.fast_calls import FastCalls
from graphscale.nn.stock import Feed

ROWS, WIDTH = 40, 60


def matrix(*, values: bool = True, dtype: torch.dtype = torch.float32) -> Csr:
    torch.manual_seed(0)
    row, col = (torch.rand(ROWS, WIDTH) < 0.05).nonzero().t()
    return from_entries(row, col, (ROWS, WIDTH), torch.rand(row.numel(), dtype=dtype) + 0.5 if values else None)[0]


def wide_graph(**kind):
    """A random graph with mostly empty rows of features."""
    graph = random_graph(**kind)
    torch.manual_seed(1)
    row, col = (torch.rand(graph.num_nodes, WIDTH) < 0.05).nonzero().t()
    x, _ = from_entries(row, col, (graph.num_nodes, WIDTH), torch.rand(row.numel()) + 0.5)
    return dataclasses.replace(graph, x=x)


@pytest.mark.parametrize("values", [True, False])
def test_it_is_a_tensor_to_any_other_code(values):
    sparse = matrix(values=values)
    rows, dense = SparseRows(sparse), sparse.dense()
    assert rows.shape == dense.shape and rows.dtype == dense.dtype
    for same in (lambda x: x + 1, lambda x: x[3:7], lambda x: torch.cat([x, x], 1), lambda x: x @ torch.ones(WIDTH, 2)):
        assert torch.equal(same(rows), same(dense))


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_reads_its_entries_alone(values, bias):
    sparse = matrix(values=values)
    layer, rows = nn.Linear(WIDTH, 19, bias=bias), SparseRows(sparse)
    with FastCalls():
        out = layer(rows)
    found = torch.autograd.grad(out.square().sum(), list(layer.parameters()))
    assert "whole" not in rows.__dict__  # never made dense
    expected = layer(sparse.dense())
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), list(layer.parameters())))


def test_bfloat16_of_autocast():
    layer, sparse = nn.Linear(WIDTH, 8), matrix()
    with torch.autocast("cpu", torch.bfloat16), FastCalls():
        out = layer(SparseRows(sparse))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(sparse.dense()), rtol=0.02, atol=0.02)


def test_dropout_drops_entries_and_scales_the_others():
    sparse, p = matrix(), 0.4
    rows = SparseRows(sparse)
    with FastCalls():
        torch.manual_seed(3)
        dropped = F.dropout(rows, p)
        assert F.dropout(rows, p, training=False) is rows
        assert torch.equal(F.dropout(rows, 1.0), torch.zeros(ROWS, WIDTH))
    torch.manual_seed(3)
    expected = sparse.with_values(dropout(sparse.values, p))
    assert isinstance(dropped, SparseRows)
    assert torch.equal(dropped.whole, expected.dense())
    kept = dropped.whole != 0
    assert 0 < kept.sum() < sparse.num_entries
    torch.testing.assert_close(dropped.whole[kept], sparse.dense()[kept] / (1 - p))


def test_what_asks_for_gradients_of_features_gets_them():
    rows = SparseRows(matrix()).requires_grad_()
    layer = nn.Linear(WIDTH, 3)
    with FastCalls():
        layer(rows).sum().backward()
    torch.testing.assert_close(rows.grad, layer.weight.sum(0).expand(ROWS, WIDTH))


WRITES = {
    "in-place product": lambda x: x.mul_(2),
    "a column set": lambda x: x.__setitem__((slice(None), 3), 1.0),
    "a view filled": lambda x: x[2:5].fill_(1.0),
    "in-place dropout": lambda x: F.dropout(x, 0.5, inplace=True),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_to_features_counts(name):
    layer, rows, dense = nn.Linear(WIDTH, 3), SparseRows(matrix()), matrix().dense()
    for x in (rows, dense):
        torch.manual_seed(0)
        with FastCalls():
            WRITES[name](x)
    with FastCalls():
        found = layer(rows)
    torch.testing.assert_close(found, layer(dense))
    assert not torch.equal(found, layer(matrix().dense()))


class MaskedInTraining(nn.Module):
    """Code of its own that writes to features while it trains."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.conv, self.drop = GCNConv(WIDTH, classes), nn.Dropout(0.9, inplace=True)

    def forward(self, x, edge_index):
        return self.conv(self.drop(x), edge_index)


def test_in_place_dropout_of_features_drops():
    graph = wide_graph()
    model = MaskedInTraining(graph.num_classes)
    feed, _ = Feed.of(model, graph)
    model.train()
    torch.manual_seed(0)
    trained = feed(model, graph.x, graph.adj, None)
    model.eval()
    assert not torch.allclose(trained, feed(model, graph.x, graph.adj, None))


def test_dense_rows_stay_dense():
    full, _ = from_entries(*torch.ones(5, 4).nonzero().t(), (5, 4))
    assert not isinstance(SparseRows.of(full), SparseRows)
    assert isinstance(SparseRows.of(matrix()), SparseRows)


@pytest.mark.parametrize("name", named.STOCK)
@pytest.mark.parametrize("kind", [{}, {"weighted": True}, {"directed": True}, {"loops": True}])
def test_stock_models_give_the_same_of_sparse_features(name, kind):
    graph = wide_graph(**kind)
    torch.manual_seed(0)
    model = named.build(name, graph, in_dim=WIDTH, hidden=8, num_layers=2, dropout=0.0, heads=2).eval()
    feed, _ = Feed.of(model, graph)
    assert feed.sparse
    dense = dataclasses.replace(feed, sparse=False)
    both = []
    for way in (feed, dense):
        logits = way(model, graph.x, graph.adj, None)
        both.append([logits.detach(), *torch.autograd.grad(logits.square().sum(), list(model.parameters()))])
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-4)


class Demanding(nn.Module):
    """A model whose own code takes plain tensors alone, as a compiled extension does."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.conv = GCNConv(WIDTH, classes)

    def forward(self, x, edge_index):
        if type(x) is not torch.Tensor:
            raise TypeError("a plain tensor is needed")
        return self.conv(x, edge_index)


def test_a_model_that_cannot_take_them_gets_dense_features():
    graph = wide_graph()
    model = Demanding(graph.num_classes)
    feed, _ = Feed.of(model, graph)
    assert not feed.sparse
    assert feed(model, graph.x, graph.adj, None).shape == (graph.num_nodes, graph.num_classes)
