"""Triton's programs become machine code for a GPU on any machine: its interpreter takes what its compiler does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_programs.py")


def test_every_program_compiles_for_a_gpu(tmp_path):
    triton = pytest.importorskip("triton", minversion="3.3", reason="a Triton that compiles without a GPU is missing")
    from graphscale.kernels import max_programs, programs

    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, SCRIPT], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = {
        name for module in (programs, max_programs) for name, value in vars(module).items() if program(triton, value)
    }
    for dtype in ("torch.bfloat16", "torch.float64"):
        compiled = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(dtype)}
        assert compiled == written - {"ends"}  # that one is part of others


def program(triton, value) -> bool:
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(value, (triton.JITFunction, InterpretedFunction))
