"""What outlives a step: rows that are fetched before the loss and written after the optimiser's step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor


class Table(Protocol):
    """Rows addressed by id. Reading never changes anything; writing is the loop's to call.

    The rule of writing is the table's own: overwrite (history), latest time wins (memory), descend
    (embedding). Duplicated ids within one write resolve deterministically: the last one wins where
    the rule is to overwrite.

    Where ``learns`` holds, fetched rows are leaves of the backward pass and the loop writes their
    gradients; elsewhere the objective names what it would like to write.
    """

    num_rows: int
    dim: int
    learns: bool

    def read(self, ids: Tensor) -> Tensor:
        """[len(ids), dim] copies of the rows as they are now."""
        ...

    def write(self, ids: Tensor, values: Tensor, time: Tensor | None = None) -> None:
        """Apply ``values`` to the rows by the table's rule. Collective: every rank calls it."""
        ...

    def prefetch(self, ids: Tensor) -> None:
        """Begin to fetch what the next ``read`` asks for by this very tensor; it sees later writes too."""
        ...

    def flush(self) -> None:
        """Wait until all writes have reached the storage."""
        ...

    def snapshot(self) -> object:
        """A mark to which ``restore`` returns."""
        ...

    def restore(self, mark: object) -> None:
        """The rows as they were at ``snapshot``."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The reverse of ``state_dict``."""
        ...


@runtime_checkable
class Parted(Protocol):
    """A table whose row is of several parts, or of a varying number of them: a node's memory and its messages.

    Its ``state_dict`` is not collective, and belongs to the model: the best weights are kept with it.
    """

    def parts(self, ids: Tensor) -> Mapping[str, Tensor]:
        """What a step needs of the rows, by name."""
        ...
