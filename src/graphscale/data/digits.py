"""Scikit-learn's handwritten digits as a graph: real data that needs no network."""

from __future__ import annotations

import numpy as np
import torch

from graphscale import rng
from graphscale.errors import InputError
from graphscale.graph import Graph, from_edges


def graph(*, neighbours: int = 8, split: int = 0) -> Graph:
    """1,797 images of 8 x 8 pixels, each joined to its ``neighbours`` nearest images; 10 classes.

    Every class has 10 training nodes; 300 nodes validate, the rest test. The neighbours are found on
    all images (transductive). ``split`` 0..9 draws other nodes.
    """
    from sklearn.datasets import load_digits

    if not 0 <= split < 10:
        raise InputError(f"digits has splits 0..9; {split} was asked. Choose one of them with --split.")
    images, label = load_digits(return_X_y=True)
    x = (images / 16.0).astype(np.float32)
    near = _nearest(images.astype(np.int64), neighbours)
    order = np.random.default_rng(rng.derive(rng.DATA, split)).permutation(len(label))
    place = np.empty(len(label), dtype=np.int64)  # place of a node among those of its class, in that order
    for digit in range(10):
        nodes = order[label[order] == digit]
        place[nodes] = np.arange(len(nodes))
    train = place < 10
    rest = order[~train[order]]
    masks = {"train": torch.from_numpy(train)}
    for name, nodes in (("val", rest[:300]), ("test", rest[300:])):
        masks[name] = torch.zeros(len(label), dtype=torch.bool)
        masks[name][torch.from_numpy(nodes)] = True
    return from_edges(
        torch.from_numpy(np.stack([np.repeat(np.arange(len(label)), neighbours), near.reshape(-1)])),
        len(label),
        x=torch.from_numpy(x),
        y=torch.from_numpy(label.astype(np.int64)),
        masks=masks,
        undirected=True,
        name="digits",
    )


def _nearest(pixels: np.ndarray, count: int) -> np.ndarray:
    """[N, count] nearest other rows of whole numbers, the lower index first among equals.

    Whole numbers, because distances tie: in floating point the order would depend on the number of threads.
    """
    squares = (pixels * pixels).sum(1)
    distance = squares[:, None] + squares[None, :] - 2 * (pixels @ pixels.T)
    np.fill_diagonal(distance, np.iinfo(np.int64).max)
    return np.argsort(distance, axis=1, kind="stable")[:, :count]
