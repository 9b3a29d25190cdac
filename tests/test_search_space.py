from __future__ import annotations

import re
from dataclasses import fields
from types import SimpleNamespace

import pytest

from graphscale import catalog
from graphscale.errors import InputError
from graphscale.recipes.cluster_gcn import ClusterGCNConfig
from graphscale.recipes.pres import PRESConfig
from graphscale.search_space import Choice, Range, demand_accepted, entries, parse, texts
from graphscale.settings import recipe_of
from graphscale.study_config import StudyConfig

SOUND = {
    "lr=1e-4..1e-1:log": Range(1e-4, 1e-1, log=True),
    "dropout=0..0.8": Range(0.0, 0.8),
    "dropout=0..0.8:0.2": Range(0.0, 0.8, step=0.2),  # 0.8 is no multiple of 0.2 in binary
    "clip=.5...75": Range(0.5, 0.75),
    "layers=2..5": Range(2, 5, whole=True),
    "hidden=64..512:64": Range(64, 512, step=64, whole=True),
    "num-parts=10..1e3:log": Range(10, 1000, log=True, whole=True),
    "hidden=64,128, 256": Choice((64, 128, 256)),
    "lr=1,0.1": Choice((1.0, 0.1)),
    "clip=none,1,5": Choice((None, 1.0, 5.0)),
    "concat=true,false": Choice((True, False)),
    "norm=row,diag": Choice(("row", "diag")),
    "model=gcn,../mine:Net": Choice(("gcn", "../mine:Net")),
    "fanout=10,5|10,10,5": Choice(("10,5", "10,10,5")),
    "decays=none|convs=0.01,lin=0": Choice((None, "convs=0.01,lin=0")),
}


@pytest.mark.parametrize(("flag", "space"), SOUND.items(), ids=SOUND)
def test_what_flags_mean(flag, space):
    (name,) = (made := parse(ClusterGCNConfig, entries([flag])))
    assert name == flag.partition("=")[0].replace("-", "_")
    assert made[name] == space
    if isinstance(space, Choice):
        assert [type(a) for a in made[name].values] == [type(b) for b in space.values]
    assert parse(ClusterGCNConfig, texts(made)) == made  # what is written down means the same


def test_lists_of_a_file_or_of_python():
    given = {"hidden": [64, 128], "lr": [1, 0.1], "clip": ["none", 2], "fanout": ("5,5", "10"), "dropout": "0..0.5"}
    made = parse(ClusterGCNConfig, given)
    assert list(made) == sorted(given)  # in one order, whatever it was given in
    assert made["lr"] == Choice((1.0, 0.1))
    assert made["clip"] == Choice((None, 2.0))
    assert made["fanout"] == Choice(("5,5", "10"))
    assert parse(ClusterGCNConfig, texts(made)) == made


UNSOUND = {
    "lr": "a setting and its values are needed. Write --search lr=1e-4..1e-1:log",
    "lr=": "a setting and its values are needed",
    "=1,2": "a setting and its values are needed",
    "learning_rate=1,2": "learning_rate, which ClusterGCNConfig does not have. Its settings are: .*lr",
    "learning_rate=0..1": "learning_rate, which ClusterGCNConfig does not have",
    "lr=0.1..0.01": "the range is empty. Write the lower end first",
    "lr=0.1..0.1": "the range is empty",
    "lr=0..0.1:log": "a logarithm needs a range above 0",
    "lr=0.1..b": "that is no range. Write 1e-4",
    "lr=0.1..": "that is no range",
    "lr=0.1..0.2..0.3": "that is no range",
    "lr=0.1..0.2:lin": "that is no range",
    "lr=0.1..inf": "a range has finite ends",
    "lr=nan..1": "a range has finite ends",
    "dropout=0..0.5:0.2": "steps of 0.2 from 0 do not end at 0.5",
    "dropout=0..0.5:0": "steps of 0 from 0 do not end",
    "layers=1.5..4": "whole numbers are needed",
    "layers=2..4:0.5": "whole numbers are needed",
    "layers=2,few": "sets layers = 'few'; a whole number is needed",
    "layers=2,2.5": "sets layers = '2.5'; a whole number is needed",
    "concat=true,1": "sets concat = '1'; true or false is needed",
    "norm=row,rows": "sets norm = 'rows'; 'row' or .* is needed",
    "lr=none,0.1": "sets lr = 'none'; a number is needed",
    "hidden=64": "different values, two or more",
    "hidden=64,64": "different values, two or more",
    "model=a..b": "takes no range of numbers. List the values",
    "seed=1,2,3": "the best of several seeds is luck",
    "seeds=1,2": "the best of several seeds is luck",
    "data=digits,cora": "--data decides what is scored",
    "monitor=accuracy,f1_macro": "--monitor decides what is scored",
    "setting=inductive,transductive": "--setting decides what is scored",
    "device=cpu,cuda": "--device is not part of what is learned",
    "save_every=1,2": "--save-every is not part of what is learned",
    "out=a,b": "--out is not part of what is learned",
    "preset=a,b": "--preset is not part of what is learned",
}


@pytest.mark.parametrize(("flag", "words"), UNSOUND.items(), ids=UNSOUND)
def test_what_is_refused(flag, words):
    with pytest.raises(InputError, match=re.escape(words).replace(r"\.\*", ".*")):
        parse(ClusterGCNConfig, entries([flag]))


@pytest.mark.parametrize("values", [3, 0.5, True, None, {"low": 1}, [[1], [2]], [1, "two"]])
def test_what_a_file_cannot_say(values):
    with pytest.raises(InputError, match="--search"):
        parse(ClusterGCNConfig, {"layers": values})


def test_nothing_and_twice():
    with pytest.raises(InputError, match="there is nothing to search. Give --search"):
        parse(ClusterGCNConfig, {})
    with pytest.raises(InputError, match="--search has num_parts twice"):
        entries(["num_parts=1,2", "num-parts=3,4"])


def test_settings_of_other_recipes_are_refused_with_the_recipe_s_reason():
    with pytest.raises(InputError, match="gas cannot be cut into sub-networks"):
        parse(recipe_of("gas").Config, {"num_subnets": "2,4"})


@pytest.mark.parametrize("name", ["task", "negatives", "ranked", "eval_batch", "val", "new"])
def test_how_a_stream_is_scored_is_not_searched(name):
    with pytest.raises(InputError, match="decides what is scored"):
        parse(PRESConfig, {name: "1,2"})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dropout": "0..1"}, "--search draws dropout = 1.0, which is refused: --dropout 1.0: it must lie in"),
        ({"lr": "0..1"}, "draws lr = 0.0, .*must be above 0"),
        ({"layers": [2, -1]}, "draws layers = -1, .*must be above 0"),
        ({"model": "cluster_gcn,gcn"}, "draws model = gcn, .*--precompute and --residual belong"),  # the base has it
    ],
)
def test_a_value_that_is_refused_whatever_the_others_are(given, words):
    config = ClusterGCNConfig(residual=True)
    with pytest.raises(InputError, match=words):
        demand_accepted(config, parse(ClusterGCNConfig, {**given, "epochs": "3,4"}))


def test_a_value_that_only_some_others_refuse_is_searched():
    space = parse(ClusterGCNConfig, {"model": "cluster_gcn,gcn", "residual": "true,false", "input_dropout": "0,0.5"})
    demand_accepted(ClusterGCNConfig(), space)
    # Neither goes with the configuration's own value of the other: --cut window wants a --window, and the reverse.
    demand_accepted(PRESConfig(), parse(PRESConfig, {"cut": "count,window", "window": "0,10,100"}))
    with pytest.raises(InputError, match="Give both, or neither"):
        demand_accepted(PRESConfig(), parse(PRESConfig, {"cut": "count,window", "lr": "1e-3,1e-2"}))


@pytest.mark.parametrize("recipe", [recipe for recipe in catalog.RECIPES if hasattr(recipe_of(recipe), "SEARCH")])
def test_the_usual_space_of_a_recipe_is_sound(recipe):
    module = recipe_of(recipe)
    demand_accepted(module.Config(), parse(module.Config, module.SEARCH))


@pytest.mark.parametrize("recipe", catalog.RECIPES)
def test_flags_of_searches_and_recipes_do_not_meet(recipe):
    own = {field.name for field in fields(StudyConfig)} | {"search"}
    assert not own & {field.name for field in fields(recipe_of(recipe).Config)}


def test_optuna_draws_what_is_meant():
    asked = []
    trial = SimpleNamespace(
        suggest_int=lambda *a, **k: asked.append(("int", a, k)),
        suggest_float=lambda *a, **k: asked.append(("float", a, k)),
        suggest_categorical=lambda *a, **k: asked.append(("categorical", a, k)),
    )
    for flag in ("hidden=64..512:64", "layers=2..5", "lr=1e-4..0.1:log", "dropout=0..0.8:0.2", "norm=row,diag"):
        for name, values in parse(ClusterGCNConfig, entries([flag])).items():
            values.suggest(trial, name)
    assert asked == [
        ("int", ("hidden", 64, 512), {"log": False, "step": 64}),
        ("int", ("layers", 2, 5), {"log": False, "step": 1}),
        ("float", ("lr", 1e-4, 0.1), {"log": True, "step": None}),
        ("float", ("dropout", 0.0, 0.8), {"log": False, "step": 0.2}),
        ("categorical", ("norm", ("row", "diag")), {}),
    ]
