from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from graphscale.data import digits
from graphscale.data.digits import graph
from graphscale.errors import InputError


def test_it_is_scikit_learn_s_data():
    built, (images, label) = graph(), load_digits(return_X_y=True)
    assert np.array_equal(built.x.numpy(), (images / 16).astype(np.float32))
    assert np.array_equal(built.y.numpy(), label)
    assert built.num_classes == 10


def test_every_image_is_joined_to_its_nearest_in_both_directions():
    built = graph(neighbours=8)
    images = load_digits().data  # whole numbers: these distances are exact
    square = (images**2).sum(1)
    distance = square[:, None] + square[None] - 2 * images @ images.T
    np.fill_diagonal(distance, np.inf)
    # The 8th smallest distance of a row: ties make the choice of neighbours free, not their distance.
    reach = np.sort(distance, axis=1)[:, 7]
    joined = built.adj.dense().numpy() > 0
    assert np.array_equal(joined, joined.T)
    assert not joined.diagonal().any()
    near = distance <= reach[:, None]
    assert not (joined & ~(near | near.T)).any()  # no edge without a reason
    strictly = distance < reach[:, None]
    assert joined[strictly].all()  # nobody is left out
    assert joined.sum(1).min() >= 8


@pytest.mark.parametrize("split", [0, 9])
def test_splits(split):
    built = graph(split=split)
    masks = {name: mask.numpy() for name, mask in built.masks.items()}
    assert np.array_equal(sum(mask.astype(int) for mask in masks.values()), np.ones(1797))
    assert np.bincount(built.y.numpy()[masks["train"]]).tolist() == [10] * 10
    assert masks["val"].sum() == 300
    assert masks["test"].sum() == 1797 - 100 - 300


def test_splits_differ_and_repeat():
    assert torch.equal(graph(split=2).masks["train"], graph(split=2).masks["train"])
    assert not torch.equal(graph(split=2).masks["train"], graph(split=3).masks["train"])


@pytest.mark.parametrize("split", [-1, 10])
def test_there_are_ten_splits(split):
    with pytest.raises(InputError, match=rf"splits 0\.\.9; {split} was asked"):
        graph(split=split)


def test_threads_do_not_change_the_graph():
    before = torch.get_num_threads()
    try:
        prints = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            prints.append(digits.graph().fingerprint())
    finally:
        torch.set_num_threads(before)
    assert prints[0] == prints[1]


def test_neighbours_are_the_nearest():
    draw = np.random.default_rng(0)
    pixels = draw.integers(17, size=(40, 6))
    near = digits._nearest(pixels, 5)
    for i in range(40):
        distance = ((pixels - pixels[i]) ** 2).sum(1)
        expected = sorted((d, j) for j, d in enumerate(distance) if j != i)[:5]
        assert near[i].tolist() == [j for _, j in expected]
