"""G-Meta's synthetic graphs (Huang and Zitnik, NeurIPS 2020): a basis with houses, diamonds, stars and fans.

Made as the authors' notebook makes them (``generate_synthetic_data_script.ipynb`` at 8485a67 of their repository,
with ``build_structure`` of GraphWave as changed there, at 112dbf5):

- Syn. Cycle: shapes hang on a cycle by one edge each; a node's class is its role in the whole.
- Syn. BA: the edges of shapes are laid over nodes that a Barabasi-Albert graph has; a node's class is a cluster of
  its orbital roles (``data.orbits``).

Their house has both diagonals (8 edges, not PyG's 6); their fan joins all but the last of its leaves. The published
graphs are larger than those of the notebook (11,476 nodes in ten graphs of cycles); how is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from graphscale import rng
from graphscale.data.orbits import clustered, counts_of
from graphscale.errors import InputError
from graphscale.graph import Graph, from_edges

Named = list[tuple[str, Graph]]
_MOST = 14  # copies of a shape in the graphs whose counts are drawn


@dataclass(frozen=True)
class Shape:
    """A small graph whose node 0 is where it is joined to others."""

    edges: tuple[tuple[int, int], ...]
    roles: tuple[int, ...]  # of its nodes

    @property
    def size(self) -> int:
        """Nodes."""
        return len(self.roles)


def star(leaves: int) -> Shape:
    """A centre and its leaves."""
    return Shape(tuple((0, i) for i in range(1, leaves + 1)), (0, *[1] * leaves))


def fan(leaves: int) -> Shape:
    """A star whose leaves, but for the last one, are a path: a node's role counts its edges on it."""
    path = tuple((i, i + 1) for i in range(1, leaves - 1))
    on_path = [sum(i in edge for edge in path) for i in range(1, leaves + 1)]
    return Shape(star(leaves).edges + path, (0, *(1 + count for count in on_path)))


_SQUARE = ((0, 1), (1, 2), (2, 3), (3, 0))
HOUSE = Shape((*_SQUARE, (0, 2), (1, 3), (4, 0), (4, 1)), (0, 0, 1, 1, 2))
DIAMOND = Shape((*_SQUARE, *((apex, i) for apex in (4, 5) for i in range(4))), (0,) * 6)


def cycle(num_graphs: int = 1, *, width: int = 50, random_edges: int = 100, seed: int = 0) -> Named:
    """Syn. Cycle: one graph with ten of every shape, or several with counts of their own; classes are shared.

    Args:
        num_graphs: one has 300 nodes and 17 classes.
        width: nodes of the cycle.
        random_edges: R, pairs joined at the end, whichever they are.
        seed: of the counts and of the random edges.

    Raises:
        InputError: where there is less than one graph, or the cycle is too short.
    """
    if width <= 40:
        raise InputError(f"width {width}: the 40 shapes of a graph need a cycle of 41 nodes or more. Give more.")
    shapes = (HOUSE, DIAMOND, star(6), fan(6))
    made = []
    for g, counts in enumerate(_shape_counts(num_graphs, 10, width, seed)):
        edges, role = _on_cycle([shape for shape, n in zip(shapes, counts, strict=True) for _ in range(n)], width)
        draw = np.random.default_rng(rng.derive(rng.DATA, seed, g))
        ends = draw.integers(len(role), size=random_edges), draw.integers(len(role) - 1, size=random_edges)
        other = ends[1] + (ends[1] >= ends[0])  # any node but the first
        made.append((np.concatenate([edges, np.stack([ends[0], other])], 1), role))
    # The authors rank the roles of every graph by themselves: the same, since all graphs have all roles.
    roles = np.unique(np.concatenate([role for _, role in made]))
    return [
        (f"cycle-{g}", _graph(edges, np.searchsorted(roles, role), f"cycle-{g}"))
        for g, (edges, role) in enumerate(made)
    ]


def barabasi_albert(num_graphs: int = 1, *, nodes: int = 200, attach: int = 3, seed: int = 0) -> Named:
    """Syn. BA: a graph with five of every shape laid over its nodes, or several with counts of their own.

    Shapes lie on consecutive nodes from a random one. With five of each in every graph, ten would have about
    7,400 edges; the published number, 7,647, is that of the counts of ``cycle``, which are therefore used. The nodes
    of all graphs are clustered together, so that classes are shared.

    Raises:
        InputError: where there is less than one graph.
    """
    import networkx

    shapes = (HOUSE, DIAMOND, star(5), fan(5))
    laid = []
    for g, counts in enumerate(_shape_counts(num_graphs, 5, 4 * _MOST + 1, seed)):
        draw = np.random.default_rng(rng.derive(rng.DATA, seed, g))
        basis = networkx.barabasi_albert_graph(nodes, attach, seed=int(draw.integers(2**31)))
        pairs = [np.array(basis.edges).T]
        for shape, n in zip(shapes, counts, strict=True):
            pairs += [np.array(shape.edges).T + int(draw.integers(nodes - 10)) for _ in range(n)]
        laid.append(_graph(np.concatenate(pairs, 1), np.zeros(nodes, dtype=np.int64), f"ba-{g}"))
    label = clustered(np.concatenate([counts_of(graph.adj) for graph in laid]))
    parts = np.split(label, num_graphs)
    return [(f"ba-{g}", _labelled(graph, part)) for g, (graph, part) in enumerate(zip(laid, parts, strict=True))]


def _shape_counts(num_graphs: int, alone: int, most: int, seed: int) -> list[Sequence[int]]:
    """How many houses, diamonds, stars and fans each graph has.

    The first four of several have 15 of one shape and one of the others, the rest 1 to 14 of each. Where there would
    be more shapes than ``most`` they are drawn again: the authors' would all hang on one node of the cycle.
    """
    if num_graphs < 1:
        raise InputError(f"{num_graphs} graphs asked. Ask for one or more.")
    if num_graphs == 1:
        return [(alone,) * 4]
    draw = np.random.default_rng(rng.derive(rng.DATA, seed))
    counts: list[Sequence[int]] = [[15 if i == g else 1 for i in range(4)] for g in range(min(4, num_graphs))]
    while len(counts) < num_graphs:
        drawn = draw.integers(1, _MOST + 1, size=4).tolist()
        if sum(drawn) < most:
            counts.append(drawn)
    return counts


def _on_cycle(shapes: Sequence[Shape], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges [2, E] and roles [N] of a cycle with shapes hung on it at even distances (GraphWave's numbering of roles).

    ``first`` is the first role of a shape's kind: one more than the largest so far where it is first seen.
    """
    spacing = width // len(shapes)
    around = np.arange(width)
    edges, role = [np.stack([around, (around + 1) % width])], np.zeros(width, dtype=np.int64)
    plugs = np.arange(len(shapes)) * spacing
    role[plugs] += 1
    first: dict[Shape, int] = {}
    for plug, shape in zip(plugs, shapes, strict=True):
        start = len(role)
        begin = first.setdefault(shape, int(role.max()) + 1)
        role[plug] += -2 - 10 * begin
        own = np.array(shape.roles) + begin
        own[0] += 100 * begin
        role = np.concatenate([role, own])
        edges += [np.array(shape.edges).T + start, np.array([[start], [plug]])]
    return np.concatenate(edges, 1), role


def _graph(edges: np.ndarray, label: np.ndarray, name: str) -> Graph:
    pairs, y = torch.from_numpy(edges), torch.from_numpy(label)
    return from_edges(pairs, len(label), y=y, masks={}, undirected=True, name=name)


def _labelled(graph: Graph, label: np.ndarray) -> Graph:
    return replace(graph, y=torch.from_numpy(label), num_classes=int(label.max()) + 1)
