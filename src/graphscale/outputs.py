"""What comes out of a trained run: the module itself, its weights, its predictions."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from graphscale import folder, prediction
from graphscale.config import Device, TrainConfig, plain
from graphscale.errors import InputError
from graphscale.places import stored
from graphscale.settings import recipe_of
from graphscale.width import store


def _best(run: Path) -> tuple[str, Any, TrainConfig, dict[str, Any]]:
    """(recipe, its module, configuration, best checkpoint) of a run of one seed."""
    recipe, config = stored(run)
    if config.seeds > 1:
        raise InputError(f"{run} holds {config.seeds} runs. Give one of them, such as {run / f'seed-{config.seed}'}.")
    state = folder.best(run / "checkpoints" / "best.pt")
    return recipe, recipe_of(recipe), config, state


def load(run: str | Path, *, data: str | None = None) -> nn.Module:
    """The trained module of a run, with the weights of its best epoch, in evaluation mode.

    Args:
        run: folder of a run of one seed.
        data: where the run's own data is no longer there, data of the same features.

    Raises:
        InputError: where the run or its data cannot be used.
    """
    _, module, config, state = _best(Path(run))
    model, _, _ = module.restored(replace(config, data=data or config.data), state)
    trained: nn.Module = model.eval()
    return trained


def export(run: Path, to: Path) -> int:
    """Write the best weights as safetensors, the configuration as its metadata; returns their number.

    Raises:
        InputError: where the run cannot be used or ``to`` is in use.
    """
    recipe, module, config, state = _best(run)
    if to.exists():
        raise InputError(f"{to} is in use. Give another --to.")
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.with_name(f".{to.name}.part")
    metadata = {"recipe": recipe, "config": json.dumps(plain(config)), "epoch": str(state["epoch"])}
    found = module.weights(state) if hasattr(module, "weights") else store.weights(state)
    weights = {name: value.contiguous() for name, value in found.items()}
    save_file(weights, aside, metadata)
    with open(aside, "rb") as file:
        os.fsync(file.fileno())
    aside.replace(to)
    return sum(value.numel() for value in weights.values())


def predict(
    run: Path, to: Path, *, data: str | None = None, embeddings: bool = False, device: Device | None = None
) -> prediction.Written:
    """Write a row of predictions for every node.

    Args:
        run: folder of a run of one seed.
        to: Parquet file.
        data: other data with the same features; by default the run's own.
        embeddings: add the last hidden layer.
        device: where to compute; by default as in training.

    Raises:
        InputError: where the run or the data cannot be used, or ``to`` is in use.
    """
    _, module, config, state = _best(run)
    if to.exists():
        raise InputError(f"{to} is in use. Give another --to.")
    to.parent.mkdir(parents=True, exist_ok=True)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    config = replace(config, data=data or config.data, device=device or config.device)
    return prediction.write(to, partial(module.predicted, config, state, hidden=embeddings), embeddings=embeddings)


def adapt(
    run: Path, support: Path, query: Path | None, to: Path, *, steps: int | None = None, data: str | None = None,
    device: Device | None = None,
) -> Any:  # fmt: skip
    """Adapt a meta-learned run to a table of labelled points, and write what it foretells of another table's.

    Args:
        run: folder of a run of one seed, of a recipe that adapts.
        support, query, to: tables, in the recipe's form.
        steps: inner steps; by default the run's.
        data: other data with the same features; by default the run's own.
        device: where to compute; by default as in training.

    Raises:
        InputError: where the run or a table cannot be used, or ``to`` is in use.
    """
    recipe, module, config, state = _best(run)
    if not hasattr(module, "adapted"):
        raise InputError(f"{recipe} does not adapt: it learned the labels that it foretells. Use graphscale predict.")
    if to.exists():
        raise InputError(f"{to} is in use. Give another --to.")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    config = replace(config, data=data or config.data, device=device or config.device)
    return module.adapted(config, state, support, query, to, steps=steps)
