"""Events that came after a temporal CSR was made: a list a node, the latest first, in arrays with room.

Adding an event costs the same whatever the stream's length; when the lists have grown long against the CSR they are
merged into it, so that a stream of any number of additions costs a few passes in all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[Any]
NONE = tuple(np.empty(0, dtype=np.int64) for _ in range(4))


class Tail:
    """Later events by node.

    Args:
        num_nodes: N.
        directed: as of the CSR.
    """

    def __init__(self, num_nodes: int, *, directed: bool) -> None:
        self.directed, self.size = directed, 0
        self._head = np.full(num_nodes, -1, dtype=np.int64)
        self._before, self._neighbour, self._event = (np.empty(1024, dtype=np.int64) for _ in range(3))

    @property
    def arrays(self) -> tuple[Ints, Ints, Ints, Ints]:
        """[N] a node's latest entry, -1 without; [entries] the one before it, the other end, the event."""
        return self._head, self._before, self._neighbour, self._event

    def append(self, src: Tensor, dst: Tensor, first: int, num_nodes: int) -> None:
        """Add events numbered from ``first`` on, in the order of time."""
        if num_nodes > len(self._head):
            self._head = np.concatenate([self._head, np.full(num_nodes - len(self._head), -1, dtype=np.int64)])
        needed = self.size + 2 * src.numel()
        if needed > len(self._event):
            room = max(needed, 2 * len(self._event))
            for name in ("_before", "_neighbour", "_event"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.empty(room - len(old), dtype=np.int64)]))
        self.size = _append(*self.arrays, src.long().numpy(), dst.long().numpy(), first, self.directed, self.size)


@njit(nogil=True, cache=True)
def _append(
    head: Ints, before: Ints, neighbour: Ints, event: Ints, src: Ints, dst: Ints, first: int, directed: bool, size: int
) -> int:  # fmt: skip
    for e in range(len(src)):
        ends = 1 if directed or src[e] == dst[e] else 2
        for end in range(ends):
            own, other = (dst[e], src[e]) if end == 0 else (src[e], dst[e])
            before[size], neighbour[size], event[size] = head[own], other, first + e
            head[own] = size
            size += 1
    return size
