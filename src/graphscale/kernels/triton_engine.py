"""The engine of CUDA tensors: launches of Triton programs (``kernels.programs``, ``kernels.max_programs``).

Axis 0 of a launch counts rows (up to 2^31 - 1), axis 1 blocks of what a row has (up to 65,535). Shapes:
``kernels.engine``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphscale.csr import Csr
from graphscale.kernels import max_programs, programs

# TRITON_INTERPRET=1, set before Triton was first imported: the programs take CPU tensors.
INTERPRETED = not isinstance(programs.weighted_sum, triton.JITFunction)

# Of a tile: numbers side by side, numbers in all, entries. A thread has eight numbers: in float32, two loads of 16
# bytes.
_WIDEST, _LARGEST, _DEEPEST, _NUMBERS_A_WARP = 128, 1024, 32, 256


def gather_sum(
    adj: Csr, x: Tensor, pre: Tensor | None = None, post: Tensor | None = None, diag: Tensor | None = None
) -> Tensor:
    """``post * (adj @ (pre * x)) + diag * x``."""
    return _sums(adj.indptr, adj.indices, adj.values, x[:, None], pre, post, diag)[:, 0]


def weighted_sum(adj: Csr, values: Tensor, x: Tensor) -> Tensor:
    """Sums of the columns' rows of x, weighted by entry and head."""
    return _sums(adj.indptr, adj.indices, values, x)


def dot(adj: Csr, a: Tensor, b: Tensor) -> Tensor:
    """Products of a's row and b's column, of every entry."""
    return _scores(adj, a, b, None, 0.0)


def row_sum(adj: Csr, values: Tensor, order: Tensor | None = None) -> Tensor:
    """Sums over the entries of every row."""
    return _sums(adj.indptr, order, None, values[:, None])[:, 0]


def softmax(adj: Csr, scores: Tensor) -> Tensor:
    """Softmax over the entries of every row."""
    heads = scores.shape[1]
    out = scores.new_empty(scores.shape)
    arrays = (adj.indptr, scores.contiguous(), out)
    _launch(programs.softmax, adj.num_rows, heads, _tile(heads), *arrays, heads=heads, wide=_wide(out))
    return out


def additive(adj: Csr, a: Tensor, b: Tensor, att: Tensor, slope: float) -> Tensor:
    """GATv2's scores."""
    return _scores(adj, a, b, att.contiguous(), slope)


def additive_back(
    adj: Csr, grad: Tensor, a: Tensor, b: Tensor, att: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``additive`` to a, b and att."""
    transposed, entry = adj.transposed
    grad, a, b, att = grad.contiguous(), a.contiguous(), b.contiguous(), att.contiguous()
    to_a, to_b = torch.empty_like(a), torch.empty_like(b)
    to_att = torch.empty_like(a, dtype=torch.promote_types(a.dtype, torch.float32))  # [R, H, D]
    heads, dim = att.shape

    def back(matrix: Csr, *arrays: Tensor | None) -> None:
        given = (matrix.indptr, matrix.indices, grad, att, *arrays)
        constants = {"slope": slope, "heads": heads, "dim": dim, "wide": _wide(a)}
        _launch(programs.additive_back, matrix.num_rows, heads * dim, _tile(heads * dim), *given, **constants)

    back(adj, None, a, b, to_a, to_att)
    back(transposed, entry, b, a, to_b, None)
    return to_a, to_b, to_att.sum(0).to(att.dtype)


def maximum(adj: Csr, x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of every row's columns, and the columns."""
    rows, width = adj.num_rows, x.shape[1]
    out = x.new_empty(rows, width)
    chosen = torch.empty_like(out, dtype=adj.indices.dtype)
    arrays = (adj.indptr, adj.indices, x.contiguous(), out, chosen)
    _launch(max_programs.maximum, rows, width, _tile(width), *arrays, width=width, wide=_wide(x))
    return out, chosen


def from_chosen(adj: Csr, chosen: Tensor, grad: Tensor) -> Tensor:
    """Every row's number, to the column that it chose."""
    transposed, _ = adj.transposed
    cols, width = adj.num_cols, grad.shape[1]
    out = grad.new_empty(cols, width)
    arrays = (transposed.indptr, transposed.indices, chosen, grad.contiguous(), out)
    _launch(max_programs.from_chosen, cols, width, _tile(width), *arrays, width=width, wide=_wide(grad))
    return out


def pick(chosen: Tensor, x: Tensor) -> Tensor:
    """What every row chose."""
    rows, width = chosen.shape
    out = x.new_empty(rows, width)
    tile = {"block": _tile(width)["block"]}
    _launch(max_programs.pick, rows, width, tile, chosen, x.contiguous(), out, width=width)
    return out


def _sums(indptr: Tensor, indices: Tensor | None, values: Tensor | None, x: Tensor, *scales: Tensor | None) -> Tensor:
    """[R, H, D] of x [C, H, D]; scales are pre, post and diag."""
    rows, (_, heads, dim) = indptr.numel() - 1, x.shape
    out = x.new_empty(rows, heads, dim)
    given = (None if t is None else t.contiguous() for t in (values, x, *(scales or (None, None, None))))
    constants = {"heads": heads, "dim": dim, "wide": _wide(x)}
    width = heads * dim
    _launch(programs.weighted_sum, rows, width, _tile(width), indptr, indices, *given, out, **constants)
    return out


def _scores(adj: Csr, a: Tensor, b: Tensor, att: Tensor | None, slope: float) -> Tensor:
    _, heads, dim = a.shape
    out = a.new_empty(adj.num_entries, heads)
    arrays = (adj.indptr, adj.indices, a.contiguous(), b.contiguous(), att, out)
    constants = {"slope": slope, "heads": heads, "dim": dim, "wide": _wide(a)}
    inner = _tile(dim)["block"]
    _launch(programs.scores, adj.num_rows, heads, _tile(heads, inner) | {"inner": inner}, *arrays, **constants)
    return out


def _tile(width: int, inner: int = 1) -> dict[str, int]:
    """{k: entries, block: how many of the ``width`` things in a row, of ``inner`` numbers each}: powers of 2."""
    block = min(triton.next_power_of_2(max(width, 1)), _WIDEST // inner)
    return {"k": min(_LARGEST // (block * inner), _DEEPEST), "block": block}


def _launch(program: Any, rows: int, width: int, tile: dict[str, int], /, *arguments: Any, **constants: Any) -> None:
    """A program a row and block of the ``width`` things a row has; none where there are none."""
    if rows == 0 or width == 0:
        return
    # Fusing is said, since Triton's default changes between versions, and it would warn.
    options = {"num_warps": max(math.prod(tile.values()) // _NUMBERS_A_WARP, 1), "enable_fp_fusion": True}
    with torch.cuda.device_of(arguments[0]):  # Triton launches on the current device
        program[rows, triton.cdiv(width, tile["block"])](*arguments, **constants, **tile, **options)


def _wide(x: Tensor) -> Any:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
