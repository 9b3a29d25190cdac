from __future__ import annotations

import numpy as np
import pytest

from graphscale.kernels.sorting import ascending


@pytest.mark.parametrize("top", [0, 1, 4095, 4096, 10**7, 2**39])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_ascending_is_a_stable_sort(top, count):
    keys = np.random.default_rng(0).integers(0, top, size=count, endpoint=True)
    assert np.array_equal(ascending(keys, top), np.argsort(keys, kind="stable"))
