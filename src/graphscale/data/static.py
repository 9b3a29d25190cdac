"""Static graphs from where they lie: built-in names, ``.npz`` files, PyG data sets.

The ``.npz`` layout: ``edge_index`` [2, E]; ``num_nodes``; ``x`` [N, F] or ``x_indptr``, ``x_indices``,
``x_data``, ``x_shape`` (sparse features); ``y`` [N] (-1 unlabelled) or [N, C]; ``train_mask``,
``val_mask``, ``test_mask`` [N] or [N, S]; optionally ``edge_weight`` [E] and ``edge_attr`` [E, D].
Nothing is unpickled.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphscale.csr import Csr, from_scipy_arrays
from graphscale.data import digits, synthetic
from graphscale.errors import InputError
from graphscale.graph import SPLITS, Graph, from_edges

DATA_VARIABLE = "GRAPHSCALE_DATA"


def load(name: str, *, split: int = 0, undirected: bool = False, seed: int = 0) -> Graph:
    """A graph by name: a folder's graph, an ``.npz`` path, ``planted[:nodes]``, ``digits``, ``Class:Name``.

    Args:
        name: ``cora`` (looked up in the folder that ``GRAPHSCALE_DATA`` names), ``path/graph.npz``,
            ``planted:100000`` (generated), ``digits`` (scikit-learn's), ``Planetoid:Cora`` (PyG's).
        split: column of masks that hold several splits.
        undirected: add the reverse of every edge.
        seed: of the generated graph.

    Raises:
        InputError: where nothing of that name exists or what exists is not a sound graph.
    """
    folder = os.environ.get(DATA_VARIABLE)
    for candidate in _candidates(name, folder):
        if candidate.is_file():
            return read_npz(candidate, split=split, undirected=undirected)
    if name.endswith(".npz"):
        raise InputError(f"no file {name}. Check the path (this folder is {Path.cwd()}).")
    if name == "digits":
        return digits.graph(split=split)
    if name.split(":")[0] == "planted":
        return synthetic.planted(_planted_size(name), seed=seed)
    if ":" in name:
        return read_pyg(name, split=split, undirected=undirected)
    where = f"the folder {folder}" if folder else f"{DATA_VARIABLE} (unset)"
    raise InputError(
        f"no data set '{name}': it is neither built in (planted, digits) nor in {where}."
        " Give a path to an .npz file, a PyG data set such as Planetoid:Cora, or set"
        f" {DATA_VARIABLE} to a folder that holds {name}/graph.npz."
    )


def _candidates(name: str, folder: str | None) -> list[Path]:
    if name.endswith(".npz"):
        return [Path(name)]
    if folder is None or ":" in name:
        return []
    return [Path(folder) / name / "graph.npz", Path(folder) / f"{name}.npz"]


def _planted_size(name: str) -> int:
    size = name.partition(":")[2].replace("_", "") or "10000"
    if not size.isdigit() or int(size) < 100:
        raise InputError(f"'{name}' asks for no number of nodes from 100. Write planted:10000.")
    return int(size)


def read_npz(path: Path, *, split: int = 0, undirected: bool = False) -> Graph:
    """A graph from an ``.npz`` file of the layout above."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read as .npz without pickle ({error}). It is damaged or of another format:"
            " write it again with numpy.savez."
        ) from error
    missing = [key for key in ("edge_index", "num_nodes", "y") if key not in arrays]
    missing += [f"{name}_mask" for name in SPLITS if f"{name}_mask" not in arrays]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(sorted(arrays))}. Training nodes needs labels"
            " and three masks: add them to the file."
        )
    return _from_arrays(arrays, path.stem if path.stem != "graph" else path.parent.name, split, undirected)


def _from_arrays(arrays: Mapping[str, np.ndarray], name: str, split: int, undirected: bool) -> Graph:
    x: Tensor | Csr | None = None
    num_nodes = int(arrays["num_nodes"])
    if "x_indptr" in arrays:
        x = _sparse_features(arrays, name)
    elif "x" in arrays:
        x = torch.from_numpy(arrays["x"]).float()
    y = torch.from_numpy(arrays["y"])
    masks = {key: _column(torch.from_numpy(arrays[f"{key}_mask"]), split, key, name) for key in SPLITS}
    optional = {key: torch.from_numpy(arrays[key]).float() for key in ("edge_weight", "edge_attr") if key in arrays}
    return from_edges(
        torch.from_numpy(arrays["edge_index"]),
        num_nodes,
        x=x,
        y=y.float() if y.dim() == 2 else y,
        masks=masks,
        weight=optional.get("edge_weight"),
        edge_attr=optional.get("edge_attr"),
        undirected=undirected,
        name=name,
    )


def _sparse_features(arrays: Mapping[str, np.ndarray], name: str) -> Csr:
    indptr, indices, data = arrays["x_indptr"], arrays["x_indices"], arrays["x_data"]
    rows, cols = (int(n) for n in arrays["x_shape"])
    sound = len(indptr) == rows + 1 and indptr[0] == 0 and indptr[-1] == len(indices) == len(data)
    if not sound or (np.diff(indptr) < 0).any() or (len(indices) and not 0 <= indices.min() <= indices.max() < cols):
        raise InputError(
            f"the sparse features of {name} are inconsistent (x_indptr, x_indices, x_data, x_shape {rows, cols})."
            " Write them again from a scipy.sparse.csr_matrix."
        )
    return from_scipy_arrays(indptr, indices, data.astype(np.float32), cols)


def _column(mask: Tensor, split: int, key: str, name: str) -> Tensor:
    """One split of a mask that may hold several."""
    splits = mask.shape[1] if mask.dim() == 2 else 1
    if not 0 <= split < splits:
        raise InputError(
            f"split {split} asked, but the {key} mask of {name} holds {splits}. Choose --split 0..{splits - 1}."
        )
    return mask[:, split].contiguous() if mask.dim() == 2 else mask


def read_pyg(name: str, *, split: int = 0, undirected: bool = False) -> Graph:
    """A PyG data set, ``Class:Name`` or ``Class``, downloaded by PyG where it is not yet there."""
    from torch_geometric import datasets  # seconds to import, so only when asked for

    kind, _, rest = name.partition(":")
    if not hasattr(datasets, kind):
        raise InputError(
            f"PyG has no data set class '{kind}'. See torch_geometric.datasets for the names; write Planetoid:Cora."
        )
    root = Path(os.environ.get(DATA_VARIABLE, Path.home() / ".cache" / "graphscale")) / "pyg" / kind
    try:
        data: Any = getattr(datasets, kind)(str(root), *([rest] if rest else []))[0]
    except Exception as error:
        raise InputError(
            f"PyG could not give {name}: {error}. Is there a network, and does {kind} take a name? It looks in {root}."
        ) from error
    return from_pyg(data, name=name, split=split, undirected=undirected)


def from_pyg(data: Any, *, name: str = "the graph", split: int = 0, undirected: bool = False) -> Graph:
    """A graph from a ``torch_geometric.data.Data`` with labels and masks.

    Raises:
        InputError: on a heterogeneous graph, or where labels or masks are missing.
    """
    if hasattr(data, "node_types") or hasattr(data, "edge_index_dict"):
        raise InputError(
            f"{name} is heterogeneous; clusters, histories and sub-networks are defined here for one node type."
            " Convert it with data.to_homogeneous() and keep the types as features."
        )
    missing = [key for key in ("edge_index", "y", *(f"{s}_mask" for s in SPLITS)) if data.get(key) is None]
    if missing:
        raise InputError(
            f"{name} lacks {', '.join(missing)}. Add them (torch_geometric.transforms.RandomNodeSplit makes masks)."
        )
    x = data.x
    sparse = x is not None and x.layout != torch.strided
    if sparse:
        rows = x.to_sparse_csr()
        x = from_scipy_arrays(
            rows.crow_indices().numpy(), rows.col_indices().numpy(), rows.values().float().numpy(), x.shape[1]
        )
    attr, weight = data.get("edge_attr"), data.get("edge_weight")
    return from_edges(
        data.edge_index,
        int(data.num_nodes),
        x=x.float() if isinstance(x, Tensor) else x,
        y=data.y.float() if data.y.dim() == 2 and data.y.shape[1] > 1 else data.y.reshape(-1).long(),
        masks={s: _column(data[f"{s}_mask"], split, s, name) for s in SPLITS},
        weight=None if weight is None else weight.float(),
        edge_attr=None if attr is None else attr.float(),
        undirected=undirected,
        name=name,
    )
