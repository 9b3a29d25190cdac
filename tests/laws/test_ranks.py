"""Two ranks equal one process that accumulates the same batches: weights and tables, float64."""

from __future__ import annotations

import pytest
import torch
from forked import started
from rankwork import BUILD, accumulated, ranks


@pytest.mark.parametrize("kind", BUILD)
def test_two_ranks_equal_accumulation(tmp_path, kind):
    started(ranks, str(tmp_path), kind, size=2)
    expected = accumulated(kind)
    for rank in (0, 1):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)
