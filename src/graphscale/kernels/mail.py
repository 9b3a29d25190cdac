"""Delivery of mails, a pass over those that get one: what a node gets in a batch is never laid side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from graphscale.kernels.event_loops import _add
from graphscale.kernels.threads import looped

Array = NDArray[Any]
_CHUNK = 32  # nodes


def delivered(
    nodes: Tensor, group: Tensor, which: Tensor, event: Tensor, mails: Tensor, mail: Tensor, sent: Tensor,
    arrived: Tensor, *, mean: bool,
) -> None:  # fmt: skip
    """Put into each node's next slot one mail made of those that go to it.

    Args:
        nodes: [u] that get one, distinct.
        group: [m] place in ``nodes`` to which a delivery goes.
        which: [m] mail that is delivered.
        event: [k] that a mail tells of.
        mails: [k, M].
        mail: [N, S, M] slots.
        sent: [N, S] latest event that a slot tells of.
        arrived: [N] mails so far.
        mean: of those that go to a node; else the one of the latest event, of its mails the last.
    """
    starts = torch.nn.functional.pad(group.bincount(minlength=nodes.numel()).cumsum(0), (1, 0))
    by_node = torch.empty_like(which)
    _sorted(group.numpy(), which.numpy(), starts.numpy().copy(), by_node.numpy())
    looped(_delivered, nodes, starts, by_node, event, mails, mean, mail, sent, arrived)


@njit(nogil=True, cache=True)
def _sorted(group: Array, which: Array, at: Array, out: Array) -> None:
    for i in range(len(group)):
        out[at[group[i]]] = which[i]
        at[group[i]] += 1


@njit(parallel=True, nogil=True, cache=True)
def _delivered(
    nodes: Array, starts: Array, which: Array, event: Array, mails: Array, mean: bool, mail: Array, sent: Array,
    arrived: Array,
) -> None:  # fmt: skip
    one = mails.dtype.type(1)
    for chunk in prange((len(nodes) + _CHUNK - 1) // _CHUNK):
        total = np.empty(mails.shape[1], dtype=mails.dtype)  # of its own, so that sums compile to vectors
        for i in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(nodes))):
            v, first, stop = nodes[i], starts[i], starts[i + 1]
            place = arrived[v] % mail.shape[1]
            last = which[first]
            for j in range(first + 1, stop):
                w = which[j]
                if event[w] > event[last] or (event[w] == event[last] and w > last):
                    last = w
            if mean:
                total[:] = mails[which[first]]
                for j in range(first + 1, stop):
                    _add(one, mails[which[j]], total)
                total /= stop - first
                mail[v, place] = total
            else:
                mail[v, place] = mails[last]
            sent[v, place] = event[last]
            arrived[v] += 1
