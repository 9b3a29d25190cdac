from __future__ import annotations

import torch

from graphscale.kernels.normals import normals


def test_they_are_normal_and_independent():
    drawn = normals(torch.arange(4000), torch.full((4000,), 7), 50)
    assert abs(float(drawn.mean())) < 5 / 200_000**0.5
    assert abs(float(drawn.var()) - 1) < 5 * (2 / 200_000) ** 0.5
    assert abs(float(drawn.pow(4).mean()) - 3) < 5 * (96 / 200_000) ** 0.5
    limit = 6 / 4000**0.5
    assert float((torch.corrcoef(drawn.T) - torch.eye(50)).abs().max()) < limit
    later = normals(torch.arange(4000), torch.full((4000,), 8), 50)
    assert abs(float((drawn * later).mean())) < 5 / 200_000**0.5


def test_a_row_follows_from_its_key():
    keys, moments = torch.tensor([5, 3, 5, -1]), torch.tensor([2, -1, 9, 4])
    drawn = normals(keys, moments, 7)
    order = torch.tensor([3, 0])
    assert torch.equal(normals(keys[order], moments[order], 7), drawn[order])
    assert not torch.equal(drawn[0], drawn[2])
