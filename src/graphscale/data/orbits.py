"""Orbital roles: in which small subgraphs a node lies, and with which degree in them.

A graphlet is a connected graph of 2 to 5 nodes up to isomorphism (there are 30). The role of a node in an induced
subgraph is (its graphlet, the node's degree in it): coarser than the 73 automorphism orbits of Przulj (2007), and what
G-Meta's authors count for the labels of Syn. BA. Subgraphs are enumerated, each once, by ESU (Wernicke 2006). N nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from graphscale.csr import Csr

Array = NDArray[Any]
_SIZES = (2, 3, 4, 5)


@dataclass(frozen=True, eq=False)
class Roles:
    """Every role, and which role has every node of every small adjacency.

    The adjacency of k nodes is a number: bit j (j - 1) / 2 + i says whether i < j are joined.
    """

    edges: tuple[tuple[tuple[int, int], ...], ...]  # per role: edges of its graphlet
    degree: tuple[int, ...]  # per role: the node's degree
    table: Array  # [4, 1024, 5] int16 role of node i of a connected adjacency of 2 + row nodes


@cache
def roles() -> Roles:
    """All roles, graphlets by size and then by number of edges."""
    table = np.full((len(_SIZES), 1024, max(_SIZES)), -1, dtype=np.int16)
    edges: list[tuple[tuple[int, int], ...]] = []
    degrees: list[int] = []
    for row, size in enumerate(_SIZES):
        pairs = list(combinations(range(size), 2))
        bit = {pair: pair[1] * (pair[1] - 1) // 2 + pair[0] for pair in pairs}
        code = np.arange(1 << len(pairs))
        joined = {pair: (code >> bit[pair]) & 1 for pair in pairs}
        degree = np.stack([sum(joined[min(i, j), max(i, j)] for j in range(size) if j != i) for i in range(size)], 1)
        renamed = [
            sum(joined[i, j] << bit[min(p[i], p[j]), max(p[i], p[j])] for i, j in pairs)
            for p in permutations(range(size))
        ]
        least = np.stack([np.asarray(codes) for codes in renamed]).min(0)  # of all isomorphic adjacencies
        graphlets = [g for g in np.unique(least) if _connected(int(g), size, bit)]
        for g in sorted(graphlets, key=lambda g: (int(g).bit_count(), g)):
            same = least == g
            for d in np.unique(degree[g]):
                table[row, code[same], :size] = np.where(degree[same] == d, len(degrees), table[row, code[same], :size])
                degrees.append(int(d))
                edges.append(tuple(pair for pair in pairs if joined[pair][g]))
    return Roles(tuple(edges), tuple(degrees), table)


def _connected(code: int, size: int, bit: dict[tuple[int, int], int]) -> bool:
    reached = {0}
    for _ in range(size):
        reached |= {j for pair, b in bit.items() if code >> b & 1 and reached & set(pair) for j in pair}
    return len(reached) == size


def counts_of(adj: Csr) -> Array:
    """[N, roles] int64: how often a node has each role among the induced subgraphs of an undirected graph.

    Args:
        adj: symmetric, without loops.
    """
    assert adj.symmetric and not adj.has_loops()
    known = roles()
    out = np.zeros((adj.num_rows, len(known.degree)), dtype=np.int64)
    _count(adj.indptr.numpy().astype(np.int64), adj.indices.numpy().astype(np.int64), known.table, out)
    return out


@njit(nogil=True, cache=True)
def _count(indptr: Array, indices: Array, table: Array, out: Array) -> None:
    """Walk over all connected subgraphs of up to five nodes and add each one's roles to ``out``.

    ``seen[u]`` has bit d set where u is joined to the subgraph's node d, so the adjacency of the subgraph grows by
    ``seen[u]`` when u comes in, and u is a new neighbour of the last node where only that node's bit is set.
    """
    count = len(indptr) - 1
    seen = np.zeros(count, np.int64)
    chosen = np.zeros(5, np.int64)
    code = np.zeros(6, np.int64)  # adjacency of the first k nodes
    waiting = np.zeros((5, count), np.int64)  # nodes that may come in at each depth
    left = np.zeros(5, np.int64)
    for root in range(count):
        chosen[0] = root
        _mark(indptr, indices, root, 1, seen)
        left[1] = 0
        for e in range(indptr[root], indptr[root + 1]):
            if indices[e] > root:
                waiting[1, left[1]] = indices[e]
                left[1] += 1
        depth = 1
        while depth > 0:
            if left[depth] == 0:  # all are done: the node before leaves
                depth -= 1
                _mark(indptr, indices, chosen[depth], -(1 << depth), seen)
                continue
            left[depth] -= 1
            node = waiting[depth, left[depth]]
            chosen[depth] = node
            code[depth + 1] = code[depth] | (seen[node] << (depth * (depth - 1) // 2))
            for d in range(depth + 1):
                out[chosen[d], table[depth - 1, code[depth + 1], d]] += 1
            if depth == 4:
                continue
            left[depth + 1] = left[depth]
            waiting[depth + 1, : left[depth]] = waiting[depth, : left[depth]]
            for e in range(indptr[node], indptr[node + 1]):
                other = indices[e]
                if other > root and seen[other] == 0:
                    waiting[depth + 1, left[depth + 1]] = other
                    left[depth + 1] += 1
            _mark(indptr, indices, node, 1 << depth, seen)
            depth += 1


@njit(nogil=True, cache=True)
def _mark(indptr: Array, indices: Array, node: int, bit: int, seen: Array) -> None:
    for e in range(indptr[node], indptr[node + 1]):
        seen[indices[e]] += bit


def clustered(counts: Array, *, clusters: int = 15, least: int = 5) -> Array:
    """[N] int64 classes: spectral clusters of nodes by roles, those of fewer than ``least`` nodes being one class.

    scikit-learn's settings are those of G-Meta's authors (``assign_labels="discretize"``, ``random_state=0``, the
    default kernel exp(-|a - b|^2)). They are said to have given it the counts themselves; but then the kernel of any
    two nodes that differ is 0, and what comes out is the same for every graph: clusters explain 7 % of the variance of
    the logarithm of degrees, as do classes dealt at random. Here a node's counts are divided by their sum: 80 %.
    """
    from sklearn.cluster import SpectralClustering

    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    found = SpectralClustering(clusters, assign_labels="discretize", random_state=0).fit_predict(shares)
    sizes = np.bincount(found, minlength=clusters)
    found = np.where(sizes[found] < least, clusters, found)
    label: Array = np.unique(found, return_inverse=True)[1].astype(np.int64)
    return label
