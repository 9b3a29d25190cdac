"""Inference in tiles equals a plain forward, layer by layer, for every form of the network."""

from __future__ import annotations

import pytest
import torch
from graphs import random_graph
from torch.nn import functional as F

from graphscale.csr import from_entries
from graphscale.nn.static import ClusterGCN, precompute

NORMS = ("row", "row+I", "self", "self+I", "diag", "sym")


def dense_oracle(model: ClusterGCN, x, adj):
    """Equations (1), (8)-(11) with dense matrices, independent of the sparse code."""
    a = adj.dense(torch.float64)
    d = a.sum(1)
    eye = torch.eye(len(d), dtype=torch.float64)
    safe = torch.where(d > 0, d, 1.0)
    tilde = (a + eye) / (d + 1)[:, None]
    root = (d + 1).rsqrt()
    p = {
        "row": a / safe[:, None],
        "row+I": a / safe[:, None] + eye,
        "self": tilde,
        "self+I": tilde + eye,
        "diag": tilde + model.diag_lambda * torch.diag(tilde.diagonal()),
        "sym": root[:, None] * (a + eye) * root[None, :],
    }[model.norm]
    for i, linear in enumerate(model.linears):
        z = x if model.precomputed and i == 0 else p @ x
        if model.concat and not (model.precomputed and i == 0):
            z = torch.cat([z, x], 1)
        h = z @ linear.weight.t() + linear.bias
        if i < len(model.linears) - 1:
            h = F.relu(model.norms[i](h))
            x = h + x if model.residual and i > 0 else h
        else:
            x = h
    return x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize(
    "hidden", [3, 5, 11]
)  # as wide as the input, narrower and wider than the input: both orders of multiplication
def test_forward_and_tiles_equal_the_dense_equations(norm, concat, hidden):
    for weighted, directed in ((False, False), (True, False), (False, True)):
        graph = random_graph(weighted=weighted, directed=directed)
        torch.manual_seed(1)
        model = ClusterGCN(5, hidden, 3, 4, norm=norm, diag_lambda=0.7, concat=concat, residual=True).double()
        model.eval()
        expected = dense_oracle(model, graph.x, graph.adj)
        torch.testing.assert_close(model(graph.x, graph.adj), expected, rtol=1e-12, atol=1e-12)
        for tile in (1, 7, 60, 1000):
            tiles = model.infer(graph.x, graph.adj, tile=tile)
            torch.testing.assert_close(tiles, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("norm", ["diag", "sym"])
def test_sparse_features_equal_dense_ones(concat, norm):
    graph = random_graph()
    keep = torch.rand(graph.x.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    row, col = keep.nonzero().t()
    sparse, _ = from_entries(row, col, graph.x.shape, graph.x[keep])
    for training in (False, True):
        model = ClusterGCN(5, 8, 3, 3, dropout=0.0, concat=concat, norm=norm).double().train(training)
        torch.testing.assert_close(model(sparse, graph.adj), model(sparse.dense(torch.float64), graph.adj))
    torch.testing.assert_close(model.infer(sparse, graph.adj, tile=13), model(sparse, graph.adj))


def test_precomputed_layer_equals_the_layer_itself():
    graph = random_graph()
    model = ClusterGCN(5, 8, 3, 3, dropout=0.0).double()
    ahead = ClusterGCN(10, 8, 3, 3, dropout=0.0, precomputed=True).double()
    ahead.load_state_dict(model.state_dict())
    z = precompute(graph.x, graph.adj, "diag", 1.0, concat=True)
    expected = model(graph.x, graph.adj)
    torch.testing.assert_close(ahead(z, graph.adj), expected)
    torch.testing.assert_close(ahead.infer(z, graph.adj, tile=7), expected)


def test_layer_equals_pygs_cluster_gcn_conv():
    from torch_geometric.nn import ClusterGCNConv

    graph = random_graph()
    conv = ClusterGCNConv(5, 3, diag_lambda=0.7).double()
    model = ClusterGCN(5, 8, 3, 1, dropout=0.0, norm="diag", diag_lambda=0.7).double()
    with torch.no_grad():
        model.linears[0].weight.copy_(torch.cat([conv.lin_out.weight, conv.lin_root.weight], 1))
        model.linears[0].bias.copy_(conv.lin_out.bias)
    edge_index = torch.stack([graph.adj.indices.long(), graph.adj.row_of])
    # PyG's layer takes degrees in float32, whatever its inputs.
    torch.testing.assert_close(model(graph.x, graph.adj), conv(graph.x, edge_index), rtol=1e-6, atol=1e-6)


def test_symmetric_norm_equals_pygs_gcn_conv():
    from torch_geometric.nn import GCNConv

    for weighted in (False, True):
        graph = random_graph(weighted=weighted)
        conv = GCNConv(5, 3).double()
        model = ClusterGCN(5, 8, 3, 1, dropout=0.0, norm="sym", concat=False).double()
        with torch.no_grad():
            model.linears[0].weight.copy_(conv.lin.weight)
            model.linears[0].bias.copy_(conv.bias)
        edge_index = torch.stack([graph.adj.indices.long(), graph.adj.row_of])
        expected = conv(graph.x, edge_index, graph.adj.values)
        torch.testing.assert_close(model(graph.x, graph.adj), expected, rtol=1e-12, atol=1e-12)
