"""What engines have in common: the type in which they compute, scales around a sum, torch's own sparse matrix."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from graphscale.csr import Csr

with warnings.catch_warnings():
    # torch says once a process that CSR tensors are in beta; it is said here, where nobody reads it.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([]), torch.tensor([]), (1, 1))


def wide_of(x: Tensor) -> Tensor:
    """Contiguous float32 or float64: sums of shorter floats are kept in float32."""
    return (x if x.dtype == torch.float64 else x.float()).contiguous()


def scaled(
    summed: Callable[[Tensor], Tensor], x: Tensor, pre: Tensor | None, post: Tensor | None, diag: Tensor | None
) -> Tensor:
    """``post * summed(pre * x) + diag * x`` [R, D], without a graph of gradients; ``summed`` makes a new tensor."""
    out = summed((x if pre is None else x * pre).contiguous())
    if post is not None:  # in place: a fresh [R, D] costs as much as what is done to it
        out.mul_(post)
    return out if diag is None else out.addcmul_(x, diag)


def sparse_tensor(adj: Csr, dtype: torch.dtype) -> Tensor:
    """[R, C]: the matrix as a ``torch.sparse_csr_tensor``, with its values or ones in ``dtype``."""
    ones = torch.ones(adj.num_entries, dtype=dtype, device=adj.device)
    values = ones if adj.values is None else adj.values.to(dtype)
    return torch.sparse_csr_tensor(adj.indptr, adj.indices, values, adj.shape, check_invariants=False)
