"""Uniform sampling of in-neighbours without replacement, a hop at a time.

Every (seed, node) pair has its own stream of random numbers (splitmix64), so a sample depends neither
on the order of the frontier nor on threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[Any]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_MIX1, _MIX2 = MIX


@njit(nogil=True, cache=True)
def mix(z: Any) -> Any:
    """splitmix64's finaliser: a bijection of 64-bit words without visible structure."""
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True)
def _hop(
    indptr: Ints, indices: Ints, frontier: Ints, fanout: int, seed: Any, place: Ints, next_place: int,
    out_ptr: Ints, out_col: Ints, out_entry: Ints, new_nodes: Ints,
) -> int:  # fmt: skip
    """Fill a hop's entries; nodes seen for the first time get the next places and go to ``new_nodes``."""
    kept, fresh = 0, 0
    for i in range(len(frontier)):
        v = frontier[i]
        lo, degree = indptr[v], indptr[v + 1] - indptr[v]
        take = degree if fanout < 0 or degree < fanout else fanout
        state = mix(np.uint64(v) * _GAMMA + np.uint64(seed))
        start = kept
        for j in range(take):
            if take == degree:
                e = lo + j
            else:
                # Floyd: the j-th draw is uniform over the first degree - take + j + 1 entries, and takes
                # that last one instead where it was drawn before: every subset is equally likely.
                state += _GAMMA
                top = degree - take + j
                draw = lo + np.int64((mix(state) >> np.uint64(11)) % np.uint64(top + 1))
                e = draw
                for s in range(start, kept):
                    if out_entry[s] == draw:
                        e = lo + top
                        break
            out_entry[kept] = e
            kept += 1
        for s in range(start, kept):
            c = indices[out_entry[s]]
            if place[c] < 0:
                place[c] = next_place + fresh
                new_nodes[fresh] = c
                fresh += 1
            out_col[s] = place[c]
        out_ptr[i + 1] = kept
    return fresh


@njit(nogil=True, cache=True)
def _bound(indptr: Ints, frontier: Ints, fanout: int) -> int:
    total = 0
    for v in frontier:
        degree = indptr[v + 1] - indptr[v]
        total += degree if fanout < 0 or degree < fanout else fanout
    return total


def sample_block(
    indptr: Ints, indices: Ints, roots: Ints, fanouts: tuple[int, ...], seed: int, place: Ints
) -> tuple[Ints, Ints, Ints, Ints]:
    """The block of ``roots`` and of what is sampled within len(fanouts) hops of them.

    Args:
        roots: [r] distinct nodes.
        fanouts: in-neighbours sampled a node at hop 1, 2, ...; -1 takes all of them.
        seed: with the node and its hop, decides the sample.
        place: [N] int32 scratch of -1, left as it was found.

    Returns:
        (n_id [n] roots first then by hop, indptr [n + 1], indices [e] local, entry [e] positions in ``indices``).
        Nodes of the last hop have empty rows.
    """
    nodes, pointers, columns, entries = [roots], [np.zeros(1, dtype=indptr.dtype)], [], []
    place[roots] = np.arange(len(roots), dtype=place.dtype)
    frontier, count, total = roots, len(roots), 0
    for hop, fanout in enumerate(fanouts):
        bound = int(_bound(indptr, frontier, fanout))
        ptr = np.zeros(len(frontier) + 1, dtype=indptr.dtype)
        col, entry = np.empty(bound, dtype=indices.dtype), np.empty(bound, dtype=np.int64)
        new = np.empty(bound, dtype=np.int64)
        # A node's stream differs from hop to hop and from seed to seed.
        key = np.uint64((seed * 0x2545F4914F6CDD1D + hop + 1) & (2**64 - 1))
        fresh = _hop(indptr, indices, frontier, fanout, key, place, count, ptr, col, entry, new)
        pointers.append(ptr[1:] + total)
        columns.append(col)
        entries.append(entry)
        frontier = new[:fresh].copy()
        nodes.append(frontier)
        count, total = count + fresh, total + bound
    n_id = np.concatenate(nodes)
    place[n_id] = -1
    pointers.append(np.full(len(frontier), total, dtype=indptr.dtype))  # the last hop's rows are empty
    empty = np.empty(0, dtype=np.int64)
    return (
        n_id,
        np.concatenate(pointers),
        np.concatenate(columns) if columns else empty.astype(indices.dtype),
        np.concatenate(entries) if entries else empty,
    )
