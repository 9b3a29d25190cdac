"""A graph with planted clusters, of any size, for a first run without data or network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from graphscale import rng
from graphscale.graph import Graph, from_edges


def planted(
    num_nodes: int,
    *,
    num_classes: int = 8,
    num_features: int = 32,
    degree: float = 10.0,
    inside: float = 0.85,
    noise: float = 4.0,
    means: np.ndarray | None = None,
    seed: int = 0,
) -> Graph:
    """Communities of about 50 nodes, each of one class; features are the class's mean under heavy noise.

    An edge stays inside its community with probability ``inside``, else it ends anywhere. One node's
    features say little (``noise`` standard deviations of a unit mean); its neighbourhood says much.
    Nodes are numbered at random; 60 % train, 20 % validation, 20 % test.

    Args:
        num_nodes: N, at least 100.
        degree: mean number of undirected edges a node.
        means: [classes, features] of the features; drawn by default.
    """
    draw = np.random.default_rng(rng.derive(rng.DATA, seed))
    communities = max(num_classes, num_nodes // 50)
    community = draw.integers(communities, size=num_nodes)
    label = community % num_classes
    members = np.argsort(community, kind="stable")
    start = np.searchsorted(community[members], np.arange(communities + 1))
    source = draw.integers(num_nodes, size=int(num_nodes * degree / 2))
    lo, hi = start[community[source]], start[community[source] + 1]
    near = members[lo + (draw.random(len(source)) * (hi - lo)).astype(np.int64)]
    far = draw.integers(num_nodes, size=len(source))
    target = np.where(draw.random(len(source)) < inside, near, far)
    keep = source != target
    edges = np.stack([source[keep], target[keep]])
    means = _means(draw, num_classes, num_features) if means is None else means
    x = means[label] + noise * draw.standard_normal((num_nodes, means.shape[1]))
    order = torch.from_numpy(draw.permutation(num_nodes))
    masks = {name: torch.zeros(num_nodes, dtype=torch.bool) for name in ("train", "val", "test")}
    for name, nodes in zip(masks, order.tensor_split([num_nodes * 3 // 5, num_nodes * 4 // 5]), strict=True):
        masks[name][nodes] = True
    return from_edges(
        torch.from_numpy(edges),
        num_nodes,
        x=torch.from_numpy(x.astype(np.float32)),
        y=torch.from_numpy(label),
        masks=masks,
        undirected=True,
        name=f"planted:{num_nodes}",
    )


def planted_graphs(
    num_graphs: int, num_nodes: int, *, num_classes: int = 10, num_features: int = 32, seed: int = 0
) -> Iterator[tuple[str, Graph]]:
    """Graphs as ``planted`` makes them, of ``num_nodes`` nodes each; what the classes' features are like is shared.

    Graph g follows from (seed, g) alone, so any number of them is made one by one.
    """
    means = _means(np.random.default_rng(rng.derive(rng.DATA, seed)), num_classes, num_features)
    for g in range(num_graphs):
        own = rng.derive(rng.DATA, seed, g)
        yield f"planted-{g}", planted(num_nodes, num_classes=num_classes, means=means, seed=own)


def _means(draw: np.random.Generator, num_classes: int, num_features: int) -> np.ndarray:
    means: np.ndarray = draw.standard_normal((num_classes, num_features)) / np.sqrt(num_features) * 4
    return means
