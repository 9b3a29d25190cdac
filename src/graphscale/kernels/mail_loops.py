"""Compiled loops of ``kernels.mail_attention``.

u nodes that ask, S slots, H heads, D = M + T numbers of a mail and of its encoded age. A share is no less than 0, so
its sign is free to say that dropout dropped it; of a slot without a mail it is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from graphscale.kernels.attention_loops import _sign
from graphscale.kernels.dropout import mixed
from graphscale.kernels.event_loops import _add, _product
from graphscale.kernels.loops import exp
from graphscale.kernels.waves import wave, wave_and_slope

Array = NDArray[Any]
_SUMS = {"contract", "reassoc", "nsz", "arcp"}
CHUNK = 16  # nodes of one partial sum, whatever the threads: sums do not depend on their number


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def attend(
    nodes: Array, there: Array, age: Array, mail: Array, w: Array, b: Array, asked: Array, bias: Array, slope: Any,
    drawn: Array, below: Any, scale: Any, share: Array, low: Array, sums: Array, total: Array,
) -> None:  # fmt: skip
    """Shares [u, H, S], which scores are ``low``, sums [H, u, D] by the shares that are kept, their total [u, H]."""
    heads, slots, width, times = asked.shape[0], there.shape[1], mail.shape[2], len(w)
    nothing = asked.dtype.type(0)
    for chunk in prange((len(nodes) + CHUNK - 1) // CHUNK):
        told = np.empty((slots, times), dtype=asked.dtype)
        for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(nodes))):
            v = nodes[i]
            for s in range(slots):
                if there[v, s]:
                    wave(age[v, s], w, b, told[s])
            for h in range(heads):
                row, top = share[i, h], asked.dtype.type(-np.inf)
                for s in range(slots):
                    if there[v, s]:
                        score = bias[i, h] + _product(asked[h, i, :width], mail[v, s])
                        score += _product(asked[h, i, width:], told[s])
                        low[i, h, s] = score <= 0
                        row[s] = score * slope if low[i, h, s] else score
                        top = max(top, row[s])
                for s in range(slots):
                    row[s] = row[s] - top if there[v, s] else nothing
                exp(row)
                whole = nothing
                for s in range(slots):
                    row[s] = row[s] if there[v, s] else nothing
                    whole += row[s]
                for s in range(slots):
                    row[s] /= whole
            if below > 0:
                start = i * heads * slots
                place = np.uint32(drawn[0] + np.uint32(start) + mixed(np.uint32(start >> 32)))
                _sign(share[i].reshape(-1), place, drawn[1], below)
            for h in range(heads):
                sums[h, i] = 0
                total[i, h] = 0
                for s in range(slots):
                    if not share[i, h, s] <= 0:  # what is not a number shall not look like 0
                        weight = share[i, h, s] * scale
                        _add(weight, mail[v, s], sums[h, i, :width])
                        _add(weight, told[s], sums[h, i, width:])
                        total[i, h] += weight


@njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def attend_back(
    nodes: Array, there: Array, age: Array, mail: Array, w: Array, b: Array, asked: Array, slope: Any, scale: Any,
    share: Array, low: Array, grad: Array, of_total: Array, to_asked: Array, to_bias: Array, to_w: Array, to_b: Array,
) -> None:  # fmt: skip
    """Gradients to what is asked and to the bias, and of a chunk's nodes to w and b.

    Where w and b are constants ``to_w`` and ``to_b`` have no column.
    """
    heads, slots, width, times, learned = asked.shape[0], there.shape[1], mail.shape[2], len(w), to_w.shape[1] > 0
    nothing = asked.dtype.type(0)
    for chunk in prange((len(nodes) + CHUNK - 1) // CHUNK):
        told, steep = np.empty((slots, times), dtype=asked.dtype), np.empty((slots, times), dtype=asked.dtype)
        to_score, to_told = np.empty(slots, dtype=asked.dtype), np.empty((slots, times), dtype=asked.dtype)
        to_w[chunk], to_b[chunk] = 0, 0
        for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(nodes))):
            v = nodes[i]
            to_told[:] = 0
            for s in range(slots):
                if there[v, s]:
                    if learned:
                        wave_and_slope(age[v, s], w, b, told[s], steep[s])
                    else:
                        wave(age[v, s], w, b, told[s])
            for h in range(heads):
                mean, own = nothing, nothing
                for s in range(slots):
                    to_score[s] = nothing
                    if there[v, s] and share[i, h, s] > 0:
                        along = _product(grad[h, i, :width], mail[v, s]) + _product(grad[h, i, width:], told[s])
                        to_score[s] = scale * (along + of_total[i, h])
                    mean += abs(share[i, h, s]) * to_score[s]
                to_asked[h, i] = 0
                for s in range(slots):
                    if there[v, s]:
                        score = abs(share[i, h, s]) * (to_score[s] - mean)
                        score = score * slope if low[i, h, s] else score
                        own += score
                        _add(score, mail[v, s], to_asked[h, i, :width])
                        _add(score, told[s], to_asked[h, i, width:])
                        if learned:
                            _add(score, asked[h, i, width:], to_told[s])
                            _add(max(share[i, h, s], nothing) * scale, grad[h, i, width:], to_told[s])
                to_bias[i, h] = own
            if learned:
                for s in range(slots):
                    if there[v, s]:
                        for d in range(times):
                            part = steep[s, d] * to_told[s, d]
                            to_w[chunk, d] += part * age[v, s]
                            to_b[chunk, d] += part
