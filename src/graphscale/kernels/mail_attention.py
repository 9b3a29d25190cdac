"""Attention of nodes over their mails, in one pass: a mail is read where it lies, and encoded while in cache.

A query meets its mails, in place of every mail a matrix (as in ``kernels.event_attention``): what it asks of a mail is
one vector, so a score is a product with the mail and with its encoded age. Compiled on a CPU; elsewhere of torch's
operations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphscale.kernels.dropout import key_of, threshold
from graphscale.kernels.shared import wide_of
from graphscale.kernels.threads import looped
from graphscale.kernels.waves import waves

SLOPE = 0.2  # of a score below 0
Found = tuple[Tensor, Tensor]


def attend_mails(
    nodes: Tensor, there: Tensor, age: Tensor, mail: Tensor, w: Tensor, b: Tensor, asked: Tensor, bias: Tensor,
    p: float = 0.0, training: bool = True,
) -> Found:  # fmt: skip
    """Sums of mails and of their encoded ages [H, u, M + T], and of their shares [u, H]: a softmax of leaky scores.

    Args:
        nodes: [u] those that ask, each with a mail or more.
        there: [n, S] bool: which slots hold a mail.
        age: [n, S] of the mails; 0 elsewhere.
        mail: [n, S, M] constants.
        w, b: [T] of the encoding, both constants or both learned.
        asked: [H, u, M + T] of a mail and of its encoded age.
        bias: [u, H] of every score.
        p: probability of dropping a share, while training.
    """
    below = threshold(p) if training else 0
    if asked.device.type != "cpu" or below >= 2**32 or not nodes.numel():
        return of_parts(nodes, there, age, mail, w, b, asked, bias, p, training)
    drawn = key_of() if below else torch.zeros(1, dtype=torch.int64)
    wide = wide_of(asked)
    kind = wide.dtype
    found: Found = _Attend.apply(  # type: ignore[no-untyped-call]
        wide, wide_of(bias).to(kind), w, b, nodes, there, age, mail.to(kind).contiguous(), drawn, below
    )
    return found


def of_parts(
    nodes: Tensor, there: Tensor, age: Tensor, mail: Tensor, w: Tensor, b: Tensor, asked: Tensor, bias: Tensor,
    p: float = 0.0, training: bool = True,
) -> Found:  # fmt: skip
    """``attend_mails`` of torch's operations, on any device."""
    there, told = there[nodes], (mail[nodes], waves(age[nodes], w, b))
    parts = asked.transpose(0, 1).split([mail.shape[2], w.numel()], dim=2)
    score = sum(torch.bmm(a, x.mT.to(a.dtype)) for a, x in zip(parts, told, strict=True))
    score = F.leaky_relu(score + bias[:, :, None], SLOPE)  # [u, H, S]
    share = F.dropout(score.masked_fill(~there[:, None], -torch.inf).softmax(2), p, training)
    sums = torch.cat([torch.bmm(share, x.to(share.dtype)) for x in told], dim=2)
    return sums.transpose(0, 1), share.sum(2)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, asked: Tensor, bias: Tensor, w: Tensor, b: Tensor, nodes: Tensor, there: Tensor, age: Tensor,
        mail: Tensor, drawn: Tensor, below: int,
    ) -> Found:  # fmt: skip
        from graphscale.kernels import mail_loops as loops

        kind = np.float64 if asked.dtype == torch.float64 else np.float32
        ctx.slope, ctx.scale = kind(SLOPE), kind(1 / (1 - below / 2**32))
        share = asked.new_empty(nodes.numel(), asked.shape[0], there.shape[1])
        low = torch.empty(share.shape, dtype=torch.bool)
        sums, total = torch.empty_like(asked), torch.empty_like(bias)
        given = (nodes, there, age, mail, w, b, asked, bias, ctx.slope)
        looped(
            loops.attend, *given, drawn.numpy().view(np.uint32), np.uint32(below), ctx.scale, share, low, sums, total
        )
        ctx.save_for_backward(asked, w, b, nodes, there, age, mail, share, low)
        return sums, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, of_total: Tensor) -> tuple[Tensor | None, ...]:
        from graphscale.kernels import mail_loops as loops

        asked, w, b, nodes, there, age, mail, share, low = ctx.saved_tensors
        learned = ctx.needs_input_grad[2]
        to_asked, to_bias = torch.empty_like(asked), torch.empty_like(of_total)
        parts = asked.new_empty(2, -(-nodes.numel() // loops.CHUNK), w.numel() if learned else 0)
        given = (
            nodes,
            there,
            age,
            mail,
            w,
            b,
            asked,
            ctx.slope,
            ctx.scale,
            share,
            low,
            grad.contiguous(),
            of_total.contiguous(),
        )
        looped(loops.attend_back, *given, to_asked, to_bias, *parts)
        to_w, to_b = parts.sum(1).to(w.dtype) if learned else (None, None)
        return to_asked, to_bias, to_w, to_b, None, None, None, None, None, None
