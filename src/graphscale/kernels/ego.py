"""Ego subgraphs of many points at once, and of each only what reaches its centres.

A point is a node, or a pair of nodes. Its subgraph S is all that lies within h hops of its centres, cut to ``cap``
nodes drawn at random where it is larger (G-Meta, section 4; the centres always stay). An L-layer network gives the
centres' rows from frontiers that shrink: level L are the centres, level l - 1 what the rows of level l take in within
S, level 0 what is fed. Degrees are those within S, so all of S is looked at, but only the frontiers are kept: for two
layers on a citation graph a fortieth of the rows.

Every (seed, point) pair has its own stream of random numbers, so a subgraph depends neither on other points nor on
threads. N nodes, P points, C centres a point, L layers, R_l rows of level l over all points.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from graphscale.kernels.sampling import mix

Array = NDArray[Any]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_CHUNK = 64  # points a task of the pool, at least


class Rules(NamedTuple):
    """What a subgraph is."""

    hops: int  # h; -1: the whole graph, with its own degrees
    cap: int  # most nodes; -1 keeps all
    layers: int  # L
    loops: bool  # whether a node takes itself in, once
    hide: bool  # whether a pair's own edge is left out of its subgraph


class Levels(NamedTuple):
    """The frontiers of P points."""

    node: Array  # [R_0] int64 rows of the graph
    degree: Array  # [R_0] float32 within the subgraph
    rows: Array  # [L + 1, P + 1] int64: rows of level l of point p are rows[l, p]:rows[l, p + 1]
    indptr: tuple[Array, ...]  # L of them, [R_l + 1] int32 for l = 1..L
    indices: tuple[Array, ...]  # rows of level l - 1
    values: tuple[Array, ...]  # float32 1 / sqrt(d_i d_j): GCN's weights within the subgraph
    size: Array  # [P] int64 nodes of the subgraph


class Scratch:
    """Tables as large as the graph, for one thread: they are never emptied, a point leaves its number in them."""

    def __init__(self, num_nodes: int) -> None:
        self.seen = np.zeros(num_nodes, dtype=np.int64)
        self.place = np.zeros(num_nodes, dtype=np.int64)
        self.level = np.zeros(num_nodes, dtype=np.int64)
        self.stamp = 1


@njit(nogil=True, cache=True)
def _room(array: Array, wanted: Any) -> Array:
    if wanted <= len(array):
        return array
    larger = np.empty(max(wanted, 2 * len(array)), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


@njit(nogil=True, cache=True)
def _apart(u: Any, v: Any, a: Any, b: Any, hide: bool) -> bool:
    """Whether the entry between u and v is the pair's own."""
    return hide and ((u == a and v == b) or (u == b and v == a))


@njit(nogil=True, cache=True)
def _within(
    indptr: Array, indices: Array, centres: Array, hops: int, hide: bool, seen: Array, stamp: int, nodes: Array
) -> tuple[Array, int]:
    """(nodes, how many) within ``hops`` of the centres, nearest first; they are marked with the stamp."""
    a, b = centres[0], centres[-1]
    found = 0
    # From the smaller one, so that what a cut draws does not depend on the order of a pair.
    for c in (min(a, b), max(a, b)):
        if seen[c] != stamp:
            seen[c] = stamp
            nodes = _room(nodes, found + 1)
            nodes[found] = c
            found += 1
    start = 0
    for _ in range(hops):
        stop = found
        for i in range(start, stop):
            v = nodes[i]
            nodes = _room(nodes, found + indptr[v + 1] - indptr[v])
            for e in range(indptr[v], indptr[v + 1]):
                u = indices[e]
                if seen[u] != stamp and not _apart(v, u, a, b, hide):
                    seen[u] = stamp
                    nodes[found] = u
                    found += 1
        start = stop
        if start == found:
            break
    return nodes, found


@njit(nogil=True, cache=True)
def _cut(nodes: Array, found: int, cap: int, centres: Array, seen: Array, stamp: int, state: Any) -> int:
    """Keep ``cap`` of the nodes, drawn without replacement, and the centres; returns how many."""
    for i in range(cap):  # the first places of a shuffle
        state += _GAMMA
        j = i + np.int64((mix(state) >> np.uint64(11)) % np.uint64(found - i))
        nodes[i], nodes[j] = nodes[j], nodes[i]
    for i in range(cap, found):
        seen[nodes[i]] = 0
    kept = cap
    for c in centres:
        if seen[c] != stamp:
            seen[c] = stamp
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def _degree(
    indptr: Array, indices: Array, v: Any, whole: bool, loops: bool, a: Any, b: Any, hide: bool, seen: Array, stamp: int
) -> int:
    """Entries of v's row within the subgraph."""
    count = 1 if loops else 0
    for e in range(indptr[v], indptr[v + 1]):
        u = indices[e]
        if (whole or seen[u] == stamp) and not (loops and u == v) and not _apart(v, u, a, b, hide):
            count += 1
    return count


@njit(nogil=True, cache=True)
def _levels(
    indptr: Array, indices: Array, centres: Array, seeds: Array, hops: int, cap: int, layers: int, loops: bool,
    hide: bool, seen: Array, place: Array, level: Array, stamp: int,
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:  # fmt: skip
    """Frontiers of the points, a point after the other and its levels from the centres outwards.

    Returns (rows [P, L + 1], entries [P, L + 1], node, degree of level 0, lengths of rows, columns, values, sizes);
    columns count from the level's first row of the same point.
    """
    points = len(centres)
    whole = hops < 0
    rows, entries = np.zeros((points, layers + 1), dtype=np.int64), np.zeros((points, layers + 1), dtype=np.int64)
    size = np.zeros(points, dtype=np.int64)
    node, degree = np.empty(1024, dtype=np.int64), np.empty(1024, dtype=np.float32)
    length, column, value = (
        np.empty(1024, dtype=np.int32),
        np.empty(4096, dtype=np.int32),
        np.empty(4096, dtype=np.float32),
    )
    front, ahead = np.empty(256, dtype=np.int64), np.empty(256, dtype=np.int64)
    d_front, d_ahead = np.empty(256, dtype=np.int64), np.empty(256, dtype=np.int64)
    nodes = np.empty(1024, dtype=np.int64)
    n0, nr, ne = 0, 0, 0
    for p in range(points):
        stamp += 1
        mine = centres[p]
        a, b = mine[0], mine[-1]
        hidden = hide and a != b
        if whole:
            size[p] = len(indptr) - 1
        else:
            nodes, found = _within(indptr, indices, mine, hops, hidden, seen, stamp, nodes)
            if 0 <= cap < found:
                found = _cut(nodes, found, cap, mine, seen, stamp, mix(np.uint64(seeds[p])))
            size[p] = found
        count = len(mine)
        for i in range(count):
            front[i] = mine[i]
            d_front[i] = _degree(indptr, indices, mine[i], whole, loops, a, b, hidden, seen, stamp)
        rows[p, layers] = count
        for l in range(layers, 0, -1):
            mark = stamp * (layers + 1) + l  # of no other point and level
            fresh, began = 0, ne
            for i in range(count):
                v = front[i]
                most = indptr[v + 1] - indptr[v] + 1
                column, value = _room(column, ne + most), _room(value, ne + most)
                ahead, d_ahead = _room(ahead, fresh + most), _room(d_ahead, fresh + most)
                before = ne
                for e in range(indptr[v], indptr[v + 1] + (1 if loops else 0)):
                    u = v if e == indptr[v + 1] else np.int64(indices[e])
                    own = e == indptr[v + 1]
                    if not own:
                        outside = not whole and seen[u] != stamp
                        if outside or (loops and u == v) or _apart(v, u, a, b, hidden):
                            continue
                    if level[u] != mark:
                        level[u] = mark
                        place[u] = fresh
                        ahead[fresh] = u
                        d_ahead[fresh] = _degree(indptr, indices, u, whole, loops, a, b, hidden, seen, stamp)
                        fresh += 1
                    column[ne] = place[u]
                    value[ne] = 1.0 / np.sqrt(max(1, d_front[i]) * max(1, d_ahead[place[u]]))
                    ne += 1
                length = _room(length, nr + 1)
                length[nr] = ne - before
                nr += 1
            entries[p, l] = ne - began
            front, ahead, d_front, d_ahead = ahead, front, d_ahead, d_front
            count = fresh
            rows[p, l - 1] = count
        node, degree = _room(node, n0 + count), _room(degree, n0 + count)
        for i in range(count):
            node[n0 + i] = front[i]
            degree[n0 + i] = d_front[i]
        n0 += count
    return rows, entries, node[:n0].copy(), degree[:n0].copy(), length[:nr], column[:ne], value[:ne], size


@njit(nogil=True, cache=True)
def _spread(
    rows: Array, entries: Array, first: Array, of: int, length: Array, column: Array, value: Array, indptr: Array,
    indices: Array, values: Array,
) -> None:  # fmt: skip
    """One level's matrix from what ``_levels`` wrote point by point; ``first`` [P] are its columns' first rows."""
    layers = rows.shape[1] - 1
    nr, ne, r, k = 0, 0, 0, 0
    for p in range(len(rows)):
        for l in range(layers, 0, -1):
            if l == of:
                for i in range(rows[p, l]):
                    indptr[r + 1] = indptr[r] + length[nr + i]
                    r += 1
                for e in range(entries[p, l]):
                    indices[k] = first[p] + column[ne + e]
                    values[k] = value[ne + e]
                    k += 1
            nr += rows[p, l]
            ne += entries[p, l]


class Finder:
    """Finds the subgraphs of points in one graph, on several threads.

    Args:
        indptr, indices: in-edges of every node.
        rules: what a subgraph is.
        threads: of the pool; 1 works in the caller's.
    """

    def __init__(self, indptr: Array, indices: Array, rules: Rules, *, threads: int = 1) -> None:
        self.indptr, self.indices, self.rules, self.threads = indptr, indices, rules, max(1, threads)
        self._scratch = [Scratch(len(indptr) - 1) for _ in range(self.threads)]
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="graphscale-ego") if threads > 1 else None

    def __call__(self, centres: Array, seeds: Array) -> Levels:
        """The frontiers of ``centres`` [P, C], each drawn from its own of ``seeds`` [P] uint64 where it is cut."""
        parts = min(self.threads, max(1, len(centres) // _CHUNK))
        spans = np.linspace(0, len(centres), parts + 1).astype(np.int64)
        jobs = [(centres[a:b], seeds[a:b], s) for a, b, s in zip(spans, spans[1:], self._scratch, strict=False)]
        if self._pool is None or parts == 1:
            found = [self._one(*job) for job in jobs]
        else:
            found = list(self._pool.map(lambda job: self._one(*job), jobs))
        return _joined(found, self.rules.layers)

    def _one(self, centres: Array, seeds: Array, scratch: Scratch) -> tuple[Array, ...]:
        hops, cap, layers, loops, hide = self.rules
        found: tuple[Array, ...] = _levels(
            self.indptr, self.indices, centres, seeds, hops, cap, layers, loops, hide, scratch.seen, scratch.place,
            scratch.level, scratch.stamp,
        )  # fmt: skip
        scratch.stamp += len(centres)
        return found


def _joined(found: Sequence[tuple[Array, ...]], layers: int) -> Levels:
    columns = [np.concatenate(part) for part in zip(*found, strict=True)]
    rows, entries, node, degree, length, column, value, size = columns
    ptr = np.zeros((layers + 1, len(rows) + 1), dtype=np.int64)
    np.cumsum(rows.T, axis=1, out=ptr[:, 1:])
    indptr: list[Array] = []
    indices: list[Array] = []
    values: list[Array] = []
    for l in range(1, layers + 1):
        total = int(entries[:, l].sum())
        arrays = (
            np.zeros(int(ptr[l, -1]) + 1, dtype=np.int32),
            np.empty(total, dtype=np.int32),
            np.empty(total, dtype=np.float32),
        )
        _spread(rows, entries, ptr[l - 1], l, length, column, value, *arrays)
        for kept, array in zip((indptr, indices, values), arrays, strict=True):
            kept.append(array)
    return Levels(node, degree, ptr, tuple(indptr), tuple(indices), tuple(values), size)


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
        nodes, found = _within(indptr, indices, mine, hops, hidden, seen, stamp, nodes)
        size = found
        if 0 <= cap < found:
            size = cap
            _cut(nodes, found, cap, mine, seen, stamp, mix(np.uint64(seeds[p])))
        kept = _room(kept, total + size + len(mine))
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
                _room(source, ne + indptr[v + 1] - indptr[v]),
                _room(target, ne + indptr[v + 1] - indptr[v]),
            )
            for e in range(indptr[v], indptr[v + 1]):
                u = np.int64(indices[e])
                if seen[u] == stamp and not _apart(v, u, a, b, hidden):
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
    """The whole subgraphs of ``centres`` [P, C], for models that are not cut to frontiers.

    Returns:
        (node [n] rows of the graph, a point after the other and its centres first; how many a point; edges [2, e]
        source above target, places in ``node``; how many edges a point).
    """
    found: tuple[Array, Array, Array, Array] = _members(
        indptr, indices, centres, seeds, rules.hops, rules.cap, rules.hide, scratch.seen, scratch.place, scratch.stamp
    )
    scratch.stamp += len(centres)
    return found
