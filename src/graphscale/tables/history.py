"""Rows that a write overwrites: historical embeddings (Fey et al., ICML 2021), in memory or in a file."""

from __future__ import annotations

import torch
from torch import Tensor

from graphscale import scratch
from graphscale.world import World


class History:
    """[num_rows, dim] zeros at first; ``write`` overwrites, the last of duplicated ids wins.

    Over several ranks every rank holds all rows, and a write gathers the rows of all ranks in rank
    order, so all ranks end with the same table.

    Args:
        dtype: float32, float64, bfloat16 or float16; half the bytes, and a rounding at every write.
        disk: rows lie in a nameless file (``scratch``), which may be larger than memory.
    """

    learns = False

    def __init__(
        self, num_rows: int, dim: int, *, dtype: torch.dtype = torch.float32, disk: bool = False,
        world: World | None = None,
    ) -> None:  # fmt: skip
        self.num_rows, self.dim, self.world = num_rows, dim, world or World()
        self.rows = (
            scratch.zeros_on_disk(num_rows, dim, dtype=dtype) if disk else torch.zeros(num_rows, dim, dtype=dtype)
        )

    def read(self, ids: Tensor) -> Tensor:
        """[len(ids), dim] copies of the rows, on the device of ``ids``."""
        return self.rows[ids.cpu()].to(ids.device)

    def write(self, ids: Tensor, values: Tensor, time: Tensor | None = None) -> None:
        """Overwrite rows ``ids`` by ``values``; ``time`` has no meaning here and is ignored."""
        ids = self.world.gather(ids.cpu())
        values = self.world.gather(values.detach().to(self.rows.dtype).cpu())
        if ids.numel() and not bool((ids.diff() > 0).all()):
            ids, last = _last_of_each(ids)
            values = values[last]
        self.rows[ids] = values

    def prefetch(self, ids: Tensor) -> None:
        """Nothing to do: the rows are in memory."""

    def flush(self) -> None:
        """Nothing to do: a write is complete when it returns."""

    def snapshot(self) -> object:
        """A copy of the rows."""
        return self.rows.clone()

    def restore(self, mark: object) -> None:
        """The rows as they were."""
        assert isinstance(mark, Tensor)
        self.rows.copy_(mark)

    def state_dict(self) -> dict[str, Tensor]:
        """The rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Rows of a checkpoint.

        Raises:
            ValueError: where the shapes differ.
        """
        if state["rows"].shape != self.rows.shape:
            raise ValueError(f"a history of {list(state['rows'].shape)} cannot fill {list(self.rows.shape)}.")
        self.rows.copy_(state["rows"])


def _last_of_each(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct ids, and the position of each one's last occurrence."""
    order = ids.argsort(stable=True)
    taken = ids[order]
    last = torch.ones(taken.numel(), dtype=torch.bool)
    last[:-1] = taken[1:] != taken[:-1]
    return taken[last], order[last]
