"""Collections of graphs from where they lie: what learning from few labels or links is given.

| name                          | holds                                                                        |
|-------------------------------|------------------------------------------------------------------------------|
| what ``data.static`` loads    | one graph                                                                    |
| a folder of ``.npz`` files    | a graph each, ``edge_index`` and ``num_nodes``; ``x`` and ``y`` if they have |
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from graphscale import store
from graphscale.data import static
from graphscale.data.pyg import DATA_VARIABLE
from graphscale.data.union import Collection, Pairs, joined
from graphscale.graph import Graph

__all__ = ["Collection", "Pairs", "joined", "load"]


def load(name: str | Path, *, seed: int = 0) -> Collection:
    """A collection by name, as above; names without a path are looked up in the folder ``GRAPHSCALE_DATA`` as well.

    Args:
        seed: of generated graphs.

    Raises:
        InputError: where nothing of that name exists, or the graphs do not go together.
    """
    name = str(name)
    folder = _folder(name)
    if folder is not None:
        return joined(_npz_graphs(folder))
    graph = static.load(name, seed=seed, bare=True)
    return joined([(_short(name), graph)], notes=graph.notes)


def _folder(name: str) -> Path | None:
    """The folder of ``.npz`` files that a name means, if any."""
    if ":" in name or not name.strip():
        return None
    places = [Path(name), *([Path(os.environ[DATA_VARIABLE]) / name] if DATA_VARIABLE in os.environ else [])]
    there = (p for p in places if p.is_dir() and not store.is_store(p) and not (p / "graph.npz").is_file())
    return next((p for p in there if any(p.glob("*.npz"))), None)


def _npz_graphs(folder: Path) -> Iterator[tuple[str, Graph]]:
    for file in sorted(folder.glob("*.npz")):
        yield file.stem, static.read_npz(file, bare=True)


def _short(name: str) -> str:
    path = Path(name)
    return path.parent.name if path.name == "graph.npz" else path.name.removesuffix(".npz")
