"""Histories that lie where the model trains: on a GPU nothing travels, and no step waits for the host.

``tables.history`` keeps rows with the host, where there is more room; its answers are the same.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from graphscale.errors import InputError
from graphscale.tables.history import History, demand_finite
from graphscale.world import World

Place = Literal["ram", "disk", "device"]


class Resident:
    """[num_rows, dim] zeros at first, on ``device``; ``write`` overwrites, the last of duplicated ids wins.

    Args:
        dtype: float32, float64, bfloat16 or float16.
        device: where rows lie and what is read goes.
    """

    learns = False

    def __init__(self, num_rows: int, dim: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.num_rows, self.dim, self.device = num_rows, dim, device
        self.rows = torch.zeros(num_rows, dim, dtype=dtype, device=device)
        self.written = torch.zeros(num_rows, dtype=torch.int64, device=device)  # as in History
        self.writes = 0
        self._last = torch.zeros(num_rows, dtype=torch.int64, device=device)  # scratch of write
        self._ages = torch.zeros(2, dtype=torch.float64, device=device)  # as in History, counted there

    def read(self, ids: Tensor) -> Tensor:
        """[len(ids), dim] copies of the rows."""
        ids = ids.to(self.device)
        self._ages[0] += self.writes * ids.numel() - self.written[ids].sum()
        self._ages[1] += ids.numel()
        return self.rows[ids]

    def peek(self, ids: Tensor) -> Tensor:
        """``read`` that the meter of ages does not see, on the CPU."""
        return self.rows[ids.to(self.device)].cpu()

    def write(self, ids: Tensor, values: Tensor, time: Tensor | None = None) -> None:
        """Overwrite rows ``ids`` by ``values``; ``time`` has no meaning here and is ignored."""
        ids, values = ids.to(self.device), values.detach().to(self.device, self.rows.dtype)
        if self.rows.dtype == torch.float16:
            demand_finite(values)
        # Every occurrence of an id writes what the last one brings: which of them a GPU writes last does not matter.
        self._last[ids] = -1
        self._last.scatter_reduce_(0, ids, torch.arange(ids.numel(), device=self.device), "amax")
        self.rows.index_copy_(0, ids, values[self._last[ids]])
        self.written[ids] = self.writes
        self.writes += 1

    def set_range(self, start: int, rows: Tensor, columns: slice) -> None:
        """Overwrite ``columns`` of rows ``start``.. ."""
        self.rows[start : start + rows.shape[0], columns] = rows.to(self.device, self.rows.dtype)
        self.written[start : start + rows.shape[0]] = self.writes

    def prefetch(self, ids: Tensor) -> None:
        """Nothing: the rows are there."""

    def flush(self) -> None:
        """Nothing: later work on the device sees what was written."""

    def taken_ages(self) -> tuple[float, float]:
        """(sum of ages in steps, rows) of what was read since the last call."""
        total, count = self._ages.tolist()
        self._ages.zero_()
        return total, count

    def snapshot(self) -> object:
        """A copy of the rows."""
        return self.rows.clone(), self.written.clone(), self.writes

    def restore(self, mark: object) -> None:
        """The rows as they were."""
        assert isinstance(mark, tuple)
        self.rows.copy_(mark[0])
        self.written.copy_(mark[1])
        self.writes = mark[2]

    def state_dict(self) -> dict[str, Tensor]:
        """As ``History`` has it, on the CPU."""
        return {
            "rows": self.rows.cpu(),
            "written": self.written.to("cpu", torch.int32),
            "writes": torch.tensor(self.writes),
            "ages": self._ages.cpu(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Rows of a checkpoint.

        Raises:
            ValueError: where the shapes differ.
        """
        if state["rows"].shape != self.rows.shape:
            raise ValueError(f"a history of {list(state['rows'].shape)} cannot fill {list(self.rows.shape)}.")
        self.rows.copy_(state["rows"])
        self.written.copy_(state["written"])
        self.writes = int(state["writes"])
        self._ages.copy_(state["ages"])


def histories(
    place: Place, num_rows: int, dim: int, *, dtype: torch.dtype, device: torch.device, world: World | None = None
) -> History | Resident:
    """A table of histories in memory, in a file, or on the device that trains.

    Raises:
        InputError: where a device would hold rows of several ranks, or the place or the type is none.
    """
    if place not in get_args(Place):
        raise InputError(f"histories = {place!r}: they lie in ram, on disk, or on the device.")
    if dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise InputError(f"histories of {dtype} cannot hold rows. Use float32, bfloat16 or float16.")
    if place != "device":
        return History(num_rows, dim, dtype=dtype, disk=place == "disk", world=world, device=device)
    if world is not None and world.size > 1:
        raise InputError(
            f"--histories device keeps all rows on one device, and {world.size} processes share theirs over the hosts."
            " Use --histories ram or disk."
        )
    return Resident(num_rows, dim, dtype=dtype, device=device)
