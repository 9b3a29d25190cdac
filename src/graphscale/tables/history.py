"""Rows that a write overwrites: historical embeddings (Fey et al., ICML 2021), in memory, in a file, or over ranks.

Over several ranks every rank holds a range of the rows. A fetch is one exchange of ids and one of rows, a
write one of both. On one rank the rows that the next batch needs are gathered by a thread while the present
one trains; those that a write overtakes are read again, so the result is that of reading late.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from graphscale import scratch
from graphscale.errors import InputError
from graphscale.tables.pins import Moved, gathered
from graphscale.world import World


class _Pull(NamedTuple):
    """Rows on their way."""

    ids: Tensor
    since: int  # writes that were complete when it began
    rows: Future[Moved]


class History:
    """[num_rows, dim] zeros at first; ``write`` overwrites, the last of duplicated ids wins.

    Args:
        dtype: float32, float64, bfloat16 or float16; half the bytes, and a rounding at every write.
        disk: rows lie in a nameless file (``scratch``), which may be larger than memory.
        world: the ranks that share the rows.
        device: where what is read goes.
    """

    learns = False

    def __init__(
        self, num_rows: int, dim: int, *, dtype: torch.dtype = torch.float32, disk: bool = False,
        world: World | None = None, device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self.num_rows, self.dim, self.world = num_rows, dim, world or World()
        self.device = device or torch.device("cpu")
        self.share = -(-num_rows // self.world.size)  # rows a rank
        self.first = min(num_rows, self.share * self.world.rank)
        own = min(self.share, num_rows - self.first)
        zeros = scratch.zeros_on_disk if disk else scratch.zeros
        self.rows = zeros(own, dim, dtype=dtype)  # those of this rank
        self.written = torch.zeros(own, dtype=torch.int32)  # [own] writes that were complete when a row was computed
        self.writes = 0
        self.ages = [
            0.0,
            0.0,
        ]  # sum over the rows read of the steps since they were computed, and how many rows: a meter
        self._pull: _Pull | None = None
        self._thread: ThreadPoolExecutor | None = None

    def read(self, ids: Tensor) -> Tensor:
        """[len(ids), dim] copies of the rows, on the table's device. Collective over several ranks."""
        ids = ids.cpu()
        if self.world.size > 1:
            return self._asked(ids, metered=True).to(self.device)
        self._meter(ids)
        pull, self._pull = self._pull, None
        if pull is None or pull.ids is not ids:
            return gathered(self.rows, ids, self.device).here()
        rows = pull.rows.result().here()
        if self.writes > pull.since:  # the thread may have read these before, or while, they were written
            late = (self.written.index_select(0, ids) >= pull.since).nonzero().flatten()
            if late.numel():
                rows.index_copy_(0, late.to(rows.device), self.rows.index_select(0, ids[late]).to(rows.device))
        return rows

    def peek(self, ids: Tensor) -> Tensor:
        """``read`` that the meter of ages does not see, on the CPU. Collective."""
        return self._asked(ids, metered=False) if self.world.size > 1 else self.rows.index_select(0, ids)

    def write(self, ids: Tensor, values: Tensor, time: Tensor | None = None) -> None:
        """Overwrite rows ``ids`` by ``values``; ``time`` has no meaning here and is ignored."""
        ids, values = ids.cpu(), values.detach().to(self.rows.dtype).cpu()
        if self.rows.dtype == torch.float16:
            demand_finite(values)
        if self.world.size > 1:
            order, counts = self._by_owner(ids)
            ids, values = ids[order], values[order]
            ids, arrived = self.world.exchange(ids, counts)
            values, _ = self.world.exchange(values, counts, arrived)
            ids = ids - self.first
        number, self.writes = self.writes, self.writes + 1
        step = ids.diff()
        if ids.numel() and not bool((step > 0).all()):
            ids, last = _last_of_each(ids)
            values, step = values[last], ids.diff()
        # Nodes lie in the order of their clusters: the roots of a batch are a few ranges, each a block copy.
        ends = [*(step != 1).nonzero().flatten().add(1).tolist(), ids.numel()]
        if len(ends) > 16 + ids.numel() // 16:
            self.rows.index_copy_(0, ids, values)
            self.written[ids] = number
            return
        start = 0
        for end in ends if ids.numel() else ():
            low = int(ids[start])
            self.rows[low : low + end - start] = values[start:end]
            self.written[low : low + end - start] = number
            start = end

    def set_range(self, start: int, rows: Tensor, columns: slice) -> None:
        """Overwrite ``columns`` of rows ``start``.. of the whole table; each rank keeps its own. Not collective."""
        low, high = max(start, self.first), min(start + rows.shape[0], self.first + self.rows.shape[0])
        if low < high:
            self.rows[low - self.first : high - self.first, columns] = rows[low - start : high - start].to(
                self.rows.dtype
            )
            self.written[low - self.first : high - self.first] = self.writes

    def prefetch(self, ids: Tensor) -> None:
        """Let a thread gather rows that the next ``read`` asks for by this very tensor. Over ranks: nothing."""
        if self.world.size > 1:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="graphscale-pull")
        pull = self._thread.submit(gathered, self.rows, ids, self.device)
        self._pull = _Pull(ids, self.writes, pull)

    def flush(self) -> None:
        """Nothing to do: a write is complete when it returns."""

    def taken_ages(self) -> tuple[float, float]:
        """(sum of ages in steps, rows) of what was read since the last call, of all ranks. Collective."""
        total, count = self.world.totals(*self.ages)
        self.ages = [0.0, 0.0]
        return total, count

    def snapshot(self) -> object:
        """A copy of this rank's rows."""
        return self.rows.clone(), self.written.clone(), self.writes

    def restore(self, mark: object) -> None:
        """The rows as they were."""
        assert isinstance(mark, tuple)
        self._pull = None
        self.rows.copy_(mark[0])
        self.written.copy_(mark[1])
        self.writes = mark[2]

    def state_dict(self) -> dict[str, Tensor]:
        """The rows of all ranks, at the first; collective."""
        return {
            "rows": self._at_first(self.rows),
            "written": self._at_first(self.written),
            "writes": torch.tensor(self.writes),
            "ages": torch.tensor(self.world.totals(*self.ages), dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Rows of a checkpoint, of any number of ranks.

        Raises:
            ValueError: where the shapes differ.
        """
        if list(state["rows"].shape) != [self.num_rows, self.dim]:
            raise ValueError(f"a history of {list(state['rows'].shape)} cannot fill {[self.num_rows, self.dim]}.")
        own = slice(self.first, self.first + self.rows.shape[0])
        self._pull = None
        self.rows.copy_(state["rows"][own])
        self.written.copy_(state["written"][own])
        self.writes = int(state["writes"])
        self.ages = state["ages"].tolist() if self.world.leads else [0.0, 0.0]  # of all ranks

    def _asked(self, ids: Tensor, *, metered: bool) -> Tensor:
        """Rows of any ranks: each is asked for those that it holds."""
        order, counts = self._by_owner(ids)
        theirs, arrived = self.world.exchange(ids[order], counts)
        theirs = theirs - self.first
        if metered:
            self._meter(theirs)
        rows, _ = self.world.exchange(self.rows.index_select(0, theirs), arrived, counts)
        return torch.empty_like(rows).index_copy_(0, order, rows)

    def _by_owner(self, ids: Tensor) -> tuple[Tensor, list[int]]:
        """An order of ``ids`` by the rank that holds them, and how many each one holds."""
        owner = ids // self.share
        return owner.argsort(stable=True), owner.bincount(minlength=self.world.size).tolist()

    def _at_first(self, own: Tensor) -> Tensor:
        if self.world.size == 1:
            return own
        everyone = [max(0, min(self.share, self.num_rows - self.share * r)) for r in range(self.world.size)]
        whole = scratch.empty(self.num_rows, *own.shape[1:], dtype=own.dtype) if self.world.leads else own
        return self.world.at_first(own, whole, everyone)

    def _meter(self, own: Tensor) -> None:
        self.ages[0] += float(self.writes * own.numel() - int(self.written.index_select(0, own).sum(dtype=torch.int64)))
        self.ages[1] += own.numel()


def demand_finite(values: Tensor) -> None:
    """Refuse rows that float16 cannot hold.

    Raises:
        InputError: what to do.
    """
    if not bool(values.isfinite().all()):
        raise InputError(
            "a row is no number in float16, which ends at 65,504. Keep histories in bfloat16 (--history-dtype), or"
            " lower --lr if training diverges."
        )


def _last_of_each(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct ids, and the position of each one's last occurrence."""
    order = ids.argsort(stable=True)
    taken = ids[order]
    last = torch.ones(taken.numel(), dtype=torch.bool)
    last[:-1] = taken[1:] != taken[:-1]
    return taken[last], order[last]
