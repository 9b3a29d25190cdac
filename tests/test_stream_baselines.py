"""EdgeBank and popularity beside loops over events."""

from __future__ import annotations

import pytest
import torch
from streams import small

from graphscale.batches.negatives import Negatives
from graphscale.stream_baselines import EdgeBank, PopTrack, baseline


@pytest.mark.parametrize("window", [None, 10])
def test_edgebank(window):
    events = small(num_events=80)
    draw = torch.Generator().manual_seed(0)
    src, dst = (torch.randint(9, (300,), generator=draw) for _ in range(2))
    cuts = torch.randint(0, 80, (300,), generator=draw)
    found = EdgeBank(window).scores(events, src, dst, cuts)
    for i in range(300):
        met = [
            e
            for e in range(int(cuts[i]))
            if (int(events.src[e]), int(events.dst[e])) == (int(src[i]), int(dst[i]))
            and (window is None or events.t[cuts[i]] - events.t[e] <= window)
        ]
        assert bool(found[i]) == bool(met)


def test_popularity():
    events = small(num_events=60)
    cuts = torch.tensor([20, 20, 40, 40])
    dst = torch.tensor([1, 2, 1, 3])
    found = PopTrack(decay=0.5, batch=10).scores(events, dst, dst, cuts)
    for i in range(4):
        count = 0.0
        for start in range(0, int(cuts[i]), 10):
            count = 0.5 * count + int((events.dst[start : start + 10] == dst[i]).sum())
        torch.testing.assert_close(found[i], torch.tensor(0.5 * count, dtype=torch.float64))


def test_their_scores_are_of_the_same_shape_as_a_networks():
    events = small(num_events=200, nodes=40)
    negatives = Negatives.of(events, "random", 5, seed=0, train_end=100, exclude=True)
    splits = {"val": (100, 150), "test": (150, 200)}
    for method in (EdgeBank(), PopTrack(batch=20)):
        found = baseline(
            method, events, splits, dict.fromkeys(splits, negatives), torch.ones(40, dtype=torch.bool), batch=20
        )
        assert 0.4 < found["test"]["ap"] <= 1
        assert found["val"]["ap_new"] != found["val"]["ap_new"]  # nothing new to score
