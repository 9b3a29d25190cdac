from __future__ import annotations

import pytest
import torch

from graphscale.kernels.engine import VARIABLE

CUDA = torch.cuda.is_available()
# Triton's programs run compiled where there is a GPU, in Triton's interpreter elsewhere (tests/conftest.py).
PLACES = [("loops", "cpu"), ("torch", "cpu"), *([("torch", "cuda")] if CUDA else [])]
PLACES += [("programs", "cuda" if CUDA else "cpu")]


@pytest.fixture(params=PLACES, ids="-".join)
def device(request, monkeypatch) -> torch.device:
    """Every engine in turn, asked for by its name; the device of its tensors."""
    name, where = request.param
    if name == "programs":
        pytest.importorskip("triton", reason="Triton is not installed: `pip install triton` to test its programs")
    monkeypatch.setenv(VARIABLE, name)
    return torch.device(where)
