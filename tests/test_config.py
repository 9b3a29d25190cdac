from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from graphscale import catalog
from graphscale.config import TrainConfig, checked, plain
from graphscale.errors import InputError
from graphscale.presets import PRESETS
from graphscale.recipes.cluster_gcn import ClusterGCNConfig
from graphscale.settings import configure, recipe_of


@pytest.mark.parametrize(
    "name", ["epochs", "seeds", "eval_every", "keep", "save_every", "lr", "patience", "threads", "clip"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_what_must_be_above_zero(name, value):
    flag = "--" + name.replace("_", "-")
    with pytest.raises(InputError, match=rf"{flag} {value}(\.0)?: it must be above 0. Change the flag"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("name", ["seed", "split", "weight_decay"])
def test_what_cannot_be_negative(name):
    assert getattr(TrainConfig(**{name: 0}), name) == 0
    with pytest.raises(InputError, match=rf"--{name.replace('_', '-')} -1(\.0)?: it cannot be negative"):
        TrainConfig(**{name: -1})


@pytest.mark.parametrize("name", ["lr", "weight_decay", "clip", "dropout", "diag_lambda"])
def test_nan_is_no_setting(name):
    with pytest.raises(InputError, match=rf"--{name.replace('_', '-')} nan"):
        ClusterGCNConfig(**{name: float("nan")})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden": 0}, "--hidden 0"),
        ({"layers": 0}, "--layers 0"),
        ({"heads": -2}, "--heads -2"),
        ({"num_parts": 0}, "--num-parts 0"),
        ({"parts_per_batch": 0}, "--parts-per-batch 0"),
        ({"dropout": 1.0}, r"--dropout 1.0: it must lie in \[0, 1\)"),
        ({"dropout": -0.1}, "--dropout -0.1"),
        ({"diag_lambda": -1.0}, "--diag-lambda -1.0"),
        ({"num_parts": 4, "parts_per_batch": 5}, "--parts-per-batch 5 exceeds --num-parts 4"),
        ({"model": "gcn", "precompute": True}, "--precompute .* belong to --model cluster_gcn; gcn runs unedited"),
        ({"model": "own:model", "residual": True}, "--residual belong to --model cluster_gcn; own:model"),
    ],
)
def test_what_cluster_gcn_refuses(values, words):
    with pytest.raises(InputError, match=words) as caught:
        ClusterGCNConfig(**values)
    assert ". " in str(caught.value)  # a fact and a next step


def test_a_full_batch_has_no_parts_to_exceed():
    assert ClusterGCNConfig(batches="full", num_parts=1, parts_per_batch=5).parts_per_batch == 5


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ClusterGCNConfig().lr = 3


def test_every_setting_is_explained():
    # tyro shows the docstring under a field as its help; one without would show nothing.
    import ast
    import inspect

    for kind in ClusterGCNConfig.__mro__[:-1]:
        body = ast.parse(inspect.getsource(kind)).body[0].body
        for field, text in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant), ast.unparse(field)


def test_plain_leaves_out_where_a_run_lies():
    values = plain(ClusterGCNConfig(out=Path("a"), config=Path("b"), json=True, overwrite=True, lr=0.5))
    assert not {"out", "config", "json", "overwrite", "profile", "resume", "nproc", "restarts"} & set(values)
    assert values["lr"] == 0.5
    assert all(value is None or type(value) in (int, float, str, bool) for value in values.values())
    assert set(values) | {"out", "config", "json", "overwrite", "profile", "resume", "nproc", "restarts"} == set(
        ClusterGCNConfig.__dataclass_fields__
    )


def test_checked_takes_dashes_and_converts():
    values = checked(ClusterGCNConfig, {"num-parts": 3, "lr": 1, "out": "a/b", "clip": 2}, "the file")
    assert values == {"num_parts": 3, "lr": 1.0, "out": Path("a/b"), "clip": 2.0}
    assert type(values["lr"]) is type(values["clip"]) is float


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"nothing": 1}, "the file sets nothing, which ClusterGCNConfig does not have"),
        ({"config": "x"}, "the file sets config"),
        ({"epochs": 2.0}, "epochs = 2.0; a whole number is needed"),
        ({"concat": "yes"}, "concat = 'yes'; true or false is needed"),
        ({"clip": "x"}, "clip = 'x'; a number is needed"),
        ({"clip": False}, "clip = False; a number is needed"),
        ({"monitor": 3}, "monitor = 3; text is needed"),
        ({"out": 3}, "out = 3; a path is needed"),
        ({"device": "tpu"}, "device = 'tpu'; 'auto' or 'cpu' or 'cuda' is needed"),
    ],
)
def test_checked_refuses(values, words):
    with pytest.raises(InputError, match=words):
        checked(ClusterGCNConfig, values, "the file")


def test_checked_sees_through_an_optional_choice():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(TrainConfig):
        way: Literal["a", "b"] | None = None

    assert checked(Config, {"way": "a"}, "x") == {"way": "a"}
    with pytest.raises(InputError, match="'a' or 'b' is needed"):
        checked(Config, {"way": "c"}, "x")


def test_presets_are_sound():
    for recipe, presets in PRESETS.items():
        assert recipe in catalog.RECIPES
        for known in presets:
            assert known.expected  # a preset says what it should give
            kind = recipe_of(recipe).Config
            config = kind(**checked(kind, known.settings, known.name))
            assert config.preset is None  # the command line fills that in


def test_a_stream_s_data_chooses_plain_tgn_and_pres_has_four_times_its_batch():
    known = {preset.name: preset for preset in PRESETS["pres"]}
    for data, name in (("wikipedia_edges", "wikipedia"), ("collegemsg", "collegemsg"), ("ml-100k", "ml-100k")):
        plain = configure("pres", data=data)
        assert (plain.preset, plain.model, plain.gamma, plain.beta) == (name, "tgn", "1", 0.0)
        for model, tag in (("tgn", ""), ("jodie", "-jodie"), ("apan", "-apan")):
            bare, pres = (configure("pres", preset=f"{name}{tag}{end}") for end in ("", "-pres"))
            assert bare.model == pres.model == model and bare.data == pres.data == data
            assert pres.batch_size == 4 * bare.batch_size and pres.predicts() and pres.beta > 0
            assert not bare.predicts() and (bare.epochs, bare.new) == (pres.epochs, pres.new)
    assert all("3 seeds" in preset.expected for preset in known.values())  # no figure without how often it was taken


def test_presets_by_name_and_by_data():
    assert catalog.preset("cluster_gcn", None, "cora").name == "cora"
    assert catalog.preset("cluster_gcn", "cora", "planted:100").name == "cora"
    assert catalog.preset("cluster_gcn", "none", "cora") is None
    assert catalog.preset("cluster_gcn", None, "planted:100") is None
    with pytest.raises(InputError, match=r"cluster_gcn has no preset 'x'. It has: .*cora"):
        catalog.preset("cluster_gcn", "x", None)
