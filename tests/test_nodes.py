"""Every setting of node classification reaches what it names, and the inductive setting hides what it must."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphscale.data.static import load
from graphscale.errors import InputError
from graphscale.loop import fit, train_step
from graphscale.nn.static import precompute
from graphscale.recipes import cluster_gcn
from graphscale.recipes.cluster_gcn import ClusterGCNConfig

SMALL = {"data": "planted:200", "num_parts": 4, "hidden": 8, "layers": 3, "dropout": 0.0}


def built(**settings):
    config = ClusterGCNConfig(**{**SMALL, **settings})
    views = cluster_gcn.read(config)
    return views, cluster_gcn.build(config, views, settings.get("seed", 0))


@pytest.fixture
def looped(tmp_path):
    """A file with loops, sparse features and three splits."""
    draw = np.random.default_rng(0)
    n = 60
    edges = draw.integers(n, size=(2, 300))
    edges[:, :20] = np.arange(20)
    features = draw.random((n, 8)) * (draw.random((n, 8)) < 0.4)
    rows, columns = features.nonzero()
    file = tmp_path / "looped.npz"
    np.savez(
        file, edge_index=np.concatenate([edges, edges[::-1]], 1), num_nodes=n, y=draw.integers(3, size=n),
        x_indptr=np.concatenate([[0], np.cumsum((features != 0).sum(1))]), x_indices=columns,
        x_data=features[rows, columns].astype(np.float32), x_shape=np.array([n, 8]),
        **{f"{name}_mask": np.arange(n) % 3 == i for i, name in enumerate(("train", "val", "test"))},
    )  # fmt: skip
    return str(file)


# The inductive setting


def test_inductive_training_sees_no_node_and_no_edge_of_the_others():
    views, run = built(setting="inductive")
    train = views.whole.masks["train"]
    ids = train.nonzero().flatten()
    assert views.seen.num_nodes == ids.numel() < views.whole.num_nodes
    assert torch.equal(views.seen.node_id, ids)
    dense = views.whole.adj.dense()[ids][:, ids]
    assert torch.equal(views.seen.adj.dense(), dense)
    met = [run.batches.graph.node_id[batch.n_id] for batch in run.batches.epoch(0)]
    assert bool(train[torch.cat(met)].all())
    assert run.evaluate.graph is views.whole  # scores are of the whole graph


def test_inductive_precomputation_is_over_training_edges_alone():
    plain, _ = built(setting="inductive")
    views, _ = built(setting="inductive", precompute=True)
    z = precompute(plain.seen.x, plain.seen.adj, "diag", 1.0, concat=True)
    torch.testing.assert_close(views.seen.x, z)
    over_all = precompute(plain.whole.x, plain.whole.adj, "diag", 1.0, concat=True)
    torch.testing.assert_close(views.whole.x, over_all)
    assert not torch.allclose(views.seen.x, over_all[plain.whole.masks["train"]])


def test_transductive_training_sees_all():
    views, _ = built()
    assert views.seen is views.whole


# Loops of the data, sparse features


def test_the_house_leaves_the_loops_of_the_data_out(looped):
    assert load(looped).adj.has_loops()
    assert not built(data=looped)[0].whole.adj.has_loops()
    assert built(data=looped, model="sage")[0].whole.adj.has_loops()  # a stock layer has its own way with them


def test_sparse_features_are_dropped_out_too(looped):
    _, run = built(data=looped, dropout=0.5, batches="full", layers=1)
    batch = next(run.batches.epoch(0))
    model = run.model.train()
    torch.manual_seed(0)
    assert not torch.equal(model(batch.x, batch.adj), model(batch.x, batch.adj))
    model.eval()
    assert torch.equal(model(batch.x, batch.adj), model(batch.x, batch.adj))


# Settings


@pytest.mark.parametrize(
    ("setting", "value", "look"),
    [
        ("dropout", 0.25, lambda m: m.dropout),
        ("residual", True, lambda m: m.residual),
        ("norm", "row+I", lambda m: m.norm),
        ("diag_lambda", 0.5, lambda m: m.diag_lambda),
        ("concat", False, lambda m: m.concat),
        ("hidden", 6, lambda m: m.linears[0].out_features),
        ("layers", 2, lambda m: len(m.linears)),
        ("layer_norm", False, lambda m: any(isinstance(n, torch.nn.LayerNorm) for n in m.norms)),
        ("precompute", True, lambda m: m.precomputed),
    ],
)
def test_the_model_has_the_setting(setting, value, look):
    default = look(built()[1].model)
    got = look(built(**{setting: value})[1].model)
    assert got == value != default


def test_stock_models_have_their_settings():
    _, run = built(model="gat", heads=2, hidden=8, layers=2, dropout=0.25)
    assert (run.model.convs[0].heads, len(run.model.convs), run.model.dropout.p) == (2, 2, 0.25)


def test_the_optimiser_has_its_settings():
    _, run = built(lr=0.125, weight_decay=0.25)
    (group,) = run.sync.slot.optimiser.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.125, 0.25)
    assert built(clip=0.5)[1].sync.clip == 0.5


def after(**settings):
    """Loss and weights of a run after one step."""
    _, run = built(batches="full", **settings)
    loss, _ = train_step(run, next(run.batches.epoch(0)), 0)
    return loss, torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_clipping_changes_the_step_of_plain_weights():
    _, run = built(batches="full", clip=1e-3)
    train_step(run, next(run.batches.epoch(0)), 0)
    squares = sum(float(p.grad.square().sum()) for p in run.model.parameters() if p.grad is not None)
    assert squares**0.5 <= 1.001e-3


@pytest.mark.parametrize("model", ["cluster_gcn", "gcn"])
def test_bf16_computes_in_bf16(model):
    full, half = after(model=model), after(model=model, precision="bf16")
    assert full[0] != half[0]
    assert half[0] == pytest.approx(full[0], rel=0.02)
    assert half[1].dtype == torch.float32


def test_scaling_reaches_the_features():
    views, _ = built(scaling="standard")
    train = views.whole.x[views.whole.masks["train"]]
    torch.testing.assert_close(train.mean(0), torch.zeros(train.shape[1]), atol=1e-5, rtol=0)


def test_batches_are_those_asked_for():
    assert len(built(num_parts=4, parts_per_batch=2)[1].batches) == 2
    assert type(built(batches="full")[1].batches).__name__ == "FullBatch"
    _, run = built(batches="neighbors", fanout="3,2,1", batch_size=7)
    assert (run.batches.fanouts, run.batches.batch_size) == ((3, 2, 1), 7)
    assert built(partitioner="random")[1].partition["method"] == "random"


def test_the_seed_decides_weights_clusters_and_order():
    one, same, other = (built(seed=s)[1] for s in (1, 1, 2))
    weights = [torch.cat([p.detach().flatten() for p in run.model.parameters()]) for run in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    orders = [[batch.n_id.tolist() for batch in run.batches.epoch(0)] for run in (one, same, other)]
    assert orders[0] == orders[1] != orders[2]


# Residuals are the same however the first layer is computed


@pytest.mark.parametrize("concat", [True, False])
def test_a_residual_does_not_depend_on_precomputation(concat):
    # hidden = F without concatenation and 2 F with it: widths alone would take a sum for features.
    width = {True: 2, False: 1}[concat] * load(SMALL["data"]).num_features
    runs = [
        built(batches="full", residual=True, concat=concat, hidden=width, precompute=early)[1]
        for early in (False, True)
    ]
    logs = [fit(run, epochs=3) for run in runs]
    assert logs[0].final["val"]["logloss"] == pytest.approx(logs[1].final["val"]["logloss"], rel=1e-4)


def test_a_residual_does_not_depend_on_how_features_are_stored(looped):
    _, sparse = built(data=looped, residual=True, batches="full", hidden=8)
    batch = next(sparse.batches.epoch(0))
    model = sparse.model.eval()
    torch.testing.assert_close(model(batch.x, batch.adj), model(batch.x.dense(), batch.adj))


# Models that cannot train


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("class make(torch.nn.Identity):\n  def __init__(s, i, o): super().__init__(); s.o = o\n"
         "  def forward(s, x, e): return x[:, :s.o]", "has no trainable parameter"),
        ("def make(i, o): return {}['nothing']", "failed: KeyError: 'nothing' .*line 2.*Mend the callable"),
        ("def make(i, o) return 3", "cannot load the model .*SyntaxError"),
        ("class make(torch.nn.Linear):\n  def forward(s, x, e): return s.nothing", "AttributeError"),
        ("class make(torch.nn.Linear):\n  def __init__(s, i, o): super().__init__(i, o, dtype=torch.float64)\n"
         "  def forward(s, x, e): return super().forward(x)", "must have the same dtype"),
    ],
)  # fmt: skip
def test_models_that_cannot_train(code, words, tmp_path, monkeypatch):
    name = f"own_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(f"import torch\n{code}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=words):
        built(model=f"{name}:make", data="planted:200")


def test_lazy_layers_learn_their_widths_before_training(tmp_path, monkeypatch):
    (tmp_path / "own_lazy.py").write_text(
        "from torch_geometric.nn import GraphSAGE\ndef make(i, o): return GraphSAGE(-1, 8, 2, o)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    _, run = built(model="own_lazy:make")
    assert all(p.numel() > 0 for p in run.model.parameters())
