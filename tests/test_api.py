"""What a notebook uses: clusters of a Data, and configurations by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCN, GraphSAGE
from torch_geometric.utils import dropout_edge

import graphscale
from graphscale import (
    ClusterGCNConfig,
    InputError,
    accelerate,
    clusters,
    configure,
    from_pyg,
    load_graph,
    to_pyg,
    with_history,
)
from graphscale.testing import check_batch


@pytest.fixture(scope="module")
def data():
    return to_pyg(load_graph("planted:300"))


def test_there_and_back(data):
    graph = load_graph("planted:300")
    again = from_pyg(data)
    assert torch.equal(again.adj.dense(torch.float32), graph.adj.dense(torch.float32))
    assert torch.equal(again.x, graph.x) and torch.equal(again.y, graph.y)
    assert all(torch.equal(again.masks[name], mask) for name, mask in graph.masks.items())


def test_batches_are_what_a_loop_takes(data):
    batches = clusters(data, num_parts=6, parts_per_batch=2, seed=1)
    graph = batches.batches.graph
    met = []
    for batch in batches.epoch(0):
        check_batch(batch, graph, induced=True)
        assert batch.num_nodes == batch.x.shape[0] == batch.train_mask.numel()
        assert batch.edge_index.shape == (2, batch.adj.num_entries) and batch.edge_weight is None
        met += graph.node_id[batch.n_id[batch.train_mask]].tolist()
    assert sorted(met) == data.train_mask.nonzero().flatten().tolist()


def test_a_batch_without_a_training_node_is_left_out():
    ring = torch.arange(40)
    edge_index = torch.stack([torch.cat([ring, (ring + 1) % 40]), torch.cat([(ring + 1) % 40, ring])])
    mask = torch.zeros(40, dtype=torch.bool)
    mask[:3] = True
    data = Data(x=torch.ones(40, 2), edge_index=edge_index, y=ring % 2, train_mask=mask)
    batches = clusters(data, num_parts=8)  # no val_mask, no test_mask: they are not needed here
    assert 1 <= len(list(batches.epoch(0))) < 8
    assert all(batch.count for batch in batches.epoch(0))


def test_sparse_features_are_dense_in_a_batch(data):
    sparse = data.clone()
    sparse.x = (data.x * (data.x > 0)).to_sparse_csr()
    batches = clusters(sparse, num_parts=3)
    for batch in batches.epoch(0):
        rows = batches.batches.graph.node_id[batch.n_id]
        assert torch.equal(batch.x, data.x[rows].clamp(min=0))


def test_edge_weights_reach_the_batch(data):
    weighted = data.clone()
    weighted.edge_weight = torch.rand(data.num_edges) + 0.5
    dense = torch.zeros(300, 300).index_put_((data.edge_index[1], data.edge_index[0]), weighted.edge_weight)
    batches = clusters(weighted, num_parts=3)
    for batch in batches.epoch(0):
        rows = batches.batches.graph.node_id[batch.n_id]
        source, target = rows[batch.edge_index]
        assert torch.equal(batch.edge_weight, dense[target, source])


def test_what_is_missing_is_named(data):
    bare = data.clone()
    del bare.train_mask
    with pytest.raises(InputError, match="lacks train_mask"):
        clusters(bare, num_parts=3)
    with pytest.raises(InputError, match="no partitioner 'METIS'. There are: metis, stream, random"):
        clusters(data, num_parts=3, method="METIS")


@pytest.mark.parametrize("weighted", [False, True])
def test_an_accelerated_model_trains_the_same_in_ones_own_loop(data, weighted):
    data = data.clone()
    if weighted:
        data.edge_weight = torch.rand(data.num_edges) + 0.5

    def weights(make):
        torch.manual_seed(0)
        model = make(GCN(data.num_features, 16, num_layers=2, out_channels=8))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in clusters(data, num_parts=4, parts_per_batch=2).epoch(0):
            optimiser.zero_grad()
            out = model(batch.x, batch.edge_index, batch.edge_weight)
            torch.nn.functional.cross_entropy(out[batch.train_mask], batch.y[batch.train_mask]).backward()
            optimiser.step()
            made = "whole" in batch.edge_index.__dict__
        return made, torch.cat([p.detach().flatten() for p in model.parameters()])

    (slow, expected), (fast, got) = weights(lambda model: model), weights(accelerate)
    assert slow and not fast  # the accelerated one never looked at PyG's edges
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


# Configurations


def test_configure_takes_the_preset_of_the_data():
    config = configure("cluster_gcn", data="cora", epochs=3)
    assert (config.preset, config.num_parts, config.norm, config.epochs) == ("cora", 10, "sym", 3)
    assert configure("cluster_gcn", data="cora", preset="none").num_parts == ClusterGCNConfig().num_parts


def test_configure_reads_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text('data = "cora"\nhidden = 32\nlr = 0.5\n')
    config = configure("cluster_gcn", config=tmp_path / "mine.toml", lr=0.25)
    assert (config.hidden, config.lr, config.epochs) == (32, 0.25, 200)
    assert config.config is None


def test_values_win_where_they_interact():
    # The preset for digits has 2 clusters a batch; alone with one cluster that would be refused.
    assert configure("cluster_gcn", data="digits", num_parts=1, parts_per_batch=1).num_parts == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batches": "cluster"}, "'clusters' or 'neighbors' or 'full' is needed"),
        ({"partitioner": "METIS"}, "--partitioner 'METIS': 'metis' or 'stream' or 'random' is needed"),
        ({"setting": "induktive"}, "--setting"),
        ({"epochs": "3"}, "--epochs '3': a whole number is needed"),
        ({"epochs": True}, "--epochs True: a whole number is needed"),
        ({"lr": None}, "--lr None: a number is needed"),
        ({"concat": 1}, "--concat 1: true or false is needed"),
    ],
)
def test_a_configuration_checks_its_values(values, words):
    with pytest.raises(InputError, match=words):
        ClusterGCNConfig(**values)


def test_numbers_of_numpy_are_numbers():
    config = ClusterGCNConfig(epochs=np.int64(3), lr=np.float32(0.5), clip=2)
    assert (type(config.epochs), type(config.lr), type(config.clip)) == (int, float, float)


def test_a_preset_that_was_not_applied_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"preset=cora was not applied.*graphscale\.configure\('cluster_gcn'"):
        graphscale.train("cluster_gcn", ClusterGCNConfig(data="cora", preset="cora", out=tmp_path / "run"))
    with pytest.raises(InputError, match="was not read"):
        graphscale.train("cluster_gcn", ClusterGCNConfig(config="mine.toml", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_unknown_names():
    with pytest.raises(InputError, match="no recipe 'x'"):
        configure("x")
    with pytest.raises(InputError, match="configure sets learning_rate, which ClusterGCNConfig does not have"):
        configure("cluster_gcn", learning_rate=1)


def test_histories_of_a_stock_model_become_exact(tmp_path):
    data = to_pyg(load_graph("planted:400"))
    torch.manual_seed(0)
    model = GCN(data.num_features, 16, 3, 8, norm="batch_norm")
    histories = with_history(model, data, 8, 2, seed=1)
    model.train()
    before = model.norms[0].module.running_mean.clone()
    for batch in histories.epoch(0):
        assert histories(batch).shape == (batch.num_roots, 8)
    assert not torch.equal(model.norms[0].module.running_mean, before)
    rows = histories.table.rows.clone()
    model.eval()
    for batch in histories.epoch(1):
        histories(batch)
    assert torch.equal(histories.table.rows, rows), "only training writes"
    for norm in model.norms:
        norm.eval()
    model.training = True  # pushes, with statistics that stay
    for epoch in range(3):
        found = torch.full((400, 8), torch.nan)
        for batch in histories.epoch(epoch):
            found[histories.batches.graph.node_id[batch.n_id[: batch.num_roots]]] = histories(batch).detach()
    torch.testing.assert_close(found, histories.exact(), rtol=1e-4, atol=1e-4)


def test_logits_without_gradients_are_those_with():
    data = to_pyg(load_graph("planted:300"))
    histories = with_history(GCN(data.num_features, 16, 3, 8), data, 4)
    histories.model.eval()
    batch = next(histories.epoch(0))
    with torch.no_grad():
        without = histories(batch)
    assert not without.requires_grad
    torch.testing.assert_close(without, histories(batch).detach())


def test_a_model_that_drops_edges_trains_with_its_layers_as_they_are():
    class Dropping(GCN):
        def forward(self, x, edge_index):
            return super().forward(x, dropout_edge(edge_index, 0.3, training=self.training)[0])

    data = to_pyg(load_graph("planted:300"))
    width = data.num_features  # a fast GCNConv sums what enters it where that is no wider, PyG's what it gives
    with pytest.raises(InputError, match="accelerate=False"):
        with_history(Dropping(width, 2 * width, 3, 8), data, 4)
    histories = with_history(Dropping(width, 2 * width, 3, 8), data, 4, accelerate=False)
    histories.model.train()
    logits = torch.cat([histories(batch) for batch in histories.epoch(0)])
    assert logits.shape == (300, 8) and bool(logits.isfinite().all())


def test_what_a_model_leaves_unused_is_said():
    data = to_pyg(load_graph("planted:300"))
    data.edge_weight = torch.rand(data.edge_index.shape[1])
    with pytest.warns(UserWarning, match="edge weights are not used"):
        with_history(GraphSAGE(data.num_features, 16, 2, 8), data, 4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"histories": "gpu"}, "ram, on disk, or on the device"), ({"dtype": torch.int32}, "cannot hold rows"),
        ({"data": "cora"}, "Data is needed"), ({"model": len}, "Module"),
        ({"model": GCN(32, 16, 2, 8).double()}, "model.float"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_a_model_with_histories_is_refused(changes, says):
    data = to_pyg(load_graph("planted:300"))
    usual = {"model": GCN(data.num_features, 16, 2, 8), "data": data, "num_parts": 4}
    with pytest.raises(InputError, match=says):
        with_history(**{**usual, **changes})


@pytest.mark.parametrize(
    "made", [lambda data: with_history(GCN(32, 16, 2, 8), data, 4), lambda data: clusters(data, 4)]
)
def test_merged_edges_are_said(made):
    data = to_pyg(load_graph("planted:300"))
    data = Data(**{**data.to_dict(), "edge_index": torch.cat([data.edge_index, data.edge_index[:, :9]], 1)})
    with pytest.warns(UserWarning, match="9 duplicate"):
        made(data)


def test_histories_on_the_models_device():
    data = to_pyg(load_graph("planted:300"))
    found = []
    for place in ("ram", "device"):
        torch.manual_seed(0)
        histories = with_history(GCN(data.num_features, 16, 2, 8), data, 4, histories=place)
        histories.model.train()
        found.append(torch.cat([histories(batch).detach() for _ in range(2) for batch in histories.epoch(0)]))
    assert torch.equal(*found)


def test_histories_on_disk_and_in_half_precision():
    data = to_pyg(load_graph("planted:300"))
    histories = with_history(GCN(data.num_features, 16, 2, 8), data, 4, histories="disk", dtype=torch.bfloat16)
    histories.model.train()
    for batch in histories.epoch(0):
        histories(batch)
    assert histories.table.rows.dtype == torch.bfloat16 and float(histories.table.rows.float().abs().sum()) > 0
