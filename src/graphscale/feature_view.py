"""Features that stay sparse on their way through a model of PyG's layers, and are dense to any code that looks.

A linear map is what most models do first to their features, dropout before it; those two keep to the stored
entries (``nn.fast_calls``). Anything else gets the dense tensor, made once, which from then on is what counts.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphscale.csr import Csr, from_entries
from graphscale.kernels.dropout import dropout
from graphscale.kernels.sparse_linear import sparse_linear

_DENSITY = 0.1  # above it a dense product is faster: it reaches some ten times the operations a second


class SparseRows(Tensor):
    """[n, F] features of a block: a tensor to all code that takes one, constants to autograd."""

    matrix: Csr

    @staticmethod
    def __new__(cls, matrix: Csr, dtype: torch.dtype = torch.float32) -> SparseRows:
        """The rows of a matrix, in a float type."""
        self: SparseRows = torch.Tensor._make_wrapper_subclass(cls, matrix.shape, dtype=dtype, device=matrix.device)
        self.matrix = matrix
        return self

    @staticmethod
    def of(matrix: Csr) -> Tensor:
        """Sparse rows where products are the faster for it, dense ones elsewhere."""
        rows, cols = matrix.shape
        return SparseRows(matrix) if matrix.num_entries < _DENSITY * rows * cols else matrix.dense()

    @cached_property
    def whole(self) -> Tensor:
        """The dense tensor."""
        return self.matrix.dense(self.dtype)

    @property
    def sparse(self) -> bool:
        """Whether the entries are the features still: who has the dense tensor may have written to it, or to a view."""
        return "whole" not in self.__dict__

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x @ weight.T + bias``, with an entry's share of the operations of a dense product for every entry.

        Args:
            weight: [H, F].
            bias: [H].

        Returns:
            [n, H] of weight's type, or autocast's; differentiable in weight and bias to any order.
        """
        device = self.device.type
        if torch.is_autocast_enabled(device) and weight.dtype == torch.float32:
            weight = weight.to(torch.get_autocast_dtype(device))
        out = sparse_linear(self.matrix, weight)
        return out if bias is None else out + bias.to(out.dtype)

    def part(self, start: int, stop: int) -> SparseRows:
        """Rows start:stop."""
        return SparseRows(self.matrix.rows(start, stop), self.dtype)

    def dropped(self, p: float) -> SparseRows:
        """Every entry zero with probability p, the others divided by 1 - p; a zero stays one."""
        values = self.matrix.values
        ones = torch.ones(self.matrix.num_entries, dtype=self.dtype, device=self.device) if values is None else values
        # Not ``with_values``, which would make a transpose that nothing needs.
        return SparseRows(replace(self.matrix, values=dropout(ones, p, True), symmetric=False), self.dtype)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Any operation works on the dense tensor."""
        args, kwargs = pytree.tree_map_only(SparseRows, lambda rows: rows.whole, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SparseRows({self.matrix.num_entries} entries of {list(self.shape)})"


def sparse_rows(x: Tensor) -> SparseRows:
    """The rows of a dense tensor, in its type."""
    row, col = x.nonzero().t()
    return SparseRows(from_entries(row, col, (x.shape[0], x.shape[1]), x[row, col])[0], x.dtype)


def dense(x: Tensor) -> Tensor:
    """The same rows as kernels take them."""
    return x.whole if isinstance(x, SparseRows) else x
