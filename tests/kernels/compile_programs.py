"""Compiles the launches of the Triton engine for a GPU, with none at hand; prints a line a launch.

A script, since a process in which Triton interprets cannot compile: its standard library is another there.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from graphscale.csr import from_entries
from graphscale.kernels import triton_engine

AMPERE = GPUTarget("cuda", 80, 32)
NAMES = {
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def compiled(program: Any, rows: int, width: int, tile: dict[str, int], /, *arguments: Any, **constants: Any) -> None:
    """Stands in for a launch."""
    given = dict(zip(program.arg_names, arguments, strict=False)) | constants | tile
    kinds = {name: NAMES[given[name].dtype] if isinstance(given[name], Tensor) else "constexpr" for name in given}
    fixed = {(i,): given[name] for i, name in enumerate(program.arg_names) if kinds[name] == "constexpr"}
    made = triton.compile(ASTSource(program, kinds, fixed), target=AMPERE, options={"enable_fp_fusion": True})
    assert made.asm["cubin"]
    print(program.__name__, given["out" if "out" in given else "to_a"].dtype)


def launch_all(dtype: torch.dtype, heads: int, dim: int) -> None:
    adj, _ = from_entries(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 3, 1, 4]), (3, 5), torch.rand(4))
    transposed, entry = adj.transposed
    shapes = ((3, heads, dim), (5, heads, dim), (heads, dim), (4, heads), (5, 1))
    a, b, att, values, scale = (torch.ones(shape, dtype=dtype) for shape in shapes)
    flat, chosen = b.flatten(1), torch.zeros(3, heads * dim, dtype=adj.indices.dtype)
    triton_engine.gather_sum(adj, flat, scale, scale[:3], scale[:3])
    triton_engine.weighted_sum(adj, values, b)
    triton_engine.dot(adj, a, b)
    triton_engine.row_sum(transposed, values, entry)
    triton_engine.row_sum(adj, values)
    triton_engine.softmax(adj, values)
    triton_engine.additive(adj, a, b, att, 0.2)
    triton_engine.additive_back(adj, values, a, b, att, 0.2)
    triton_engine.maximum(adj, flat)
    triton_engine.from_chosen(adj, chosen, a.flatten(1))
    triton_engine.pick(chosen, flat)


if __name__ == "__main__":
    warnings.simplefilter("error")
    triton_engine._launch = compiled
    launch_all(torch.bfloat16, 3, 10)
    launch_all(torch.float64, 1, 130)
