"""What an ego subgraph is: all within h hops of a point's centres, cut to ``cap`` nodes drawn at random.

A point is a node, or a pair of nodes. Every (seed, point) pair has its own stream of random numbers, so a subgraph
depends neither on other points nor on threads (G-Meta, section 4; the centres always stay).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from graphscale.kernels.sampling import mix

Array = NDArray[Any]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


class Rules(NamedTuple):
    """What a subgraph is."""

    hops: int  # h; -1: the whole graph, with its own degrees
    cap: int  # most nodes; -1 keeps all
    layers: int  # L
    loops: bool  # whether a node takes itself in, once
    hide: bool  # whether a pair's own edge is left out of its subgraph


class Scratch:
    """Tables as large as the graph, for one thread: they are never emptied, a point leaves its number in them."""

    def __init__(self, num_nodes: int) -> None:
        self.seen = np.zeros(num_nodes, dtype=np.int64)
        self.place = np.zeros(num_nodes, dtype=np.int64)
        self.level = np.zeros(num_nodes, dtype=np.int64)
        self.stamp = 1


@njit(nogil=True, cache=True)
def room(array: Array, wanted: Any) -> Array:
    """The array, or a longer one that begins with it, so that ``wanted`` numbers fit."""
    if wanted <= len(array):
        return array
    larger = np.empty(max(wanted, 2 * len(array)), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


@njit(nogil=True, cache=True)
def apart(u: Any, v: Any, a: Any, b: Any, hide: bool) -> bool:
    """Whether the entry between u and v is the pair's own."""
    return hide and ((u == a and v == b) or (u == b and v == a))


@njit(nogil=True, cache=True)
def within(
    indptr: Array, indices: Array, centres: Array, hops: int, hide: bool, seen: Array, stamp: int, nodes: Array
) -> tuple[Array, int]:
    """(nodes, how many) within ``hops`` of the centres, nearest first; they are marked with the stamp."""
    a, b = centres[0], centres[-1]
    found = 0
    # From the smaller one, so that what a cut draws does not depend on the order of a pair.
    for c in (min(a, b), max(a, b)):
        if seen[c] != stamp:
            seen[c] = stamp
            nodes = room(nodes, found + 1)
            nodes[found] = c
            found += 1
    start = 0
    for _ in range(hops):
        stop = found
        for i in range(start, stop):
            v = nodes[i]
            nodes = room(nodes, found + indptr[v + 1] - indptr[v])
            for e in range(indptr[v], indptr[v + 1]):
                u = indices[e]
                if seen[u] != stamp and not apart(v, u, a, b, hide):
                    seen[u] = stamp
                    nodes[found] = u
                    found += 1
        start = stop
        if start == found:
            break
    return nodes, found


@njit(nogil=True, cache=True)
def cut(nodes: Array, found: int, cap: int, centres: Array, seen: Array, stamp: int, state: Any) -> int:
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
def degree(
    indptr: Array, indices: Array, v: Any, whole: bool, loops: bool, a: Any, b: Any, hide: bool, seen: Array, stamp: int
) -> int:
    """Entries of v's row within the subgraph."""
    count = 1 if loops else 0
    for e in range(indptr[v], indptr[v + 1]):
        u = indices[e]
        if (whole or seen[u] == stamp) and not (loops and u == v) and not apart(v, u, a, b, hide):
            count += 1
    return count
