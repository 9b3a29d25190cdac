"""Collections of graphs from where they lie: what learning from few labels or links is given.

| name                        | holds                                                                          |
|-----------------------------|--------------------------------------------------------------------------------|
| what ``data.static`` loads  | one graph                                                                      |
| a folder of ``.npz`` files  | a graph each: ``edge_index`` and ``num_nodes``, ``x`` and ``y`` if they have   |
| a folder with ``train.csv`` | graphs beside the tables of G-Meta's authors (``data.task_folder``)            |
| a store of many graphs      | what ``graphscale prepare --graphs`` wrote, memory-mapped                      |
| ``TUDataset:NAME``          | PyG's; ``TUDataset:NAME:features`` has the classes of nodes among the features |
| ``syn-cycle``, ``syn-ba``   | G-Meta's synthetic graph; ``syn-cycle:10``, ``syn-ba:10`` are ten              |
| ``planted-graphs:G:N``      | G generated graphs of N nodes with communities and features                    |
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from graphscale import store
from graphscale.data import motifs, static, synthetic, task_folder
from graphscale.data.pyg import DATA_VARIABLE, read_tu
from graphscale.data.union import Collection, Pairs, joined
from graphscale.errors import InputError
from graphscale.graph import Graph
from graphscale.store.graphs import read_graphs

__all__ = ["Collection", "Pairs", "joined", "load"]

_LEAST_PLANTED = 20  # nodes


def load(name: str | Path, seed: int = 0, *, undirected: bool = False) -> Collection:
    """A collection by name, as above; names without a path are looked up in the folder ``GRAPHSCALE_DATA`` as well.

    Args:
        seed: of generated graphs.
        undirected: add the reverse of every edge of an ``.npz`` file or a PyG data set.

    Raises:
        InputError: where nothing of that name exists, or the graphs do not go together.
    """
    name = str(name)
    kind, *numbers = name.split(":")
    if kind in _GENERATED:
        return joined(_generated(name, kind, numbers, seed))
    if kind == "TUDataset":
        return joined(read_tu(name))
    folder = _folder(name)
    if folder is not None and store.is_store(folder):
        return read_graphs(folder)
    if folder is not None and task_folder.is_task_folder(folder):
        return task_folder.read(folder, undirected=undirected)
    if folder is not None:
        files = sorted(folder.glob("*.npz"))
        return joined((file.stem, static.read_npz(file, bare=True, undirected=undirected)) for file in files)
    graph = static.load(name, seed=seed, bare=True, undirected=undirected)
    return joined([(_short(name), graph)], notes=graph.notes)


_GENERATED = {"syn-cycle": (0, 1), "syn-ba": (0, 1), "planted-graphs": (2, 2)}  # fewest and most numbers after the name


def _generated(name: str, kind: str, numbers: list[str], seed: int) -> Iterable[tuple[str, Graph]]:
    fewest, most = _GENERATED[kind]
    plain = [number.replace("_", "") for number in numbers]
    whole = all(number.isascii() and number.isdigit() and int(number) > 0 for number in plain)
    if not whole or not fewest <= len(plain) <= most:
        raise InputError(
            f"'{name}' is no generated collection. Write syn-cycle, syn-ba, syn-cycle:GRAPHS, syn-ba:GRAPHS or"
            " planted-graphs:GRAPHS:NODES, with whole numbers."
        )
    sizes = [int(number) for number in plain]
    if kind == "planted-graphs":
        if sizes[1] < _LEAST_PLANTED:
            raise InputError(f"'{name}': {sizes[1]} nodes hold no communities. Ask for {_LEAST_PLANTED} or more.")
        return synthetic.planted_graphs(*sizes, seed=seed)
    return (motifs.cycle if kind == "syn-cycle" else motifs.barabasi_albert)(*sizes, seed=seed)


def _folder(name: str) -> Path | None:
    """The store or the folder of many graphs that a name means, if any."""
    if ":" in name or not name.strip():
        return None
    places = [Path(name), *([Path(os.environ[DATA_VARIABLE]) / name] if DATA_VARIABLE in os.environ else [])]
    return next((place for place in places if place.is_dir() and _holds_graphs(place)), None)


def _holds_graphs(place: Path) -> bool:
    if store.is_store(place) or task_folder.is_task_folder(place):
        return True
    return not (place / "graph.npz").is_file() and any(place.glob("*.npz"))


def _short(name: str) -> str:
    path = Path(name)
    return path.parent.name if path.name == "graph.npz" else path.name.removesuffix(".npz")
