"""The recipe gas, from its command to its scores."""

from __future__ import annotations

import json

import pytest
import torch

from graphscale import InputError, configure, session
from graphscale.loop import commit, fetch
from graphscale.recipes import gas
from graphscale.recipes.gas import GASConfig

SETTINGS = {"data": "planted:300", "num_parts": 6, "parts_per_batch": 2, "hidden": 8, "layers": 3, "dropout": 0.3}


def trained(out, **settings):
    return session.train("gas", configure("gas", **{**SETTINGS, "out": out, "overwrite": True, **settings}))


def story(out):
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(line["epoch"], line["loss"], line["scores"], line["measures"]) for line in lines]


def test_it_learns_and_its_scores_are_the_full_batchs(tmp_path):
    result = trained(tmp_path / "run", epochs=20, lr=0.02, dropout=0.0)
    assert result["test"]["accuracy"] > 0.8
    again = session.evaluate(tmp_path / "run")
    assert again["test"] == pytest.approx(result["test"])


@pytest.mark.parametrize("model", ["gcn", "gat", "pna"])
def test_tables_on_disk_are_tables_in_memory(tmp_path, model):
    for where in ("ram", "disk"):
        trained(tmp_path / where, epochs=3, histories=where, model=model)
    assert story(tmp_path / "ram") == story(tmp_path / "disk")


@pytest.mark.parametrize("where", ["ram", "disk", "device"])
def test_a_resumed_run_has_its_histories(tmp_path, where):
    trained(tmp_path / "whole", epochs=5, histories=where)
    trained(tmp_path / "cut", epochs=3, histories=where)
    config = configure("gas", **{**SETTINGS, "out": tmp_path / "cut", "epochs": 5, "histories": where, "resume": True})
    session.train("gas", config)
    assert story(tmp_path / "whole") == story(tmp_path / "cut")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_histories_of_half_the_bytes(tmp_path, dtype):
    result = trained(tmp_path / "run", epochs=20, lr=0.02, dropout=0.0, history_dtype=dtype)
    assert result["test"]["accuracy"] > 0.8


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_staleness_is_measured_and_refreshing_ends_it(tmp_path):
    settings = {"epochs": 4, "lr": 0.05, "layers": 4, "dropout": 0.0}
    result = trained(tmp_path / "never", **settings)
    for line in lines(tmp_path / "never"):
        assert set(line["measures"]) == {"history_age", "history_error/1", "history_error/2", "history_error/3"}
    # 3 steps an epoch of 2 clusters of 6: a row that is read is from the epoch before, or from a step of this one.
    assert 1 < lines(tmp_path / "never")[-1]["measures"]["history_age"] < 5
    assert result["histories"] == lines(tmp_path / "never")[-1]["measures"]
    assert result["histories"]["history_error/2"] > 1e-3
    trained(tmp_path / "epoch", refresh="epoch", **settings)
    refreshed = lines(tmp_path / "epoch")[-1]["measures"]
    assert 0 < refreshed["history_age"] < lines(tmp_path / "never")[-1]["measures"]["history_age"]
    assert (
        story(tmp_path / "never")[0][:3] == story(tmp_path / "epoch")[0][:3]
    )  # the first epoch had nothing to refresh
    assert story(tmp_path / "never")[1][1] != story(tmp_path / "epoch")[1][1]


def test_refreshed_histories_are_exact():
    config = configure("gas", **{**SETTINGS, "refresh": "epoch", "layers": 4})
    run = gas.build(config, gas.read(config), 0)
    table = run.tables["history"]
    assert run.ends(True)["history_error/1"] == pytest.approx(1.0)  # zeros
    assert max(v for k, v in run.ends(True).items() if "error" in k) < 1e-6
    before = table.rows.clone()
    run.model.eval()
    for batch in run.batches.epoch(0):
        slot = run.sync.slots()[0]
        outcome = slot.objective({**slot.params(), **fetch(run.tables, batch.needs)}, batch)
        commit(run.tables, outcome.writes)
    torch.testing.assert_close(table.rows, before, rtol=1e-4, atol=1e-5)


def test_scoring_writes_no_history():
    config = configure("gas", **SETTINGS)
    run = gas.build(config, gas.read(config), 0)
    run.tables["history"].write(torch.arange(300), torch.randn(300, run.tables["history"].dim))
    before = run.tables["history"].rows.clone()
    run.ends(True)
    run.evaluate()
    assert torch.equal(run.tables["history"].rows, before)


def test_scores_with_and_without_the_shared_pass_agree(tmp_path):
    shared = trained(tmp_path / "shared", epochs=3)
    alone = trained(tmp_path / "alone", epochs=3, staleness=0)
    assert "histories" in shared and set(alone["histories"]) == {"history_age"}
    assert shared["test"] == pytest.approx(alone["test"])


@pytest.mark.parametrize(
    ("settings", "place"),
    [({"compensation": "lmc"}, "disk"), ({"compensation": "lmc", "beta": 1.0, "score": "sine"}, "device")],
)
@pytest.mark.parametrize("model", ["gcn", "sage", "appnp", "gcnii"])
def test_compensated_training(tmp_path, model, settings, place):
    result = trained(tmp_path / "run", epochs=20, lr=0.02, dropout=0.0, model=model, **settings)
    assert result["test"]["accuracy"] > 0.6
    trained(tmp_path / "cut", epochs=12, lr=0.02, dropout=0.0, model=model, histories=place, **settings)
    again = {"epochs": 20, "lr": 0.02, "dropout": 0.0, "model": model, "histories": place, "resume": True, **settings}
    session.train("gas", configure("gas", **{**SETTINGS, "out": tmp_path / "cut", **again}))
    assert story(tmp_path / "run") == story(tmp_path / "cut")


def test_one_layer_has_no_gradient_to_compensate(tmp_path):
    result = trained(tmp_path / "run", layers=1, compensation="lmc", epochs=3, dropout=0.0)
    assert result["epochs"] == 3


def test_float16_says_that_it_ends():
    config = configure("gas", **{**SETTINGS, "history_dtype": "float16"})
    table = gas.build(config, gas.read(config), 0).tables["history"]
    with pytest.raises(InputError, match="float16, which ends at 65,504"):
        table.write(torch.arange(2), torch.full((2, table.dim), 1e6))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"compensation": "lmc", "refresh": "epoch"}, "Leave out one"),
        ({"beta": 0.7}, "are of LMC"),
        ({"score": "sine"}, "are of LMC"),
        ({"lipschitz_noise": float("inf")}, "finite"),
        ({"beta": 1.5, "compensation": "lmc"}, "between|lie in"),
        ({"decays": "convs"}, "part=number"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        GASConfig(**settings)


def test_a_part_of_a_name_that_no_parameter_has_is_refused():
    config = configure("gas", **{**SETTINGS, "decays": "conv5=0.1"})
    with pytest.raises(InputError, match="'conv5', which is in no parameter"):
        gas.build(config, gas.read(config), 0)


def test_decays_go_to_the_parameters_they_name():
    config = configure("gas", **{**SETTINGS, "weight_decay": 0.5, "decays": "convs=0.1, convs.0.lin=0", "layers": 2})
    run = gas.build(config, gas.read(config), 0)
    names = {p: name for name, p in run.model.named_parameters()}
    groups = run.sync.slots()[0].optimiser.param_groups
    decay = {names[p]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay["convs.0.lin.weight"] == 0 and decay["convs.0.bias"] == decay["convs.1.lin.weight"] == 0.1


def test_the_regulariser_shrinks_errors_of_histories(tmp_path):
    settings = {"epochs": 15, "lr": 0.02, "dropout": 0.0, "model": "gin", "layers": 3}
    plain = trained(tmp_path / "plain", **settings)["histories"]
    held = trained(tmp_path / "held", lipschitz=1.0, **settings)["histories"]
    assert held["history_error/2"] < plain["history_error/2"]


def test_the_regulariser_and_compensation_are_not_for_one_run():
    with pytest.raises(InputError, match="Leave out one"):
        GASConfig(lipschitz=1.0, compensation="lmc")


def test_the_model_of_the_house_is_refused():
    with pytest.raises(InputError, match="splices histories into PyG's layers"):
        GASConfig(model="cluster_gcn")


IN_PLACE = """
import torch
from torch_geometric.nn import GCNConv

class Net(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.first, self.second = GCNConv(inputs, 8, bias=False), GCNConv(8, outputs)
        self.act = torch.nn.ReLU(inplace=self.inplace)

    inplace = True

    def forward(self, x, edge_index):
        return self.second(self.act(self.first(x, edge_index)), edge_index)


class Aside(Net):
    inplace = False
"""


@pytest.mark.parametrize("one_pass", [True, False])
def test_layers_may_write_into_what_a_propagation_gave(monkeypatch, tmp_path, one_pass):
    """Histories are measured and refreshed by a pass that cuts the graph of gradients there."""
    if not one_pass:
        monkeypatch.setattr("graphscale.nn.exact._ONE_PASS", 0)
    (tmp_path / "writing_in_place.py").write_text(IN_PLACE)
    monkeypatch.syspath_prepend(str(tmp_path))
    for model in ("Net", "Aside"):
        trained(tmp_path / model, model=f"writing_in_place:{model}", epochs=2, refresh="epoch")
    assert story(tmp_path / "Net") == story(tmp_path / "Aside")
    trained(tmp_path / "gcnii", model="gcnii", epochs=2, refresh="epoch", accelerate=False)  # PyG's writes in place
    assert story(tmp_path / "gcnii")[-1][3]["history_error/1"] > 0


def test_histories_lie_anywhere_to_the_bit(tmp_path):
    places = ("ram", "disk", "device")
    for settings in ({}, {"refresh": "epoch"}, {"history_dtype": "float16"}, {"compensation": "lmc"}):
        stories = []
        for place in places:
            trained(tmp_path / place, epochs=3, histories=place, **settings)
            stories.append(story(tmp_path / place))
        assert stories[0] == stories[1] == stories[2]
