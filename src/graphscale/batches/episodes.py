"""What an episode is made of: a few classes, a few labelled points of each, and others to foretell.

| setup (G-Meta, section 3)            | groups                       | classes of an episode                 |
|--------------------------------------|------------------------------|---------------------------------------|
| one graph or many, disjoint labels   | one, all graphs together     | ``ways`` of the split's, in any order |
| many graphs, shared labels           | a graph each                 | ``ways`` of the graph's, or all       |
| links over many graphs               | a graph each                 | no edge, edge                         |

T episodes, W ways, K shots, Q queries a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from graphscale.errors import InputError
from graphscale.kernels.sampling import mix

Array = NDArray[Any]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


class Drawn(NamedTuple):
    """T episodes as numbers of points."""

    support: Tensor  # [T, W, K]
    query: Tensor  # [T, W, Q]
    mask: Tensor  # [T, W, Q] bool: False where a class has fewer points than that
    slot: Tensor  # [T, W] which class of the pools


@dataclass(frozen=True)
class Pools:
    """Points by group and class, to draw episodes from."""

    points: Tensor  # [P, C] int64 rows of the graph: nodes, or pairs of nodes
    group_ptr: Tensor  # [G + 1] classes of group g are group_ptr[g]:group_ptr[g + 1]
    ptr: Tensor  # [S + 1] points of class s are members[ptr[s]:ptr[s + 1]]
    members: Tensor  # [.] numbers of points
    label: Tensor  # [S] the caller's label of every class
    ways: int  # W
    shuffled: bool  # classes are drawn, and numbered anew in every episode
    shared: bool = False  # labels mean the same in every group
    query_ptr: Tensor | None = None  # where queries have pools of their own
    query_members: Tensor | None = None
    notes: tuple[str, ...] = ()

    def draw(self, seeds: Tensor, shots: int, queries: int) -> Drawn:
        """An episode for each of ``seeds`` [T]: a function of the seed alone.

        Args:
            shots: K.
            queries: Q; a class of fewer points gives what it has.
        """
        apart = self.query_ptr is not None and self.query_members is not None
        query_ptr, query = (self.query_ptr, self.query_members) if apart else (self.ptr, self.members)
        assert query_ptr is not None and query is not None
        arrays = _draw(
            seeds.numpy().view(np.uint64), self.group_ptr.numpy(), self.ptr.numpy(), self.members.numpy(),
            query_ptr.numpy(), query.numpy(), apart, self.ways, shots, queries, self.shuffled,
        )  # fmt: skip
        support, asked, slot = (torch.from_numpy(a) for a in arrays)
        return Drawn(support, asked.clamp(min=0), asked >= 0, slot)


@njit(nogil=True, cache=True)
def _shuffle(items: Array, first: int, state: Any) -> Any:
    """Draw the ``first`` places of a shuffle, in place; returns the state of the generator."""
    for i in range(first):
        state += _GAMMA
        j = i + np.int64((mix(state) >> np.uint64(11)) % np.uint64(len(items) - i))
        items[i], items[j] = items[j], items[i]
    return state


@njit(nogil=True, cache=True)
def _draw(
    seeds: Array, group_ptr: Array, ptr: Array, members: Array, query_ptr: Array, query: Array, apart: bool, ways: int,
    shots: int, queries: int, shuffled: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    tasks = len(seeds)
    support = np.empty((tasks, ways, shots), dtype=np.int64)
    asked = np.full((tasks, ways, queries), -1, dtype=np.int64)
    slot = np.empty((tasks, ways), dtype=np.int64)
    for t in range(tasks):
        state = mix(seeds[t] + _GAMMA)
        group = np.int64((state >> np.uint64(11)) % np.uint64(len(group_ptr) - 1))
        classes = np.arange(group_ptr[group], group_ptr[group + 1])
        if shuffled:
            state = _shuffle(classes, ways, state)
        for w in range(ways):
            s = classes[w]
            slot[t, w] = s
            own = members[ptr[s] : ptr[s + 1]].copy()
            state = _shuffle(own, min(len(own), shots if apart else shots + queries), state)
            support[t, w] = own[:shots]
            rest = own[shots:]
            if apart:
                rest = query[query_ptr[s] : query_ptr[s + 1]].copy()
                state = _shuffle(rest, min(len(rest), queries), state)
            for q in range(min(queries, len(rest))):
                asked[t, w, q] = rest[q]
    return support, asked, slot


def by_label(points: Tensor, label: Tensor, keep: Sequence[int], *, ways: int, shots: int, queries: int) -> Pools:
    """Disjoint labels: all points of the labels in ``keep`` as one group.

    Args:
        points: [P, C].
        label: [P], -1 where there is none.
        keep: labels of a split.

    Raises:
        InputError: where fewer than ``ways`` of them have shots and a query.
    """
    lists = {k: (label == k).nonzero()[:, 0] for k in keep}
    enough = {k: found for k, found in lists.items() if found.numel() > shots}
    if len(enough) < ways:
        raise InputError(
            f"{len(enough)} of the {len(lists)} classes of a split have more than {shots} points; an episode needs"
            f" {ways}. Lower --ways or --shots, or give the split more classes."
        )
    short = sum(found.numel() < shots + queries for found in enough.values())
    notes = [f"{len(lists) - len(enough)} classes with at most {shots} points are left out"] * (
        len(enough) < len(lists)
    )
    notes += [f"{short} classes have fewer than {shots + queries} points and are asked about fewer"] * (short > 0)
    return Pools(
        points=points,
        group_ptr=torch.tensor([0, len(enough)]),
        ptr=_pointers(list(enough.values())),
        members=torch.cat(list(enough.values())),
        label=torch.tensor(list(enough)),
        ways=ways,
        shuffled=True,
        notes=tuple(notes),
    )


def by_group(
    points: Tensor, label: Tensor, group: Tensor, keep: Sequence[int], *, classes: int, ways: int, shots: int,
    support: Tensor | None = None,
) -> Pools:  # fmt: skip
    """Shared labels: a group for each of the graphs in ``keep``, with those of its labels that have enough points.

    Args:
        points: [P, C].
        label: [P] 0 .. classes - 1, -1 where there is none.
        group: [P] graph of every point.
        keep: graphs of a split.
        ways: labels an episode.
        support: [P] bool: points of support sets; others are queries. Without it both are drawn from all.

    Raises:
        InputError: where no graph has enough points of so many labels.
    """
    of_support, of_query, kept, sizes = [], [], [], []
    order = group.argsort(stable=True)
    ends = torch.searchsorted(group[order], torch.tensor([(g, g + 1) for g in keep], dtype=group.dtype))
    for start, end in ends.tolist():
        mine = order[start:end]
        lists = [mine[label[mine] == k] for k in range(classes)]
        first = lists if support is None else [found[support[found]] for found in lists]
        second = lists if support is None else [found[~support[found]] for found in lists]
        least = shots + 1 if support is None else shots
        fine = [k for k in range(classes) if first[k].numel() >= least and second[k].numel()]
        if len(fine) < ways:
            continue
        kept += fine
        sizes.append(len(fine))
        of_support += [first[k] for k in fine]
        of_query += [second[k] for k in fine]
    if not sizes:
        raise InputError(
            f"none of the {len(keep)} graphs of a split has {shots} points and a query of each of {ways} labels. Lower"
            " --shots or --ways, or give the split other graphs."
        )
    left = len(keep) - len(sizes)
    notes = [f"{left} graphs without {shots} points and a query of {ways} labels are left out"] * (left > 0)
    apart = support is not None
    return Pools(
        points=points,
        group_ptr=torch.nn.functional.pad(torch.tensor(sizes).cumsum(0), (1, 0)),
        ptr=_pointers(of_support),
        members=torch.cat(of_support),
        label=torch.tensor(kept),
        ways=ways,
        shuffled=ways < classes,
        shared=True,
        query_ptr=_pointers(of_query) if apart else None,
        query_members=torch.cat(of_query) if apart else None,
        notes=tuple(notes),
    )


def _pointers(lists: Sequence[Tensor]) -> Tensor:
    return torch.nn.functional.pad(torch.tensor([found.numel() for found in lists]).cumsum(0), (1, 0))
