"""GAT's attention as one function: scores, softmax, dropout and weighted sum, differentiable to any order.

Made of ``kernels.entries`` it writes and reads some twenty arrays as long as the entries; compiled, it keeps
one (the shares) and makes one more in its backward pass. The compiled form runs on CPU tensors; elsewhere, and
where a gradient is to be differentiated again, the function is made of ``kernels.entries``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphscale.csr import Csr
from graphscale.kernels import entries, meter
from graphscale.kernels.dropout import dropout, key_of, threshold
from graphscale.kernels.engine import engine_of
from graphscale.kernels.shared import wide_of
from graphscale.kernels.threads import looped


def attend(
    adj: Csr, h: Tensor, sources: Tensor, targets: Tensor, slope: float, p: float = 0.0, training: bool = True
) -> Tensor:
    """[n, H, D]: for every row the sum of its columns' h, weighted by the row's attention to them.

    The attention of row r to column c is softmax over the row of leaky_relu(<sources, h[c]> + <targets, h[r]>)
    (Velickovic et al., ICLR 2018, equation (3)), dropped with probability p while training.

    Args:
        adj: [n, n] the pattern; its values are not used.
        h: [n, H, D] what is sent, in H heads.
        sources: [H, D] products with the sender's h.
        targets: [H, D] products with the receiver's.
        slope: of the leaky relu below 0.
        p: probability of dropping an attention, in [0, 1).
        training: False drops nothing.

    Returns:
        A tensor like h; a row without entries is 0. Random by torch's generator of the CPU, as ``kernels.dropout``.
    """
    below = threshold(p) if training else 0
    if not (_compiled(h) and below < 2**32 and h.numel() and adj.num_entries):
        share = dropout(_shares(adj, h, sources, targets, slope), p, training)
        return entries.weighted_sum(adj, share, h)
    key = key_of() if below else torch.zeros(1, dtype=torch.int64)
    out: Tensor = _Attend.apply(h, sources, targets, adj, slope, key, below)  # type: ignore[no-untyped-call]
    return out


def _compiled(h: Tensor) -> bool:
    if h.device.type != "cpu":
        return False
    from graphscale.kernels import cpu_engine

    return engine_of(h) is cpu_engine


def _shares(adj: Csr, h: Tensor, sources: Tensor, targets: Tensor, slope: float) -> Tensor:
    """[E, H]: the attention, of functions that can be differentiated to any order."""
    far, near = (h * sources).sum(-1), (h * targets).sum(-1)
    scores = F.leaky_relu(entries.of_columns(adj, far) + entries.of_rows(adj, near), slope)
    return entries.softmax(adj, scores)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, sources: Tensor, targets: Tensor, adj: Csr, slope: float, key: Tensor, below: int
    ) -> Tensor:
        from graphscale.kernels import attention_loops as loops

        wide = wide_of(h)
        src, dst = (wide_of(t).to(wide.dtype) for t in (sources, targets))
        number = np.float64 if wide.dtype == torch.float64 else np.float32
        scale = number(1 / (1 - below / 2**32))
        far, near = (wide.new_empty(wide.shape[:2]) for _ in range(2))
        looped(loops.products, wide, src, dst, far, near)
        share, out = wide.new_empty(adj.num_entries, wide.shape[1]), torch.empty_like(wide)
        drawn = key.numpy().view(np.uint32)
        arrays = (far, near, number(slope), drawn, np.uint32(below), scale, wide, share, out)
        looped(loops.attend, adj.indptr, adj.indices, *arrays)
        meter.count(adj, (share, out), gathered=(far, wide), straight=(wide,))
        ctx.adj, ctx.slope, ctx.scale = adj, slope, scale
        ctx.save_for_backward(h, sources, targets, share, far, near)
        return out.to(h.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, sources, targets, share, far, near = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            given = (h, sources, targets)
            kept = (share >= 0).to(share.dtype).mul_(float(ctx.scale))
            weights = _shares(ctx.adj, *given, ctx.slope) * kept
            wanted = [x for x, want in zip(given, ctx.needs_input_grad, strict=False) if want]
            out = entries.weighted_sum(ctx.adj, weights, h)
            found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
            return (*(next(found) if want else None for want in ctx.needs_input_grad[:3]), None, None, None, None)
        back = _back(ctx, wide_of(grad).to(share.dtype), wide_of(h), share, far, near)
        return (*(b.to(x.dtype) for b, x in zip(back, (h, sources, targets), strict=True)), None, None, None, None)


def _back(ctx: Any, grad: Tensor, h: Tensor, share: Tensor, far: Tensor, near: Tensor) -> tuple[Tensor, ...]:
    """The gradients to h [n, H, D], sources and targets [H, D]."""
    from graphscale.kernels import attention_loops as loops

    adj: Csr = ctx.adj
    _, sources, targets, *_ = ctx.saved_tensors
    src, dst = (wide_of(t).to(h.dtype) for t in (sources, targets))
    slope = type(ctx.scale)(ctx.slope)
    to_score, to_near, to_far, to_h = (torch.empty_like(t) for t in (share, near, far, h))
    arrays = (far, near, slope, ctx.scale, h, share, grad, to_score, to_near)
    looped(loops.attend_rows, adj.indptr, adj.indices, *arrays)
    meter.count(adj, (to_score, to_near), gathered=(far, h), straight=(near, share, grad))
    transposed, entry = adj.transposed
    arrays = (ctx.scale, share, to_score, to_near, src, dst, grad, to_far, to_h)
    looped(loops.attend_columns, transposed.indptr, transposed.indices, entry, *arrays)
    meter.count(transposed, (to_far, to_h), gathered=(share, to_score, grad), straight=(entry, to_near))
    parts = h.new_empty(2, loops.chunks(h.shape[0]), *h.shape[1:])
    looped(loops.products_back, h, to_far, to_near, *parts)
    return to_h, *parts.sum(1)
