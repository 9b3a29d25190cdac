"""PyG's and OGB's data sets, and PyG's ``Data`` to and from a graph.

The sets are read by their own code, which may unpickle what it downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphscale.csr import Csr, from_entries
from graphscale.data.masks import all_of, chosen
from graphscale.errors import InputError, first_sentence
from graphscale.graph import SPLITS, Graph, from_edges

DATA_VARIABLE = "GRAPHSCALE_DATA"  # names a folder of data sets, and where PyG's are kept


def read_pyg(name: str, *, split: int = 0, undirected: bool = False, splits: Sequence[str] = SPLITS) -> Graph:
    """A PyG data set, ``Class:Name`` or ``Class``, downloaded by PyG where it is not yet there."""
    return from_pyg(data_of(name), name=name, split=split, undirected=undirected, splits=splits)


def splits(name: str) -> dict[str, Tensor] | None:
    """Masks [N, S] of every split of a PyG data set; None where there is one only."""
    data = data_of(name)
    masks = {split: data.get(f"{split}_mask") for split in SPLITS}
    return None if any(mask is None for mask in masks.values()) else all_of(masks)


def data_of(name: str) -> Any:
    """The first graph of a PyG data set.

    Raises:
        InputError: where PyG cannot give it.
    """
    return set_of(name)[0]


def set_of(name: str, **options: Any) -> Any:
    """A PyG data set, ``Class:Name`` or ``Class``, made with more options.

    Raises:
        InputError: where PyG cannot give it.
    """
    from torch_geometric import datasets  # seconds to import, so only when asked for

    kind, _, rest = name.partition(":")
    if not hasattr(datasets, kind):
        raise InputError(
            f"PyG has no data set class '{kind}'. See torch_geometric.datasets for the names; write Planetoid:Cora."
        )
    root = Path(os.environ.get(DATA_VARIABLE, Path.home() / ".cache" / "graphscale")) / "pyg" / kind
    try:
        return getattr(datasets, kind)(str(root), *([rest] if rest else []), **options)
    except Exception as error:
        raise InputError(
            f"PyG could not give {name}: {first_sentence(error)}. Is there a network, and does {kind} take a name?"
            f" It looks in {root}."
        ) from error


def read_tu(name: str) -> Iterator[tuple[str, Graph]]:
    """The graphs of a TUDataset, ``TUDataset:NAME``; of ``TUDataset:NAME:features`` nodes have no classes.

    PyG puts a node's class among its features. Here ``x`` is the attributes and ``y`` the class; with ``features``,
    for links among nodes, ``x`` is both, the class one-hot, and ``y`` is -1.

    Raises:
        InputError: where PyG cannot give it.
    """
    kind, _, rest = name.partition(":")
    rest, _, ending = rest.partition(":")
    if not rest or ending not in ("", "features"):
        raise InputError(f"'{name}' names no TUDataset. Write TUDataset:NAME, or TUDataset:NAME:features.")
    found = set_of(f"{kind}:{rest}", use_node_attr=True)
    classes = found.num_node_labels if ending == "" else 0
    for number, data in enumerate(found):
        x, y = data.x, torch.full((int(data.num_nodes),), -1)
        if classes:
            x, y = x[:, :-classes], x[:, -classes:].argmax(1)
        yield f"{rest}-{number}", from_edges(data.edge_index, int(data.num_nodes), x=x, y=y, masks={}, name=name)


def read_ogb(name: str, *, undirected: bool = False) -> Graph:
    """An OGB node data set, ``ogb:ogbn-arxiv``, where the package ogb is installed; its official split.

    Raises:
        InputError: where ogb is not installed or cannot give the data set.
    """
    try:
        from ogb.nodeproppred import PygNodePropPredDataset
    except ImportError as error:
        raise InputError(f"{name} needs the package ogb. Install it: pip install ogb.") from error
    root = Path(os.environ.get(DATA_VARIABLE, Path.home() / ".cache" / "graphscale")) / "ogb"
    try:
        found: Any = PygNodePropPredDataset(name.removeprefix("ogb:"), root=str(root))
        data, split = found[0], found.get_idx_split()
    except Exception as error:
        raise InputError(f"OGB could not give {name}: {first_sentence(error)}. It looks in {root}.") from error
    for ours, theirs in (("train", "train"), ("val", "valid"), ("test", "test")):
        mask = torch.zeros(int(data.num_nodes), dtype=torch.bool)
        mask[split[theirs]] = True
        data[f"{ours}_mask"] = mask
    return from_pyg(data, name=name, undirected=undirected)


def from_pyg(
    data: Any,
    *,
    name: str = "the graph",
    split: int = 0,
    undirected: bool = False,
    splits: Sequence[str] = SPLITS,
) -> Graph:
    """A graph from a ``torch_geometric.data.Data`` with labels and masks.

    Args:
        splits: whose masks are needed and taken; where there are none, labels are not needed either.

    Raises:
        InputError: on a heterogeneous graph, or where labels or masks are missing.
    """
    if hasattr(data, "node_types") or hasattr(data, "edge_index_dict"):
        raise InputError(
            f"{name} is heterogeneous; clusters, histories and sub-networks are defined here for one node type."
            " Convert it with data.to_homogeneous() and keep the types as features."
        )
    labels = ("y",) if splits else ()
    missing = [key for key in ("edge_index", *labels, *(f"{s}_mask" for s in splits)) if data.get(key) is None]
    if missing:
        raise InputError(
            f"{name} lacks {', '.join(missing)}. Add them (torch_geometric.transforms.RandomNodeSplit makes masks)."
        )
    x = data.x
    if x is not None and x.layout != torch.strided:
        entries = x.to_sparse_coo().coalesce()
        row, col = entries.indices()
        x, _ = from_entries(row, col, (x.shape[0], x.shape[1]), entries.values().float())
    attr, weight = data.get("edge_attr"), data.get("edge_weight")
    y = data.y if data.get("y") is not None else torch.full((int(data.num_nodes),), -1)
    y = y.float() if y.dim() == 2 and y.shape[1] > 1 else y
    return from_edges(
        data.edge_index,
        # Without features PyG would guess the number from the edges and lose isolated nodes.
        int(data.num_nodes) if x is not None or "num_nodes" in data else y.shape[0],
        x=x.float() if isinstance(x, Tensor) else x,
        y=y,
        masks=chosen({s: data[f"{s}_mask"] for s in splits}, split, name),
        weight=None if weight is None else weight.float(),
        edge_attr=None if attr is None else attr.float(),
        undirected=undirected,
        name=name,
    )


def to_pyg(graph: Graph) -> Any:
    """The graph as a ``torch_geometric.data.Data``: the reverse of ``from_pyg``, in the graph's order of nodes."""
    from torch_geometric.data import Data

    values = {
        "x": graph.x.dense() if isinstance(graph.x, Csr) else graph.x,
        "edge_index": torch.stack([graph.adj.indices.long(), graph.adj.row_of.long()]),
        "edge_weight": graph.adj.values,
        "edge_attr": graph.edge_attr,
        "y": graph.y,
        **{f"{split}_mask": mask for split, mask in graph.masks.items()},
    }
    kept = {name: value for name, value in values.items() if value is not None}
    return Data(num_nodes=graph.num_nodes, **kept)
