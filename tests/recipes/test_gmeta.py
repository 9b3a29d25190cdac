"""The recipe of G-Meta from end to end: every method and setup, resume, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from torch_geometric.nn import GraphNorm, GraphSAGE

from graphscale import configure, evaluate, load, rng, train
from graphscale.cli import main
from graphscale.errors import InputError
from graphscale.recipes import gmeta as recipe

SMALL = {"preset": "none", "tasks": 6, "tasks_per_step": 3, "hidden": 8, "eval_tasks": 5, "shots": 2, "queries": 4,
         "inner_steps": 2, "test_steps": 3, "threads": 1, "epochs": 2, "ways": 2}  # fmt: skip


def trained(out, **values):
    return train("gmeta", configure("gmeta", **{**SMALL, "data": "syn-cycle", **values}, out=out))


@pytest.mark.parametrize("method", ["gmeta", "anil", "protonet", "maml", "finetune", "no_finetune", "knn", "tlp"])
def test_a_run_of_every_method_is_scored_again_as_it_was(method, tmp_path):
    result = trained(tmp_path / "run", method=method)
    assert 0 <= result["test"]["accuracy"] <= 1
    again = evaluate(tmp_path / "run")
    assert again["test"]["accuracy"] == result["test"]["accuracy"]
    assert again["test"]["logloss"] == result["test"]["logloss"]
    assert isinstance(load(tmp_path / "run"), torch.nn.Module)


@pytest.mark.parametrize(
    "values",
    [
        {"data": "planted-graphs:5:60", "setup": "shared"},
        {"data": "planted-graphs:5:60", "setup": "links", "test_graph": "planted-4"},
        {"data": "planted-graphs:5:60", "setup": "links", "method": "tlp"},
        {"data": "planted-graphs:5:60", "setup": "links", "method": "knn"},
        {"data": "planted-graphs:5:60", "setup": "disjoint", "scaling": "standard"},
        {"variant": "author", "self_loops": True},
        {"order": "second", "learn_rates": True, "cap": 5},
        {"model": "sage"},
        {"reach": "graph", "method": "maml"},
    ],
    ids=lambda v: " ".join(map(str, v.values())),
)
def test_setups_and_settings_train(values, tmp_path):
    if "test_graph" in values:
        from graphscale.data import collections

        values = {**values, "test_graph": collections.load(values["data"]).names[4]}
    result = trained(tmp_path / "run", **values)
    assert torch.isfinite(torch.tensor(result["test"]["logloss"]))
    if values.get("method") != "knn":  # which has no weight
        config = configure("gmeta", **{**SMALL, "data": "syn-cycle", **values})
        before = recipe.build(config, recipe.read(config), 0).model.state_dict()
        after = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["model"]
        assert before.keys() == after.keys()
        # Hidden prototypes need no head, and cancel the last bias.
        matrices = [name for name, weight in before.items() if weight.dim() == 2 and not name.startswith("head")]
        assert matrices and not any(torch.equal(before[name], after[name]) for name in matrices)


def test_learned_rates_move(tmp_path):
    trained(tmp_path / "run", learn_rates=True, lr=0.1)
    state = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["model"]
    assert not torch.allclose(state["rates.log"], torch.full_like(state["rates.log"], 0.01).log())


def test_the_first_seed_of_two_is_the_run_of_one(tmp_path):
    both = trained(tmp_path / "two", seeds=2)
    alone = trained(tmp_path / "one")
    assert both["runs"][0]["test"] == alone["test"]
    assert both["runs"][1]["test"] != alone["test"]


def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path):
    whole = trained(tmp_path / "whole", epochs=4)
    trained(tmp_path / "parts", epochs=2)
    place = str(tmp_path / "parts")
    assert main(["train", "gmeta", "--resume", "--out", place, "--epochs", "4"]) == 0
    result = json.loads((tmp_path / "parts" / "result.json").read_text())
    assert result["test"] == whole["test"]
    assert result["final"] == whole["final"]


def test_the_authors_variant_is_what_its_table_says():
    made = configure("gmeta", data="syn-cycle", preset="none", variant="author")
    assert (made.order, made.prototypes, made.space) == ("first", "stale", "logit")
    assert (made.fixed, made.resample, made.hide) == (True, False, False)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ways": 1}, "one class foretells nothing"),
        ({"inner_steps": 0}, "0 inner steps adapt nothing"),
        ({"variant": "author", "order": "second"}, "not what --variant author does"),
        ({"variant": "author", "space": "hidden"}, "not what --variant author does"),
        ({"method": "anil", "space": "hidden"}, "anil adapts the head"),
        ({"ways": 9}, "leave none of 17 to train on"),
        ({"shots": 40}, "an episode needs"),
        ({"fold": 99}, "there are folds 0.."),
        ({"setup": "links"}, "has 1"),
        ({"data": "planted-graphs:4:50", "setup": "shared", "test_graph": "none"}, "the graphs are"),
        ({"features": "own"}, "has no features"),
        ({"model": "nothing"}, "no model 'nothing'"),
        ({"reach": "graph", "model": "sage"}, "given whole subgraphs"),
        ({"precision": "bf16"}, "trains in float32"),
        ({"support_share": 1.0}, "must lie in (0, 1)"),
    ],
)
def test_what_cannot_be_trained_is_refused(values, words, tmp_path):
    with pytest.raises(InputError) as refusal:
        trained(tmp_path / "run", **values)
    assert words in str(refusal.value)
    assert not (tmp_path / "run").exists()


class Normed(torch.nn.Module):
    """A model with running statistics."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.lin, self.norm = torch.nn.Linear(inputs, outputs), torch.nn.BatchNorm1d(outputs)

    def forward(self, x, edge_index):
        return self.norm(self.lin(x))


class Idle(torch.nn.Module):
    """A model with a weight that it never uses."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.lin, self.extra = torch.nn.Linear(inputs, outputs), torch.nn.Linear(2, 2)

    def forward(self, x, edge_index):
        return self.lin(x)


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_weight_that_is_never_used_stays_as_it_is(order, tmp_path):
    trained(tmp_path / "run", model="recipes.test_gmeta:Idle", order=order)
    kept = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["model"]
    with rng.isolated(rng.derive(rng.INIT, 0)):
        drawn = Idle(1, 8)
    assert torch.equal(kept["model.extra.weight"], drawn.extra.weight)
    assert not torch.equal(kept["model.lin.weight"], drawn.lin.weight)


def test_batch_norm_is_refused(tmp_path):
    with pytest.raises(InputError, match="has BatchNorm"):
        trained(tmp_path / "run", model="recipes.test_gmeta:Normed")


class Mixing(torch.nn.Module):
    """A model with a norm over all nodes that it is given."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.lin, self.norm = torch.nn.Linear(inputs, outputs), GraphNorm(outputs)

    def forward(self, x, edge_index):
        return self.norm(self.lin(x))


def wide(inputs, outputs):
    return GraphSAGE(inputs, 4, 2, outputs + 1)


@pytest.mark.parametrize(("model", "words"), [("Mixing", "mixes graphs"), ("wide", r"\[7, 9\] for 7 nodes")])
def test_models_that_mix_subgraphs_or_have_another_width_are_refused(model, words, tmp_path):
    with pytest.raises(InputError, match=words):
        trained(tmp_path / "run", model=f"recipes.test_gmeta:{model}")


def test_sub_networks_are_refused_with_the_reason(capsys):
    assert main(["train", "gmeta", "--num-subnets", "2"]) == 2
    assert "cannot be cut into sub-networks" in capsys.readouterr().err


def test_predict_says_adapt(tmp_path, capsys):
    trained(tmp_path / "run")
    assert main(["predict", str(tmp_path / "run"), "--to", str(tmp_path / "p.parquet")]) == 2
    assert "graphscale adapt" in capsys.readouterr().err
