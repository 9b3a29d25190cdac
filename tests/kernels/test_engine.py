"""Which engine works on which tensors, and what the variable that overrides it may say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from graphscale.errors import InputError
from graphscale.kernels import cpu_engine, torch_engine
from graphscale.kernels.engine import VARIABLE, engine_of

ELSEWHERE = torch.empty(1, device="meta")  # a device that is neither CPU nor CUDA


def test_the_device_decides(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert engine_of(torch.empty(1)) is cpu_engine
    assert engine_of(ELSEWHERE) is torch_engine


def test_the_variable_overrides(monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch")
    assert engine_of(torch.empty(1)) is torch_engine
    monkeypatch.setenv(VARIABLE, "")
    assert engine_of(torch.empty(1)) is cpu_engine


@pytest.mark.parametrize(
    ("name", "said"), [("cuda", "'cuda', which names no engine.*loops, programs, torch"), ("loops", "'loops'.*meta")]
)
def test_what_cannot_be_is_refused(name, said, monkeypatch):
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(InputError, match=said):
        engine_of(ELSEWHERE)


def run(code: str, **variables: str) -> str:
    """What a fresh process prints; Triton's interpreter is not asked for."""
    environment = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", VARIABLE)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment | variables, check=True, capture_output=True, text=True).stdout


ON_A_CPU = """
import sys, torch
from graphscale.csr import from_entries
from graphscale.kernels.aggregate import aggregate
print(aggregate(from_entries(torch.tensor([0]), torch.tensor([1]), (2, 2))[0], torch.ones(2, 1)).tolist())
print("triton" in sys.modules)
"""


def test_cpu_tensors_import_no_triton():
    assert run(ON_A_CPU).split("\n")[:2] == ["[[1.0], [0.0]]", "False"]


REFUSED = """
import sys, torch
from graphscale.errors import InputError
from graphscale.kernels.engine import _engine, engine_of
{}
try:
    engine_of(torch.empty(1))
except InputError as error:
    print(error)
print(_engine("", "cuda").__name__)
"""


def test_without_triton():
    said = run(REFUSED.format("sys.modules['triton'] = None"), **{VARIABLE: "programs"})
    assert "need Triton, and it cannot be imported" in said and "graphscale[gpu]" in said
    assert said.endswith("graphscale.kernels.torch_engine\n")


def test_with_triton_but_without_a_gpu():
    pytest.importorskip("triton", reason="Triton is not installed")
    said = run(REFUSED.format(""), **{VARIABLE: "programs"})
    assert "run on CUDA tensors; these are on cpu" in said and "TRITON_INTERPRET=1" in said
    assert said.endswith("graphscale.kernels.triton_engine\n")


def test_compiled_loops_leave_torch_its_threads():
    code = (
        "import torch\n"
        "torch.ones(1000, 1000).sum()\n"  # torch sets OpenMP's number before its first sum, and not again
        "torch.set_num_threads(1)\n"
        "from graphscale.kernels.dropout import dropout\n"
        "dropout(torch.ones(10), 0.5)\n"
        "assert torch.get_num_threads() == 1, torch.get_num_threads()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
