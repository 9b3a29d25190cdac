"""Clusters in memory proportional to nodes: label propagation, packing, restreamed greedy moves.

1. Label propagation under a size limit (Raghavan et al. 2007; Meyerhenke, Sanders and Schulz 2014) finds
   many small clusters in a few sweeps over the stored rows.
2. They are packed into parts, next the cluster with the most edges per node into the open part.
3. Sweeps of Fennel's greedy rule (Tsourakakis et al. 2014), restreamed (Nishimura and Ugander 2013),
   move nodes between parts.

Rows are read in stored order, so a graph on disk is read sequentially. One-pass greedy streaming alone
(linear deterministic greedy, Fennel) cut three times as many edges as METIS on graphs of this kind.
N nodes, P parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from graphscale.kernels.sampling import mix

Ints = NDArray[Any]


@njit(nogil=True, cache=True)
def _tally(indptr: Ints, indices: Ints, v: int, label: Ints, counts: Ints, touched: Ints) -> int:
    """Count the labels of v's neighbours; returns how many labels were touched."""
    seen = 0
    for e in range(indptr[v], indptr[v + 1]):
        c = indices[e]
        if c != v:
            k = label[c]
            if counts[k] == 0:
                touched[seen] = k
                seen += 1
            counts[k] += 1
    return seen


@njit(nogil=True, cache=True)
def _propagate(indptr: Ints, indices: Ints, limit: int, sweeps: int, seed: Any) -> tuple[Ints, Ints]:
    n = len(indptr) - 1
    label, sizes, counts = np.arange(n), np.ones(n, np.int64), np.zeros(n, np.int64)
    touched = np.empty(np.max(np.diff(indptr)) + 1, np.int64)
    state = np.uint64(seed)
    for sweep in range(sweeps):
        moved = 0
        for i in range(n):
            v = i if sweep % 2 == 0 else n - 1 - i
            old = label[v]
            seen = _tally(indptr, indices, v, label, counts, touched)
            best, most, ties = old, counts[old], 1
            for j in range(seen):
                k = touched[j]
                if k != old and sizes[k] < limit and counts[k] >= most:
                    if counts[k] > most:
                        best, most, ties = k, counts[k], 1
                    else:  # among equals any one, so that labels do not drift towards low numbers
                        ties += 1
                        state += np.uint64(0x9E3779B97F4A7C15)
                        if mix(state) % np.uint64(ties) == np.uint64(0):
                            best = k
            for j in range(seen):
                counts[touched[j]] = 0
            if best != old:
                sizes[old] -= 1
                sizes[best] += 1
                label[v] = best
                moved += 1
        if moved * 1000 < n:
            break
    return label, sizes


@njit(nogil=True, cache=True)
def _pack(indptr: Ints, indices: Ints, label: Ints, sizes: Ints, num_parts: int) -> Ints:
    n = len(indptr) - 1
    start = np.zeros(n + 1, np.int64)
    for v in range(n):
        start[label[v] + 1] += 1
    for k in range(n):
        start[k + 1] += start[k]
    fill, members = start[:-1].copy(), np.empty(n, np.int64)
    for v in range(n):
        members[fill[label[v]]] = v
        fill[label[v]] += 1
    part, placed = np.full(n, -1, np.int64), np.zeros(n, np.bool_)
    links, touched = np.zeros(n, np.int64), np.empty(n, np.int64)
    seen, scan, open_part, size, left = 0, 0, 0, 0, n
    goal = n / num_parts
    while left > 0:
        best, most = -1, -1.0
        for j in range(seen):
            k = touched[j]
            if size + sizes[k] <= goal * 1.02 + 1 and links[k] / sizes[k] > most:
                best, most = k, links[k] / sizes[k]
        if best < 0:  # nothing adjacent fits: the next cluster in stored order
            while placed[label[scan]]:
                scan += 1
            best = label[scan]
        overfull = size > 0 and size + sizes[best] > goal * 1.02 + 1
        if open_part < num_parts - 1 and (size >= goal or overfull):
            for j in range(seen):
                links[touched[j]] = 0
            open_part, size, seen = open_part + 1, 0, 0
            goal = left / (num_parts - open_part)  # what is left, evenly over the parts that are left
        placed[best] = True
        size, left = size + sizes[best], left - sizes[best]
        for i in range(start[best], start[best + 1]):
            v = members[i]
            part[v] = open_part
            for e in range(indptr[v], indptr[v + 1]):
                k = label[indices[e]]
                if not placed[k]:
                    if links[k] == 0:
                        touched[seen] = k
                        seen += 1
                    links[k] += 1
        kept = 0
        for j in range(seen):
            if placed[touched[j]]:
                links[touched[j]] = 0
            else:
                touched[kept] = touched[j]
                kept += 1
        seen = kept
    return part


@njit(nogil=True, cache=True)
def _restream(indptr: Ints, indices: Ints, part: Ints, num_parts: int, sweeps: int, limit: int, floor: int) -> None:
    n = len(indptr) - 1
    sizes, counts = np.zeros(num_parts, np.int64), np.zeros(num_parts, np.int64)
    touched = np.empty(num_parts, np.int64)
    for v in range(n):
        sizes[part[v]] += 1
    # Fennel with gamma = 3/2: the marginal cost of a node in a part of s nodes is 1.5 alpha sqrt(s).
    cost = 1.5 * np.sqrt(num_parts) * (len(indices) / 2) / n**1.5
    for sweep in range(sweeps):
        for i in range(n):
            v = i if sweep % 2 == 0 else n - 1 - i
            old = part[v]
            if sizes[old] <= floor:
                continue
            seen = _tally(indptr, indices, v, part, counts, touched)
            best, score = old, counts[old] - cost * np.sqrt(sizes[old] - 1)
            for j in range(seen):
                k = touched[j]
                if k != old and sizes[k] < limit:
                    value = counts[k] - cost * np.sqrt(sizes[k])
                    if value > score:
                        best, score = k, value
            for j in range(seen):
                counts[touched[j]] = 0
            sizes[old] -= 1
            sizes[best] += 1
            part[v] = best


def stream_partition(indptr: Ints, indices: Ints, num_parts: int, seed: int) -> Ints:
    """Part of every node, [N] int64; parts hold up to about 1.1 times their even share,
    somewhat more where a part is only a few clusters that do not divide.

    Args:
        indptr: [N + 1], may be memory-mapped.
        indices: [E], may be memory-mapped; every edge stored in both directions cuts best.
        num_parts: P.
        seed: of ties in label propagation.
    """
    share = (len(indptr) - 1) / num_parts
    label, sizes = _propagate(indptr, indices, max(1, int(share / 4)), 10, np.uint64(seed))
    part: Ints = _pack(indptr, indices, label, sizes, num_parts)
    _restream(indptr, indices, part, num_parts, 10, int(share * 1.1) + 1, int(share * 0.5))
    return part
