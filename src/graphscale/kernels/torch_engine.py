"""The engine of any device, in torch alone: sparse CSR products, gathers and scatters.

Entries' rows ([E, H, D]) are written to memory and read again, so it is the slowest; it is there where neither
compiled loops nor Triton run. Sums are computed in float32 or float64: half floats are widened first, since not every
device's sparse product takes them. Shapes: ``kernels.engine``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from graphscale.csr import Csr
from graphscale.kernels.shared import scaled, sparse_tensor, wide_of


def gather_sum(
    adj: Csr, x: Tensor, pre: Tensor | None = None, post: Tensor | None = None, diag: Tensor | None = None
) -> Tensor:
    """``post * (adj @ (pre * x)) + diag * x``."""
    return scaled(lambda v: _product(adj, v), x, pre, post, diag)


def weighted_sum(adj: Csr, values: Tensor, x: Tensor) -> Tensor:
    """Sums of the columns' rows of x, weighted by entry and head."""
    wide = wide_of(x)
    out = wide.new_zeros(adj.num_rows, *x.shape[1:])
    return out.index_add_(0, adj.row_of, values[:, :, None].to(wide.dtype) * wide[adj.indices.long()]).to(x.dtype)


def dot(adj: Csr, a: Tensor, b: Tensor) -> Tensor:
    """Products of a's row and b's column, of every entry."""
    return (wide_of(a)[adj.row_of] * wide_of(b)[adj.indices.long()]).sum(2).to(a.dtype)


def row_sum(adj: Csr, values: Tensor, order: Tensor | None = None) -> Tensor:
    """Sums over the entries of every row."""
    wide = wide_of(values)
    out = wide.new_zeros(adj.num_rows, values.shape[1])
    return out.index_add_(0, adj.row_of, wide if order is None else wide[order.long()]).to(values.dtype)


def softmax(adj: Csr, scores: Tensor) -> Tensor:
    """Softmax over the entries of every row."""
    wide = wide_of(scores)
    row = adj.row_of[:, None].expand_as(wide)
    top = wide.new_full((adj.num_rows, wide.shape[1]), -torch.inf).scatter_reduce_(0, row, wide, "amax")
    share = (wide - top[adj.row_of]).exp()
    return (share / torch.zeros_like(top).index_add_(0, adj.row_of, share)[adj.row_of]).to(scores.dtype)


def additive(adj: Csr, a: Tensor, b: Tensor, att: Tensor, slope: float) -> Tensor:
    """GATv2's scores; made of what autograd knows, so that they can be differentiated to any order."""
    z = wide_of(a)[adj.row_of] + wide_of(b)[adj.indices.long()]  # [E, H, D]
    return (F.leaky_relu(z, slope) * att).sum(2).to(a.dtype)


def additive_back(
    adj: Csr, grad: Tensor, a: Tensor, b: Tensor, att: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``additive`` to a, b and att."""
    col = adj.indices.long()
    near, far = wide_of(a), wide_of(b)
    z = near[adj.row_of] + far[col]  # [E, H, D]
    to_z = wide_of(grad)[:, :, None]
    to_z = torch.where(z > 0, to_z, slope * to_z)
    to_att = (to_z * z).sum(0)
    to_z = to_z * att
    to_a = torch.zeros_like(near).index_add_(0, adj.row_of, to_z)
    to_b = torch.zeros_like(far).index_add_(0, col, to_z)
    return to_a.to(a.dtype), to_b.to(b.dtype), to_att.to(att.dtype)


def maximum(adj: Csr, x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of every row's columns, and the columns."""
    wide = wide_of(x)
    shape, last = (adj.num_rows, x.shape[1]), adj.num_entries
    row = adj.row_of[:, None].expand(-1, x.shape[1])
    sent = wide[adj.indices.long()]  # [E, D]
    top = wide.new_zeros(shape).scatter_reduce_(0, row, sent, "amax", include_self=False)
    # NaN spreads in amax, and equals nothing: without the second test its row would find no entry.
    is_top = (sent == top[adj.row_of]) | sent.isnan()
    entry = torch.where(is_top, torch.arange(last, device=x.device)[:, None], last)
    first = row.new_full(shape, last).scatter_reduce_(0, row, entry, "amin")
    return top.to(x.dtype), F.pad(adj.indices, (0, 1), value=-1)[first]


def from_chosen(adj: Csr, chosen: Tensor, grad: Tensor) -> Tensor:
    """Every row's number, to the column that it chose."""
    wide = wide_of(grad)
    out = wide.new_zeros(adj.num_cols + 1, grad.shape[1])  # the last row takes what chose nothing
    target = torch.where(chosen < 0, adj.num_cols, chosen).long()
    return out.scatter_add_(0, target, wide)[:-1].to(grad.dtype)


def pick(chosen: Tensor, x: Tensor) -> Tensor:
    """What every row chose."""
    return F.pad(x, (0, 0, 0, 1)).gather(0, torch.where(chosen < 0, x.shape[0], chosen).long())


def _product(adj: Csr, x: Tensor) -> Tensor:
    if adj.num_entries == 0 or x.shape[1] == 0:
        return x.new_zeros((adj.num_rows, x.shape[1]))
    wide = wide_of(x)
    if adj.device.type == "cuda" and adj.num_entries > adj.num_rows * adj.num_cols:
        # cuSPARSE refuses more entries than places; several edges between two nodes may be more.
        values = wide.new_ones(adj.num_entries) if adj.values is None else adj.values.to(wide.dtype)
        sent = values[:, None] * wide[adj.indices.long()]
        return wide.new_zeros(adj.num_rows, x.shape[1]).index_add_(0, adj.row_of, sent).to(x.dtype)
    return (sparse_tensor(adj, wide.dtype) @ wide).to(x.dtype)
