"""On a GPU the samplers of a stream give what they give on a CPU, draw by draw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphscale.kernels.temporal import recent, temporal_csr, uniform

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="GRAPHSCALE_TEST_CUDA is not set, or there is no GPU"
)


@pytest.mark.parametrize("k", [1, 10])
def test_samples_do_not_depend_on_the_device(k):
    draw = torch.Generator().manual_seed(0)
    src, dst = (torch.randint(300, (20_000,), generator=draw) for _ in range(2))
    csr = temporal_csr(src, dst, 400)  # a quarter of the nodes has no event
    there = replace(csr, **{name: getattr(csr, name).cuda() for name in ("indptr", "neighbour", "event")})
    nodes = torch.randint(400, (3_000,), generator=draw)
    cuts = torch.randint(20_001, (3_000,), generator=draw)
    for sample in (lambda c, v, at: recent(c, v, at, k), lambda c, v, at: uniform(c, v, at, k, 7)):
        want, found = sample(csr, nodes, cuts), sample(there, nodes.cuda(), cuts.cuda())
        assert all(torch.equal(a, b.cpu()) for a, b in zip(want, found, strict=True))
