"""A store of many graphs: its clusters are the graphs, and the manifest has their names.

Beside the files of any store: ``pair`` [P, 2], ``pair_label`` [P] and ``pair_support`` [P] where the collection has
pairs of nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphscale.data.union import Collection, Pairs
from graphscale.errors import InputError
from graphscale.graph import Graph
from graphscale.partitioning import Partition, from_assignment
from graphscale.store.folder import BLOCK, manifest_of
from graphscale.store.reading import _mapped, read
from graphscale.store.writing import write

_PAIRS = ("pair", "pair_label", "pair_support")


def write_graphs(
    collection: Collection, path: Path, *, made: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Partition:
    """Store a collection, its graphs one after another, and return them as clusters.

    Raises:
        InputError: where ``path`` is in use.
    """
    graph, count = collection.graph, collection.num_graphs
    number = torch.arange(count).repeat_interleave(graph.part_ptr.diff())
    cut = from_assignment(graph, number, method="graphs", seed=0, asked=count)
    pairs = collection.pairs
    beside = {} if pairs is None else dict(zip(_PAIRS, (pairs.pair, pairs.label, pairs.support), strict=True))
    write(graph, cut, path, made=made, overwrite=overwrite, beside=beside, said={"graphs": list(collection.names)})
    return cut


def read_graphs(path: Path) -> Collection:
    """A stored collection, memory-mapped; a store of one graph in clusters is a collection of one.

    Raises:
        InputError: where the store is damaged.
    """
    manifest, graph = manifest_of(path), read(path)
    if not any(bool(mask.any()) for mask in graph.masks.values()):
        graph = replace(graph, masks={})
    names = manifest.get("graphs")
    if names is None:
        return Collection(replace(graph, part_ptr=torch.tensor([0, graph.num_nodes])), (path.resolve().name,))
    arrays = {name: _mapped(path, name, about) for name, about in manifest["arrays"].items() if name in _PAIRS}
    sound = len(names) == graph.num_parts and (not arrays or _sound(arrays, graph))
    if not sound:
        raise InputError(f"{path} is inconsistent in its graphs or pairs: it is damaged. Prepare the store again.")
    return Collection(graph, tuple(names), Pairs(*(arrays[name] for name in _PAIRS)) if arrays else None)


def _sound(arrays: Mapping[str, Tensor], graph: Graph) -> bool:
    """Whether there is everything of every pair, and both of its rows lie in one graph."""
    if any(name not in arrays for name in _PAIRS):
        return False
    pair, label, support = (arrays[name] for name in _PAIRS)
    if pair.dim() != 2 or pair.shape[1] != 2 or not len(pair) == len(label) == len(support):
        return False
    for start in range(0, len(pair), BLOCK):
        some, said = pair[start : start + BLOCK], label[start : start + BLOCK]
        if int(some.min()) < 0 or int(some.max()) >= graph.num_nodes or bool(((said != 0) & (said != 1)).any()):
            return False
        of = torch.searchsorted(graph.part_ptr, some.contiguous(), right=True)
        if bool((of[:, 0] != of[:, 1]).any()):
            return False
    return True
