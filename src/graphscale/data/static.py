"""Static graphs from where they lie: built-in names, ``.npz`` files, PyG data sets.

The ``.npz`` layout: ``edge_index`` [2, E]; ``num_nodes``; ``x`` [N, F] or ``x_indptr``, ``x_indices``,
``x_data``, ``x_shape`` (sparse features); ``y`` [N] (-1 unlabelled) or [N, C]; ``train_mask``,
``val_mask``, ``test_mask`` [N] or [N, S]; optionally ``edge_weight`` [E] and ``edge_attr`` [E, D].
Nothing of a file is unpickled.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphscale import store
from graphscale.csr import Csr, from_scipy_arrays
from graphscale.data import digits, masks, pyg, synthetic
from graphscale.errors import InputError, first_sentence
from graphscale.graph import SPLITS, Graph, from_edges

_SPARSE = ("x_indptr", "x_indices", "x_data", "x_shape")
_MASKS = tuple(f"{split}_mask" for split in SPLITS)
_BARE = ("edge_index", "num_nodes")
_NEEDED = (*_BARE, "y", *_MASKS)
_KEYS = (*_NEEDED, "x", *_SPARSE, "edge_weight", "edge_attr")


def load(name: str | Path, *, split: int = 0, undirected: bool = False, seed: int = 0, bare: bool = False) -> Graph:
    """A graph by name: a folder's graph, an ``.npz`` path, ``planted[:nodes]``, ``digits``, ``Class:Name``.

    Args:
        name: ``cora`` (looked up in the folder that ``GRAPHSCALE_DATA`` names), ``path/graph.npz``,
            ``planted:100000`` (generated), ``digits`` (scikit-learn's), ``Planetoid:Cora`` (PyG's).
        split: column of masks that hold several splits.
        undirected: add the reverse of every edge.
        seed: of the generated graph.
        bare: a file or a PyG data set may lack labels, and its splits are not looked at.

    Raises:
        InputError: where nothing of that name exists or what exists is not a sound graph.
    """
    name = str(name)
    if not name.strip(":"):
        raise InputError("the name of the data is empty. Give a name, a path, or PyG's Class:Name (graphscale list).")
    path = _found(name)
    if path is not None and store.is_store(path):
        if undirected:
            raise InputError(f"{path} is a store: it was made undirected or not. Drop --undirected.")
        return store.read(path, split=split)
    if path is not None:
        return read_npz(path, split=split, undirected=undirected, bare=bare)
    if name.endswith(".npz"):
        raise InputError(f"no file {name}. Check the path (this folder is {Path.cwd()}).")
    if name == "digits":
        return digits.graph(split=split)
    if name.split(":")[0] == "planted":
        if split:
            raise InputError(f"{name} has one split; {split} was asked. Leave out --split.")
        return synthetic.planted(_planted_size(name), seed=seed)
    if name.startswith("ogb:"):
        return pyg.read_ogb(name, undirected=undirected)
    if ":" in name:
        return pyg.read_pyg(name, split=split, undirected=undirected, splits=() if bare else SPLITS)
    folder = os.environ.get(pyg.DATA_VARIABLE)
    where = f"the folder {folder}" if folder else f"{pyg.DATA_VARIABLE} (unset)"
    raise InputError(
        f"no data set '{name}': it is neither built in (planted, digits) nor in {where}."
        " Give a path to an .npz file, a PyG data set such as Planetoid:Cora, or set"
        f" {pyg.DATA_VARIABLE} to a folder that holds {name}/graph.npz."
    )


def all_splits(name: str) -> dict[str, Tensor] | None:
    """Masks [N, S] of every split of what ``load(name)`` gives; None where there is one only."""
    path = _found(name)
    if path is None:
        return pyg.splits(name) if ":" in name and not name.startswith(("ogb:", "planted:")) else None
    if store.is_store(path):
        return store.splits(path)
    with np.load(path, allow_pickle=False) as archive:
        return masks.all_of({split: torch.from_numpy(archive[f"{split}_mask"]) for split in SPLITS})


def _found(name: str) -> Path | None:
    """The store or file that a name means, if any: what the name says itself, then the data folder."""
    folder = os.environ.get(pyg.DATA_VARIABLE)
    for place in (Path(name), *([Path(folder) / name] if folder else [])):
        if store.is_store(place):
            return place
    return next((candidate for candidate in _candidates(name, folder) if candidate.is_file()), None)


def _candidates(name: str, folder: str | None) -> list[Path]:
    if name.endswith(".npz"):
        return [Path(name)]
    if folder is None or ":" in name:
        return []
    return [Path(folder) / name / "graph.npz", Path(folder) / f"{name}.npz"]


def _planted_size(name: str) -> int:
    size = name.partition(":")[2].replace("_", "") if ":" in name else "10000"
    if not (size.isascii() and size.isdigit()) or int(size) < 100:
        raise InputError(f"'{name}' asks for no number of nodes from 100. Write planted:10000.")
    return int(size)


def read_npz(path: Path, *, split: int = 0, undirected: bool = False, bare: bool = False) -> Graph:
    """A graph from an ``.npz`` file of the layout above; a ``bare`` one may lack labels and has no splits."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            there = sorted(archive.files)
            arrays = {key: archive[key] for key in there if key in _KEYS}
    except (zipfile.BadZipFile, zlib.error, ValueError, TypeError, OSError, EOFError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{path} cannot be read as .npz without pickle ({first_sentence(error)}). It is damaged or of"
            " another format: write it again with numpy.savez."
        ) from error
    missing = [key for key in (_BARE if bare else _NEEDED) if key not in arrays]
    if missing:
        needs = "A graph has edges and a number of nodes" if bare else "Training nodes needs labels and three masks"
        raise InputError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(there)}. {needs}: add them to the file."
        )
    name = path.stem if path.stem != "graph" else path.parent.name
    numbers = {key: _numbers(array, key, name) for key, array in arrays.items() if not (bare and key in _MASKS)}
    return _from_arrays(numbers, name, split, undirected)


def _numbers(array: Any, key: str, name: str) -> np.ndarray:
    """An array as torch takes it: in this machine's byte order, unsigned integers as int64."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        kind = array.dtype if isinstance(array, np.ndarray) else "no array"
        raise InputError(
            f"{key} of {name} holds {kind}; booleans, integers or real numbers of up to 64 bits are needed. Convert it."
        )
    return array.astype(np.int64 if array.dtype.kind == "u" else array.dtype.newbyteorder("="), copy=False)


def _num_nodes(number: np.ndarray, name: str) -> int:
    if number.size != 1 or not np.isfinite(number).all() or int(number.item()) != number.item():
        raise InputError(f"num_nodes of {name} is {number.tolist()}; one whole number is needed. Correct the file.")
    return int(number.item())


def _from_arrays(arrays: Mapping[str, np.ndarray], name: str, split: int, undirected: bool) -> Graph:
    x: Tensor | Csr | None = None
    num_nodes = _num_nodes(arrays["num_nodes"], name)
    if any(key in arrays for key in _SPARSE):
        x = _sparse_features(arrays, name)
    elif "x" in arrays:
        x = torch.from_numpy(arrays["x"]).float()
    y = torch.from_numpy(arrays["y"]) if "y" in arrays else torch.full((max(0, num_nodes),), -1)
    there = {key: torch.from_numpy(arrays[f"{key}_mask"]) for key in SPLITS if f"{key}_mask" in arrays}
    chosen = masks.chosen(there, split, name)
    optional = {key: torch.from_numpy(arrays[key]).float() for key in ("edge_weight", "edge_attr") if key in arrays}
    return from_edges(
        torch.from_numpy(arrays["edge_index"]),
        num_nodes,
        x=x,
        y=y.float() if y.dim() == 2 and y.shape[1] > 1 else y,
        masks=chosen,
        weight=optional.get("edge_weight"),
        edge_attr=optional.get("edge_attr"),
        undirected=undirected,
        name=name,
    )


def _sparse_features(arrays: Mapping[str, np.ndarray], name: str) -> Csr:
    missing = [key for key in _SPARSE if key not in arrays]
    if missing:
        raise InputError(f"the sparse features of {name} lack {', '.join(missing)}. Write all of {', '.join(_SPARSE)}.")
    indptr, indices, data, shape = (arrays[key] for key in _SPARSE)
    flat = shape.shape == (2,) and indptr.ndim == indices.ndim == data.ndim == 1
    whole = all(array.dtype.kind == "i" for array in (indptr, indices, shape))
    if not (flat and whole and _is_csr(indptr, indices, data, *shape.tolist())):
        raise InputError(
            f"the sparse features of {name} are inconsistent ({', '.join(_SPARSE)} {shape.tolist()})."
            " Write them again from a scipy.sparse.csr_matrix."
        )
    return from_scipy_arrays(indptr, indices, data.astype(np.float32), int(shape[1]))


def _is_csr(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, rows: int, cols: int) -> bool:
    lengths = len(indptr) == rows + 1 and indptr[0] == 0 and indptr[-1] == len(indices) == len(data)
    if not lengths or (np.diff(indptr) < 0).any():
        return False
    return len(indices) == 0 or 0 <= indices.min() <= indices.max() < cols
