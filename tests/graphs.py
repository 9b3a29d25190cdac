"""Small graphs for tests."""

from __future__ import annotations

import numpy as np
import torch

from graphscale.graph import Graph, from_edges


def masks_of(num_nodes: int, draw: np.random.Generator) -> dict[str, torch.Tensor]:
    kind = draw.permutation(np.arange(num_nodes) % 3)
    return {name: torch.from_numpy(kind == i) for i, name in enumerate(("train", "val", "test"))}


def random_graph(
    num_nodes: int = 60,
    *,
    seed: int = 0,
    weighted: bool = False,
    directed: bool = False,
    attributes: int = 0,
    classes: int = 3,
    features: int = 5,
    loops: bool = False,
    density: float = 0.12,
) -> Graph:
    """A float64 graph with communities too weak to be trivial; undirected unless asked otherwise."""
    draw = np.random.default_rng(seed)
    dense = draw.random((num_nodes, num_nodes)) < density
    if not directed:
        dense = dense | dense.T
    np.fill_diagonal(dense, draw.random(num_nodes) < 0.2 if loops else False)
    target, source = np.nonzero(dense)
    weight = None
    if weighted:
        pair = np.minimum(source, target) * num_nodes + np.maximum(source, target)
        key = source * num_nodes + target if directed else pair
        weight = torch.from_numpy(draw.random(num_nodes * num_nodes)[key] + 0.5)
    return from_edges(
        torch.from_numpy(np.stack([source, target])),
        num_nodes,
        x=torch.from_numpy(draw.standard_normal((num_nodes, features))),
        y=torch.from_numpy(draw.integers(classes, size=num_nodes)),
        masks=masks_of(num_nodes, draw),
        weight=weight,
        edge_attr=torch.from_numpy(draw.random((len(source), attributes))) if attributes else None,
    )
