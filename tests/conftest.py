from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Laws fork processes and compare bits, so they run on the CPU. With GRAPHSCALE_TEST_CUDA set a GPU is seen, for
# tests/cuda, tests/kernels and tests/test_csr.py (CONTRIBUTING.md).
if "GRAPHSCALE_TEST_CUDA" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch

if not torch.cuda.is_available():
    # Triton's programs run in its interpreter then; it asks when Triton is first imported, which PyG does.
    os.environ["TRITON_INTERPRET"] = "1"

from graphscale.data.pyg import DATA_VARIABLE

# Where ../shared/data is, tests of real data sets run; elsewhere they skip and say so.
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if DATA_VARIABLE not in os.environ and _BESIDE.is_dir():
    os.environ[DATA_VARIABLE] = str(_BESIDE)

torch.set_num_threads(1)  # the graphs are small, and workers share the cores


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real data sets, or a skip that says what to set."""
    folder = os.environ.get(DATA_VARIABLE)
    if folder is None or not Path(folder).is_dir():
        pytest.skip(f"{DATA_VARIABLE} names no folder of data sets")
    return Path(folder)


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as on a terminal, in the tests and in what they start: under nohup it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
