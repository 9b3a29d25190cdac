"""Replicas of the dense part beside tables whose rows lie over ranks, saved for any number of ranks to go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from graphscale import sharding
from graphscale.step import Sharded
from graphscale.sync.replicas import Replicas
from graphscale.tables.embedding import Embedding


class ShardedReplicas(Replicas, Sharded):
    """``Replicas``, and the parts of tables that each rank holds.

    Args:
        tables: name -> table, the run's.
    """

    every = 1

    def __init__(self, *args: Any, tables: Mapping[str, Embedding], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tables = tables

    @property
    def sent(self) -> int:
        """Bytes of dense gradients to other ranks, so far."""
        return 0 if self._buckets is None else self._buckets.sent

    def save(self, folder: Path) -> None:
        """Write all ranks' parts to ``folder``; collective."""
        sharding.save(_parts(self.tables), folder, self.world)

    def load(self, folder: Path) -> None:
        """Read this rank's parts of what any number of ranks wrote; collective."""
        load_tables(self.tables, folder)

    def state(self) -> list[Any]:
        """The dense part, and how many writes the tables have seen."""
        (kept,) = super().state()
        return [{**kept, "writes": {name: table.steps for name, table in self.tables.items()}}]

    def restore(self, state: list[Any]) -> None:
        """The reverse of ``state``."""
        super().restore(state)
        for name, table in self.tables.items():
            table.steps = int(state[0]["writes"][name])


def load_tables(tables: Mapping[str, Embedding], folder: Path) -> None:
    """Fill tables, of one rank or of several, from what any number of ranks wrote; collective.

    Raises:
        RuntimeError: where it is of other tables or damaged.
    """
    sharding.load(_parts(tables), folder, next(iter(tables.values())).world)


def _parts(tables: Mapping[str, Embedding]) -> dict[str, Tensor]:
    parts: dict[str, Tensor] = {}
    for name, table in tables.items():
        for kind, value in table.held().items():
            rows = value if value.dim() == 2 else value[:, None]
            shape = (table.num_rows, rows.shape[1])
            parts[f"{name}.{kind}"] = sharding.part(rows, shape, table.world, table.world)
    return parts


def whole_rows(folder: Path, name: str) -> Tensor:
    """The rows of a saved table; pages of a file where they are many.

    Raises:
        RuntimeError: where it is damaged or missing.
    """
    return sharding.read(folder, f"{name}.", leaves=("squares", "mean", "square"))["rows"]
