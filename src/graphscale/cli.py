"""The command line. Help and listings import neither torch nor PyG.

Exit codes: 0 done, 2 wrong usage or input, 1 anything else, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from graphscale import __version__, catalog
from graphscale.config import HOUSEKEEPING, Device, TrainConfig, checked, plain
from graphscale.errors import InputError

PROGRAM = "graphscale"


def list_names() -> int:
    """List recipes, data sets, models and presets, a line each."""
    width = 20
    for title, entries in (("recipes", catalog.RECIPES), ("data", catalog.DATA), ("models", catalog.MODELS)):
        print(title)
        for name, line in entries.items():
            print(f"  {name:{width}} {line}")
    print("presets")
    for recipe, presets in catalog.PRESETS.items():
        for known in presets:
            print(f"  {recipe + ' ' + known.name:{width}} --data {known.data}; expected: {known.expected}")
    return 0


def train(recipe: Annotated[str, tyro.conf.Positional], /) -> int:
    """Train a recipe: graphscale train RECIPE --data D ... (graphscale train RECIPE --help has all settings)."""
    raise InputError(f"no recipe '{recipe}'. There are: {', '.join(catalog.RECIPES)}.")


def show(recipe: Annotated[str, tyro.conf.Positional], /) -> int:
    """Show what a recipe would do with the same flags as train: settings and composition."""
    return train(recipe)


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    data: str | None = None,
    device: Device | None = None,
    json: bool = False,
) -> int:
    """Score a run's best checkpoint exactly.

    Args:
        run: folder of the run.
        data: other data with the same features; by default the run's own.
        device: where to compute; by default as in training.
        json: print the scores as one JSON object.
    """
    from rich.console import Console as Rich

    from graphscale import console, folder, session

    result = session.evaluate(run, data=data, device=device)
    if json:
        print(folder.dumps(result))
    else:
        Rich().print(console.scores_table(result))
    return 0


def _train(recipe: str, config: TrainConfig, notes: list[str]) -> int:
    from graphscale import console, folder, session

    screen = console.Console()
    for note in notes:
        screen.say(note)
    screen.say(_composition(recipe, config))
    result = session.train(recipe, config, console=screen)
    if config.json:
        print(folder.dumps(result), flush=True)
    return 0


def _show(recipe: str, config: TrainConfig, notes: list[str]) -> int:
    for note in notes:
        print(f"# {note}")
    for name, value in plain(config).items():
        print(f"{name} = {value}")
    print(_composition(recipe, config))
    return 0


def _composition(recipe: str, config: Any) -> str:
    return f"{recipe} = {config.composition()}"


def resolve(recipe: str, argv: Sequence[str], program: str) -> tuple[TrainConfig, list[str]]:
    """The configuration from defaults, preset, file and flags, each winning over those before it.

    Raises:
        InputError: on an unknown preset, or a file that is missing, damaged or sets what does not exist.
    """
    kind = importlib.import_module(f"graphscale.recipes.{recipe}").Config
    # tyro takes its defaults before it reads a flag, so the flags that choose defaults are read first.
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--data", "--preset", "--config"):
        early.add_argument(flag)
    seen, _ = early.parse_known_args([a for a in argv if a not in ("-h", "--help")])
    from_file = _from_file(recipe, kind, seen.config)
    data = seen.data or from_file.get("data") or kind.data
    chosen = catalog.preset(recipe, seen.preset or from_file.get("preset"), data)
    values: dict[str, Any] = {}
    notes = []
    if chosen is not None:
        values |= {"data": chosen.data, "preset": chosen.name, **chosen.settings}
        notes.append(f"preset {chosen.name} ({chosen.expected}); flags win over it, --preset none leaves it out")
    values |= from_file
    default = kind(**checked(kind, values, "the preset"))
    config: TrainConfig = tyro.cli(kind, args=list(argv), default=default, prog=f"{program} {recipe}")
    return config, notes


def _from_file(recipe: str, kind: type[TrainConfig], path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} cannot be read ({error}). Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"--config {path} is not TOML: {error}. Write a line a setting: epochs = 50.") from error
    meant = values.pop("recipe", recipe)
    if meant != recipe:
        raise InputError(f"--config {path} is for recipe {meant}, not {recipe}. Use graphscale train {meant}.")
    named = checked(kind, values, f"--config {path}")
    defaults = {f.name: f.default for f in fields(kind)}
    for name, value in named.items():
        _demand_type(name, value, defaults[name], path)
    return {name: value for name, value in named.items() if name not in HOUSEKEEPING}


def _demand_type(name: str, value: Any, default: Any, path: str) -> None:
    """A value of a file has the type of the setting's default, where it has one."""
    if default is None or isinstance(default, Path):
        return
    number = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
    if type(value) is not type(default) and not number:
        raise InputError(
            f"--config {path} sets {name} = {value!r}; a {type(default).__name__} such as {default!r} is needed."
        )


def _dispatch(argv: Sequence[str]) -> int:
    if argv[:1] == ["--version"]:
        print(__version__)
        return 0
    if len(argv) > 1 and argv[0] in ("train", "show") and argv[1] in catalog.RECIPES:
        config, notes = resolve(argv[1], argv[2:], f"{PROGRAM} {argv[0]}")
        return (_train if argv[0] == "train" else _show)(argv[1], config, notes)
    commands: dict[str, Callable[..., int]] = {
        "list": list_names,
        "show": show,
        "train": train,
        "evaluate": evaluate,
    }
    code: int = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog=PROGRAM,
        description="Train graph networks past the limits of the machine.",
        args=list(argv),
    )
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was trained is saved in the run's folder", file=sys.stderr)
        return 130
