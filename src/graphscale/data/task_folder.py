"""The folder that G-Meta's authors read, without its pickles: graphs, and tables that name nodes or pairs of nodes.

| file                                | holds                                                                         |
|-------------------------------------|-------------------------------------------------------------------------------|
| 0.npz, 1.npz, ...                   | graph X: ``edge_index``, ``num_nodes``, ``x`` if it has                       |
| train.csv, val.csv, test.csv        | name, label: node Y of graph X is ``X_Y``                                     |
| train_spt.csv, ..., test_qry.csv    | name, label 0 or 1: the pair B, C of graph A is ``A_B_C``; support, and query |

Theirs has ``graph_dgl.pkl``, ``features.npy`` and ``label.pkl`` in place of the ``.npz`` files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphscale.data import static
from graphscale.data.link_split import without
from graphscale.data.union import Collection, Pairs, joined
from graphscale.errors import InputError
from graphscale.graph import SPLITS, Graph

_PICKLES = ("graph_dgl.pkl", "label.pkl")


def is_task_folder(path: Path) -> bool:
    """Whether a folder holds tables of nodes or pairs, or the pickles beside which they lie."""
    names = [f"{split}{part}.csv" for split in SPLITS for part in ("", "_spt", "_qry")]
    return any((path / name).is_file() for name in (*names, *_PICKLES))


def read(path: Path, *, undirected: bool = False) -> Collection:
    """The graphs, with labels and splits of nodes, or with pairs.

    Where pairs are given, edges between those that are asked, or that are said to be no link, are taken out of the
    graphs: messages along them would give the answer away (the authors' sample script leaves all of them in).

    Raises:
        InputError: where there are no graphs but a pickle, or a table does not fit them.
    """
    files = _graph_files(path)
    whole = joined((file.stem, static.read_npz(file, bare=True, undirected=undirected)) for file in files)
    place = {int(file.stem): g for g, file in enumerate(files)}
    links = {
        (split, support): _table(path / f"{split}_{part}.csv", whole.graph, place, ends=2)
        for split in SPLITS
        for part, support in (("spt", True), ("qry", False))
        if (path / f"{split}_{part}.csv").is_file()
    }
    if links:
        return _with_pairs(whole, links)
    nodes = {
        split: _table(path / f"{split}.csv", whole.graph, place, ends=1)
        for split in SPLITS
        if (path / f"{split}.csv").is_file()
    }
    return _with_labels(whole, nodes, path)


def _graph_files(path: Path) -> list[Path]:
    files = [file for file in path.glob("*.npz") if file.stem.isascii() and file.stem.isdigit()]
    pickled = [name for name in _PICKLES if (path / name).is_file()]
    if not files and pickled:
        raise InputError(
            f"{path} holds {pickled[0]}: a pickle may run any program when it is opened, so none is. Where DGL opens"
            " it, write graph X as X.npz: numpy.savez('0.npz', edge_index=numpy.stack([end.numpy() for end in"
            " graphs[0].edges()]), num_nodes=graphs[0].number_of_nodes(), x=features[0])."
        )
    if not files:
        raise InputError(f"{path} has tables but no graphs. Write graph X, of the names X_Y or X_B_C, as X.npz.")
    return sorted(files, key=lambda file: int(file.stem))


def _table(file: Path, graph: Graph, place: dict[int, int], ends: int) -> tuple[Tensor, Tensor]:
    """Rows of the union [n] or [n, 2] and labels [n] of a table."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pa_csv

    try:
        table = pa_csv.read_csv(file)
        name, label = table.column("name").cast(pa.string()), table.column("label").cast(pa.int64())
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{file} is no table with columns name and label, whole numbers ({error}). Mend it."
        ) from error
    parts = ("graph", "first", "second")[: ends + 1]
    split: Any = pc.extract_regex(name, "^" + "_".join(f"(?P<{part}>[0-9]+)" for part in parts) + "$")
    if split.null_count or label.null_count:
        raise InputError(
            f"{file} has names that are not {'X_Y' if ends == 1 else 'A_B_C'}, or rows without. Mend them."
        )
    numbers = [pc.struct_field(split, [k]).cast(pa.int64()).to_numpy() for k in range(ends + 1)]
    unknown = sorted(set(np.unique(numbers[0]).tolist()) - set(place))
    if unknown:
        raise InputError(f"{file} names graph {unknown[0]}, but there is no {unknown[0]}.npz beside it. Add it.")
    index = np.array([place.get(g, 0) for g in range(int(numbers[0].max(initial=0)) + 1)])[numbers[0]]
    start, stop = graph.part_ptr[:-1].numpy()[index], graph.part_ptr[1:].numpy()[index]
    rows = np.stack([start + number for number in numbers[1:]], 1)
    if (rows >= stop[:, None]).any():
        wrong = name[int(np.flatnonzero((rows >= stop[:, None]).any(1))[0])]
        raise InputError(f"{file} names {wrong}, and that graph has fewer nodes. Nodes are numbered from 0.")
    return torch.from_numpy(rows if ends == 2 else rows[:, 0]), torch.from_numpy(np.array(label.to_numpy()))


def _with_labels(whole: Collection, nodes: dict[str, tuple[Tensor, Tensor]], path: Path) -> Collection:
    graph = whole.graph
    y = torch.full((graph.num_nodes,), -1)
    masks = {split: torch.zeros(graph.num_nodes, dtype=torch.bool) for split in SPLITS}
    for split, (rows, label) in nodes.items():
        if bool(((y[rows] >= 0) & (y[rows] != label)).any()) or bool((label < 0).any()):
            raise InputError(
                f"{split}.csv of {path} gives a node another class than a table before it, or one below 0."
            )
        y[rows] = label
        masks[split][rows] = True
    twice = int((torch.stack(list(masks.values())).sum(0) > 1).sum())
    notes = (f"{twice:,} nodes lie in more than one of {', '.join(SPLITS)}",) if twice else ()
    classes = int(y.max()) + 1
    return replace(whole, graph=replace(graph, y=y, masks=masks, num_classes=classes, notes=graph.notes + notes))


def _with_pairs(whole: Collection, links: dict[tuple[str, bool], tuple[Tensor, Tensor]]) -> Collection:
    graph = whole.graph
    pair = torch.cat([rows for rows, _ in links.values()])
    label = torch.cat([label for _, label in links.values()])
    support = torch.cat([torch.full((len(rows),), is_support) for (_, is_support), (rows, _) in links.items()])
    if bool(((label != 0) & (label != 1)).any()) or bool((pair[:, 0] == pair[:, 1]).any()):
        raise InputError("pairs have labels other than 0 and 1, or join a node to itself. Mend the tables.")
    order = pair[:, 0].argsort(stable=True)  # by graph
    pairs = Pairs(pair[order], label[order], support[order])
    masks = {split: torch.zeros(graph.num_nodes, dtype=torch.bool) for split in SPLITS}
    for (split, _), (rows, _) in links.items():
        for a, b in _graphs_of(graph, rows):
            masks[split][a:b] = True
    adj, out = without(graph.adj, pairs.pair[~pairs.support | (pairs.label == 0)])
    notes = (f"{out:,} entries between pairs that are asked or are no links taken out of the graphs",) if out else ()
    return replace(whole, graph=replace(graph, adj=adj, masks=masks, notes=graph.notes + notes), pairs=pairs)


def _graphs_of(graph: Graph, rows: Tensor) -> Iterator[tuple[int, int]]:
    for g in (torch.searchsorted(graph.part_ptr, rows[:, 0].contiguous(), right=True) - 1).unique().tolist():
        yield int(graph.part_ptr[g]), int(graph.part_ptr[g + 1])
