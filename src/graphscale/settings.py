"""From what a user gives to a configuration: defaults, preset, file and values, each winning over those before it."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from graphscale import catalog
from graphscale.config import TrainConfig, checked
from graphscale.errors import InputError
from graphscale.presets import Preset


class Layers(NamedTuple):
    """What lies under the values that a user gives."""

    kind: type[TrainConfig]  # the recipe's configuration
    values: dict[str, Any]  # of the preset and the file
    notes: tuple[str, ...]  # what is to be said of them
    tables: dict[str, dict[str, Any]]  # of the file, beside its settings


def recipe_of(name: str) -> Any:
    """The module of a recipe.

    Raises:
        InputError: on an unknown name.
    """
    if name not in catalog.RECIPES:
        raise InputError(f"no recipe '{name}'. There are: {', '.join(catalog.RECIPES)} (graphscale list).")
    return importlib.import_module(f"graphscale.recipes.{name}")


TABLES = ("search", "study")  # of a file for ``graphscale tune``


def layers(
    recipe: str,
    *,
    data: str | None = None,
    preset: str | None = None,
    config: Path | None = None,
    tables: tuple[str, ...] = (),
) -> Layers:
    """The preset and the file that the given data, preset and file choose.

    Args:
        tables: those of ``TABLES`` that the file may have beside its settings.

    Raises:
        InputError: on an unknown preset, or a file that is missing, damaged or sets what does not exist.
    """
    kind: type[TrainConfig] = recipe_of(recipe).Config
    from_file, beside = ({}, {}) if config is None else _from_file(recipe, kind, config, tables)
    chosen = catalog.preset(
        recipe, preset or from_file.get("preset"), data or from_file.get("data") or default(kind, "data")
    )
    if chosen is None:
        return Layers(kind, from_file, (), beside)
    said = f"preset {chosen.name} (unchanged: {chosen.expected}); flags win over it, --preset none leaves it out"
    return Layers(kind, {**_settings(kind, chosen), **from_file}, (said,), beside)


def configure(recipe: str, **values: Any) -> TrainConfig:
    """The configuration that ``graphscale train RECIPE`` makes of the same flags, presets included.

    Args:
        recipe: such as ``cluster_gcn``.
        values: settings by the names of its configuration: ``data="cora"``, ``preset=...``, ``config=file``, ...

    Raises:
        InputError: on a name that is no setting, a value that does not fit, or what ``layers`` refuses.

    Example:
        >>> configure("cluster_gcn", data="cora", epochs=3).num_parts  # of the preset for Cora
        10
    """
    kind: type[TrainConfig] = recipe_of(recipe).Config
    file = values.pop("config", None)
    given = checked(kind, values, "configure")
    below = layers(
        recipe,
        data=given.get("data"),
        preset=given.get("preset"),
        config=None if file is None else Path(file),
    )
    return kind(**{**below.values, **given})


def demand_applied(recipe: str, config: TrainConfig) -> None:
    """Refuse a configuration of another recipe, and one that names a preset or a file without their settings.

    Raises:
        InputError: where ``configure`` was meant.
    """
    if not isinstance(config, recipe_of(recipe).Config):
        raise InputError(
            f"{type(config).__name__} is no configuration of {recipe}. Make one: graphscale.configure('{recipe}', ...)."
        )
    advice = f"Write graphscale.configure('{recipe}', ...) with the same values."
    if config.config is not None:
        raise InputError(f"config={config.config} was not read: {type(config).__name__} only holds values. {advice}")
    chosen = catalog.preset(recipe, config.preset, None) if config.preset is not None else None
    if chosen is None:
        return
    kind = type(config)
    special = [name for name, value in chosen.settings.items() if value != default(kind, name)]
    if special and all(getattr(config, name) == default(kind, name) for name in special):
        raise InputError(
            f"preset={chosen.name} was not applied: {type(config).__name__} only holds values, and these are the"
            f" defaults. {advice}"
        )


def default(kind: type[TrainConfig], name: str) -> Any:
    """The value of a setting that nobody sets."""
    return next(f.default for f in fields(kind) if f.name == name)


def _settings(kind: type[TrainConfig], chosen: Preset) -> dict[str, Any]:
    settings: Mapping[str, Any] = {"data": chosen.data, "preset": chosen.name, **chosen.settings}
    return checked(kind, settings, f"preset {chosen.name}")


def _from_file(
    recipe: str, kind: type[TrainConfig], path: Path, tables: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(settings, tables) of a file."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} cannot be read ({error}). Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"--config {path} is not TOML: {error}. Write a line a setting: epochs = 50.") from error
    meant = values.pop("recipe", recipe)
    if meant != recipe:
        raise InputError(f"--config {path} is for recipe {meant}, not {recipe}. Use graphscale train {meant}.")
    beside = {name: values.pop(name) for name in TABLES if isinstance(values.get(name), dict)}
    if beside.keys() - set(tables):
        raise InputError(
            f"--config {path} has a table [{min(beside)}], which is for graphscale tune {recipe}. Leave it out, or give"
            " the best.toml of a search, which has none."
        )
    return checked(kind, values, f"--config {path}"), beside
