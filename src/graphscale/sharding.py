"""State whose parts lie on many ranks, in files that any number of ranks can read (torch.distributed.checkpoint)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp

from graphscale.world import World


def part(rows: Tensor, shape: tuple[int, ...], world: World, everybody: World) -> Tensor:
    """Rows as a part of a whole that knows its shape, so that other numbers of ranks can read it.

    Args:
        rows: of axis 0, as ``torch.chunk`` cuts it.
        shape: of the whole.
        world: ranks that hold a part each.
        everybody: all ranks; those that hold the same parts are side by side.
    """
    if everybody.size == 1:
        return rows
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Replicate, Shard

    ranks = torch.arange(everybody.size).view(world.size, everybody.size // world.size)
    mesh = DeviceMesh(rows.device.type, ranks, mesh_dim_names=("subnet", "data"), _init_backend=False)
    stride = torch.empty(shape, device="meta").stride()
    local: Tensor = DTensor.from_local(
        rows, mesh, [Shard(0), Replicate()], run_check=False, shape=torch.Size(shape), stride=stride
    )
    return local


def save(parts: dict[str, Tensor], folder: Path) -> None:
    """Write every rank's parts; collective."""
    with _alone_without_a_word():
        dcp.save(parts, checkpoint_id=str(folder))  # type: ignore[attr-defined]


def load(parts: dict[str, Tensor], folder: Path) -> None:
    """Fill this rank's parts from what any number of ranks wrote; collective.

    Raises:
        RuntimeError: where it is of another model or damaged.
    """
    try:
        with _alone_without_a_word():
            dcp.load(parts, checkpoint_id=str(folder))  # type: ignore[attr-defined]
    except Exception as error:  # its errors are of many kinds
        raise RuntimeError(f"{folder.name} cannot be read ({type(error).__name__}: {error})") from error


@contextmanager
def _alone_without_a_word() -> Iterator[None]:
    """One process needs no process group, of which torch warns at every call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
