"""Where runs lie, and what they were asked."""

from __future__ import annotations

import tomllib
from datetime import datetime
from pathlib import Path

from graphscale import folder
from graphscale.config import TrainConfig, checked, plain
from graphscale.errors import InputError
from graphscale.settings import recipe_of


def place_of(recipe: str, config: TrainConfig, size: int) -> Path:
    """The folder of the run that the configuration asks for, checked but not made.

    Args:
        size: processes that train.

    Raises:
        InputError: where it is in use, or where there is nothing to resume.
    """
    if not config.resume:
        out = config.out or default_out(recipe, config.data)
        folder.demand_free(out, overwrite=config.overwrite)
        return out
    out = config.out or newest(recipe)
    known, kept = stored(out)
    if kept.nproc != size and not kept.elastic:
        raise InputError(
            f"{out} was started with {kept.nproc} processes, and these are {size}, which would deal batches out"
            f" otherwise. Resume it with --nproc {kept.nproc}."
        )
    was, now = plain(kept), plain(config)
    changed = [name for name in now if name not in config.continues() and now[name] != was.get(name)]
    if known != recipe or changed:
        what = f"recipe {known}" if known != recipe else ", ".join(f"{name} = {was.get(name)}" for name in changed)
        raise InputError(
            f"{out} was started with {what}; a resumed run must go on as it began. Leave these flags out,"
            " or start another run."
        )
    return out


def newest(recipe: str) -> Path:
    """The folder under runs/ in which a run of the recipe was started last.

    Raises:
        InputError: where there is none.
    """
    line = f'recipe = "{recipe}"'
    found = [path for path in Path("runs").glob("*/config.toml") if line in path.read_text(encoding="utf-8")]
    if not found:
        raise InputError(f"runs/ holds no run of {recipe} to resume. Give its folder with --out.")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def default_out(recipe: str, data: str) -> Path:
    """A new folder: runs/RECIPE-DATA-TIME, with a number where two start in one second."""
    stem = Path(data).stem if Path(data).is_absolute() else data.replace(":", "-").replace("/", "-")
    base = Path("runs") / f"{recipe}-{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    path, count = base, 1
    while path.exists():
        path, count = base.with_name(f"{base.name}-{count}"), count + 1
    return path


def stored(path: Path) -> tuple[str, TrainConfig]:
    """Recipe and configuration of a run's folder.

    Raises:
        InputError: where the folder holds no run.
    """
    try:
        values = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
        recipe = str(values.pop("recipe"))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} holds no run ({error}). Give the folder that graphscale train printed.") from error
    kind = recipe_of(recipe).Config
    return recipe, kind(**checked(kind, values, str(path / "config.toml")))
