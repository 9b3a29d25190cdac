"""Attention of queries over their sampled events, in one pass; what an event adds is never made for all events.

A key is K h_u + E e with e = [cos(w age + b) || feat], so a score is q K h_u + (q E) e: the event's part costs a
product of a query with its own events in place of a product of every event with E. So do the values: sums of e by the
shares, and then E'. The same numbers as projecting every event, for a fiftieth of the operations. Compiled on CPU
tensors; elsewhere of ``kernels.entries``, the same function of the same random draw's kind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphscale.csr import Csr
from graphscale.kernels import entries
from graphscale.kernels.dropout import dropout, key_of, threshold
from graphscale.kernels.shared import wide_of
from graphscale.kernels.threads import looped
from graphscale.kernels.waves import waves

Found = tuple[Tensor, Tensor]


def attend_events(
    block: Csr, rows: Csr, age: Tensor, feat: Tensor | None, w: Tensor, b: Tensor, query: Tensor, key: Tensor,
    value: Tensor, by_event: Tensor, p: float = 0.0, training: bool = True,
) -> Found:  # fmt: skip
    """Sums of the columns' values [m, H, W] and of the events [H, m, T + F], weighted by attention.

    Args:
        block: [m, q] the other ends of every query's events.
        rows: [m, E] the events of every query, in the same order: event e is entry e.
        age: [E] time since the event.
        feat: [E, F] of the event, constants.
        w, b: [T] of the encoding, both constants or both learned.
        query: [m, H, W] scaled.
        key, value: [q, H, W].
        by_event: [H, m, T + F] what an event's numbers count in the score.
        p: probability of dropping a share, while training.
    """
    below = threshold(p) if training else 0
    if not (query.device.type == "cpu" and below < 2**32 and block.num_entries):
        return of_parts(block, rows, age, feat, w, b, query, key, value, by_event, p, training)
    drawn = key_of() if below else torch.zeros(1, dtype=torch.int64)
    given = [wide_of(x) for x in (query, key, value, by_event)]
    told = given[0].new_empty(age.numel(), 0) if feat is None else wide_of(feat)
    found: Found = _Attend.apply(*given, w, b, age, told, block, drawn, below)  # type: ignore[no-untyped-call]
    return found


def of_parts(
    block: Csr, rows: Csr, age: Tensor, feat: Tensor | None, w: Tensor, b: Tensor, query: Tensor, key: Tensor,
    value: Tensor, by_event: Tensor, p: float = 0.0, training: bool = True,
) -> Found:  # fmt: skip
    """``attend_events`` of the functions of ``kernels.entries``, on any device."""
    told = waves(age, w, b)
    told = (told if feat is None else torch.cat([told, feat.to(told.dtype)], dim=1)).to(query.dtype)[:, None]
    of_events = [entries.dot(rows, part[:, None], told) for part in by_event]
    score = entries.dot(block, query, key) + torch.cat(of_events, dim=1)
    share = dropout(entries.softmax(block, score), p, training)  # [E, H]
    sums = [entries.weighted_sum(rows, share[:, h : h + 1].contiguous(), told) for h in range(share.shape[1])]
    return entries.weighted_sum(block, share, value), torch.cat(sums, dim=1).transpose(0, 1)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, by_event: Tensor, w: Tensor, b: Tensor, age: Tensor,
        feat: Tensor, block: Csr, drawn: Tensor, below: int,
    ) -> Found:  # fmt: skip
        from graphscale.kernels import event_loops as loops

        ctx.scale = (np.float64 if query.dtype == torch.float64 else np.float32)(1 / (1 - below / 2**32))
        share = query.new_empty(block.num_entries, query.shape[1])
        out, sums = torch.empty_like(query), torch.empty_like(by_event)
        arrays = (age, feat, w, b, query, key, value, by_event, drawn.numpy().view(np.uint32), np.uint32(below))
        looped(loops.attend, block.indptr, block.indices, *arrays, ctx.scale, share, out, sums)
        ctx.block = block
        ctx.save_for_backward(query, key, value, by_event, w, b, age, feat, share)
        return out, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        from graphscale.kernels import event_loops as loops

        query, key, value, by_event, w, b, age, feat, share = ctx.saved_tensors
        grad, grad_sums = grad.contiguous(), grad_sums.contiguous()
        to_score, to_query, to_by_event = (torch.empty_like(x) for x in (share, query, by_event))
        learned = ctx.needs_input_grad[4]
        parts = query.new_empty(2, -(-query.shape[0] // loops.CHUNK), w.numel() if learned else 0)
        given = (age, feat, w, b, key, value, by_event, ctx.scale, share, grad, grad_sums)
        results = (to_score, to_query, to_by_event, *parts)
        looped(loops.attend_rows, ctx.block.indptr, ctx.block.indices, *given, *results)
        transposed, entry = ctx.block.transposed
        to_key, to_value = torch.empty_like(key), torch.empty_like(value)
        arrays = (ctx.scale, share, to_score, query, grad, to_key, to_value)
        looped(loops.attend_columns, transposed.indptr, transposed.indices, entry, *arrays)
        to_w, to_b = parts.sum(1).to(w.dtype) if learned else (None, None)
        return to_query, to_key, to_value, to_by_event, to_w, to_b, None, None, None, None, None
