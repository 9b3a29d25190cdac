from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from graphs import random_graph
from torch import nn

from graphscale.batches.full import FullBatch
from graphscale.csr import from_entries
from graphscale.edge_view import BlockEdges
from graphscale.errors import InputError
from graphscale.kernels.dropout import dropout
from graphscale.nn import named
from graphscale.nn.exact import outputs
from graphscale.nn.plain import plain
from graphscale.nn.stock import Feed


def make(name, graph, **keywords):
    torch.manual_seed(0)
    settings = {"hidden": 8, "num_layers": 2, "dropout": 0.0, "heads": 2, **keywords}
    return named.build(name, graph, in_dim=graph.num_features, **settings).double().eval()


@pytest.mark.parametrize("name", named.STOCK)
@pytest.mark.parametrize("kind", [{}, {"weighted": True}, {"attributes": 2}, {"directed": True}, {"loops": True}])
def test_any_view_gives_what_pyg_gives_on_edge_index(name, kind):
    graph = random_graph(**kind)
    model = make(name, graph)
    feed, _ = Feed.of(model, graph)
    edge_index = torch.stack([graph.adj.indices.long(), graph.adj.row_of])
    keywords = {}
    if kind.get("weighted") and name in ("gcn", "appnp", "gcnii"):
        keywords["edge_weight"] = graph.adj.values
    if kind.get("attributes") and name in ("gat", "pna"):
        keywords["edge_attr"] = graph.edge_attr.double()
    expected = model(graph.x, edge_index, **keywords)
    out = plain(model, feed)(dict(model.named_parameters()), next(FullBatch(graph).epoch(0)))
    torch.testing.assert_close(out.logits, expected)
    torch.testing.assert_close(outputs(model, feed, graph, torch.device("cpu")).logits, expected)


def test_stored_loops_keep_gcn_off_the_view_that_counts_them_twice():
    assert Feed.of(make("gcn", random_graph()), random_graph(), faster=False)[0].view == "adj_t"
    looped = random_graph(loops=True)
    assert Feed.of(make("gcn", looped), looped, faster=False)[0].view == "edge_index"


def test_unused_weights_and_attributes_are_said():
    weighted, attributed = random_graph(weighted=True), random_graph(attributes=2)
    assert "edge_weight" in Feed.of(make("sage", weighted), weighted)[1][0]
    assert "edge_attr" in Feed.of(make("gcn", attributed), attributed)[1][0]
    assert Feed.of(make("gcn", weighted), weighted)[1] == []


def test_sparse_features_reach_a_stock_model_as_a_dense_block():
    graph = random_graph()
    row, col = (graph.x > 0).nonzero().t()
    sparse, _ = from_entries(row, col, graph.x.shape, graph.x[graph.x > 0].float())
    model = make("gcn", graph).float()
    feed, _ = Feed.of(model, dataclasses.replace(graph, x=sparse))
    torch.testing.assert_close(feed(model, sparse, graph.adj, None), feed(model, sparse.dense(), graph.adj, None))


def test_layer_norm_of_stock_models_does_not_mix_nodes():
    # PyG's default mode normalises over all nodes of the batch; then a node's score depends on who is beside it.
    graph = random_graph()
    model = make("sage", graph, layer_norm=True)
    norms = [m for m in model.modules() if type(m).__name__ == "LayerNorm"]
    assert norms and all(m.mode == "node" for m in norms)


class Bare(nn.Module):
    def __init__(self, d_in, d_out):
        super().__init__()
        self.lin = nn.Linear(d_in, d_out)

    def forward(self, x, edge_index):
        return self.lin(x).index_add(0, edge_index[1], self.lin(x)[edge_index[0]])


def test_your_own_callable(tmp_path, monkeypatch):
    (tmp_path / "mine_for_test.py").write_text(
        "import torch\n\n\ndef build(d_in, d_out):\n    return torch.nn.Linear(d_in, d_out)\n\n\n"
        "def wrong(d_in, d_out):\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    graph = random_graph()
    with pytest.raises(InputError, match="edge_index"):  # a Linear takes no edge_index: found before training
        Feed.of(make("mine_for_test:build", graph), graph)
    with pytest.raises(InputError, match=r"int, not a torch\.nn\.Module"):
        make("mine_for_test:wrong", graph)
    with pytest.raises(InputError, match="cannot load the model"):
        make("mine_for_test:absent", graph)
    with pytest.raises(InputError, match="cannot load the model"):
        make("no_such_module_here:build", graph)
    sys.modules.pop("mine_for_test", None)


def test_a_model_without_pyg_layers_is_fed_edge_index():
    graph = random_graph()
    model = Bare(5, 3).double()
    assert Feed.of(model, graph)[0].view == "edge_index"


def test_logits_of_another_width_are_refused():
    graph = random_graph()
    with pytest.raises(InputError, match=r"\[9, 3\]"):
        Feed.of(Bare(5, 4).double(), graph)


def test_unknown_names_and_widths_are_refused():
    graph = random_graph()
    with pytest.raises(InputError, match="no model 'gnn'"):
        make("gnn", graph)
    with pytest.raises(InputError, match="not a multiple of 3 heads"):
        make("gat", graph, heads=3)


def test_trial_leaves_the_model_as_it_was():
    graph = random_graph()
    model = make("gin", graph).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Feed.of(model, graph)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_that_caches_edges_is_refused():
    from torch_geometric.nn import GCNConv

    graph = random_graph()
    with pytest.raises(InputError, match="cached=True"):
        Feed.of(GCNConv(5, 3, cached=True).double(), graph)


@pytest.mark.parametrize("name", ["gcn", "sage", "gin"])
def test_bf16_forward_and_backward(name):
    graph = random_graph()
    graph = dataclasses.replace(graph, x=graph.x.float())
    model = make(name, graph).float()
    feed, _ = Feed.of(model, graph, bf16=True)
    batch = next(FullBatch(graph).epoch(0))
    out = plain(model, feed, bf16=True)(dict(model.named_parameters()), batch).logits
    out.sum().backward()
    exact = plain(model, feed)(dict(model.named_parameters()), batch).logits
    torch.testing.assert_close(out, exact, rtol=0.1, atol=0.1 * float(exact.detach().abs().max()))


def test_a_stock_models_dropout_is_drawn_by_the_house():
    graph = random_graph()
    model = make("gcn", graph, dropout=0.5).float().train()
    graph = dataclasses.replace(graph, x=graph.x.float())
    feed, _ = Feed.of(model, graph)
    assert feed.view == "block"

    def out(given):
        torch.manual_seed(3)
        return given(model, graph.x, graph.adj, None)

    first = out(feed)
    assert torch.equal(first, out(feed))
    assert not torch.allclose(first, out(dataclasses.replace(feed, view="edge_index")))  # torch draws others
    torch.manual_seed(3)
    hidden = dropout(model.convs[0](graph.x, BlockEdges.of(graph.adj, torch.float32, weighted=False)).relu(), 0.5)
    expected = model.convs[1](hidden, BlockEdges.of(graph.adj, torch.float32, weighted=False))
    torch.testing.assert_close(first, expected)
