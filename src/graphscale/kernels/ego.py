"""Of many points' ego subgraphs at once only what reaches their centres.

An L-layer network gives the centres' rows from frontiers that shrink: level L are the centres, level l - 1 what the
rows of level l take in within the subgraph, level 0 what is fed. Degrees are those within the subgraph, so all of it
is looked at, but only the frontiers are kept. N nodes, P points, C centres a point, L layers, R_l rows of level l
over all points.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import njit

from graphscale.kernels.ego_walk import Array, Rules, Scratch, apart, cut, degree, room, within
from graphscale.kernels.sampling import mix

_CHUNK = 64  # points a task of the pool, at least


class Levels(NamedTuple):
    """The frontiers of P points."""

    node: Array  # [R_0] int64 rows of the graph
    degree: Array  # [R_0] float32 within the subgraph
    rows: Array  # [L + 1, P + 1] int64: rows of level l of point p are rows[l, p]:rows[l, p + 1]
    indptr: tuple[Array, ...]  # L of them, [R_l + 1] int32 for l = 1..L
    indices: tuple[Array, ...]  # rows of level l - 1
    values: tuple[Array, ...]  # float32 1 / sqrt(d_i d_j): GCN's weights within the subgraph
    size: Array  # [P] int64 nodes of the subgraph


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
    node, own_degree = np.empty(1024, dtype=np.int64), np.empty(1024, dtype=np.float32)
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
            nodes, found = within(indptr, indices, mine, hops, hidden, seen, stamp, nodes)
            if 0 <= cap < found:
                found = cut(nodes, found, cap, mine, seen, stamp, mix(np.uint64(seeds[p])))
            size[p] = found
        count = len(mine)
        for i in range(count):
            front[i] = mine[i]
            d_front[i] = degree(indptr, indices, mine[i], whole, loops, a, b, hidden, seen, stamp)
        rows[p, layers] = count
        for l in range(layers, 0, -1):
            mark = stamp * (layers + 1) + l  # of no other point and level
            fresh, began = 0, ne
            for i in range(count):
                v = front[i]
                most = indptr[v + 1] - indptr[v] + 1
                column, value = room(column, ne + most), room(value, ne + most)
                ahead, d_ahead = room(ahead, fresh + most), room(d_ahead, fresh + most)
                before = ne
                for e in range(indptr[v], indptr[v + 1] + (1 if loops else 0)):
                    u = v if e == indptr[v + 1] else np.int64(indices[e])
                    own = e == indptr[v + 1]
                    if not own:
                        outside = not whole and seen[u] != stamp
                        if outside or (loops and u == v) or apart(v, u, a, b, hidden):
                            continue
                    if level[u] != mark:
                        level[u] = mark
                        place[u] = fresh
                        ahead[fresh] = u
                        d_ahead[fresh] = degree(indptr, indices, u, whole, loops, a, b, hidden, seen, stamp)
                        fresh += 1
                    column[ne] = place[u]
                    value[ne] = 1.0 / np.sqrt(max(1, d_front[i]) * max(1, d_ahead[place[u]]))
                    ne += 1
                length = room(length, nr + 1)
                length[nr] = ne - before
                nr += 1
            entries[p, l] = ne - began
            front, ahead, d_front, d_ahead = ahead, front, d_ahead, d_front
            count = fresh
            rows[p, l - 1] = count
        node, own_degree = room(node, n0 + count), room(own_degree, n0 + count)
        for i in range(count):
            node[n0 + i] = front[i]
            own_degree[n0 + i] = d_front[i]
        n0 += count
    return rows, entries, node[:n0].copy(), own_degree[:n0].copy(), length[:nr], column[:ne], value[:ne], size


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
