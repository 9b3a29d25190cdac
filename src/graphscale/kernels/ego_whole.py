"""Whole ego subgraphs, for models that are not cut to frontiers."""

from __future__ import annotations

import numpy as np
from numba import njit

from graphscale.kernels.ego_walk import Array, Rules, Scratch, apart, cut, room, within
from graphscale.kernels.sampling import mix


@njit(nogil=True, cache=True)
def _members(
    indptr: Array, indices: Array, centres: Array, seeds: Array, hops: int, cap: int, hide: bool, seen: Array,
    place: Array, stamp: int,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Whole subgraphs: (nodes, nodes a point, edges [2, e] over all points' nodes, edges a point); centres first."""
    count = np.zeros(len(centres), dtype=np.int64)
    edges = np.zeros(len(centres), dtype=np.int64)
    kept, source, target = (
        np.empty(1024, dtype=np.int64),
        np.empty(4096, dtype=np.int64),
        np.empty(4096, dtype=np.int64),
    )
    nodes = np.empty(1024, dtype=np.int64)
    total, ne = 0, 0
    for p in range(len(centres)):
        stamp += 1
        mine = centres[p]
        a, b = mine[0], mine[-1]
        hidden = hide and a != b
        nodes, found = within(indptr, indices, mine, hops, hidden, seen, stamp, nodes)
        size = found
        if 0 <= cap < found:
            size = cap
            cut(nodes, found, cap, mine, seen, stamp, mix(np.uint64(seeds[p])))
        kept = room(kept, total + size + len(mine))
        start = total
        for c in mine:
            kept[total] = c
            place[c] = total
            total += 1
        for i in range(size):
            v = nodes[i]
            if v != a and v != b:
                kept[total] = v
                place[v] = total
                total += 1
        for i in range(start, total):
            v = kept[i]
            source, target = (
                room(source, ne + indptr[v + 1] - indptr[v]),
                room(target, ne + indptr[v + 1] - indptr[v]),
            )
            for e in range(indptr[v], indptr[v + 1]):
                u = np.int64(indices[e])
                if seen[u] == stamp and not apart(v, u, a, b, hidden):
                    source[ne], target[ne] = place[u], i
                    ne += 1
                    edges[p] += 1
        count[p] = total - start
    out = np.empty((2, ne), dtype=np.int64)
    out[0], out[1] = source[:ne], target[:ne]
    return kept[:total].copy(), count, out, edges


def induced(
    indptr: Array, indices: Array, centres: Array, seeds: Array, rules: Rules, scratch: Scratch
) -> tuple[Array, Array, Array, Array]:
    """The whole subgraphs of ``centres`` [P, C].

    Returns:
        (node [n] rows of the graph, a point after the other and its centres first; how many a point; edges [2, e]
        source above target, places in ``node``; how many edges a point).
    """
    found: tuple[Array, Array, Array, Array] = _members(
        indptr, indices, centres, seeds, rules.hops, rules.cap, rules.hide, scratch.seen, scratch.place, scratch.stamp
    )
    scratch.stamp += len(centres)
    return found
