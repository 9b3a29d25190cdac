"""Starts the ranks of tests as processes of their own, which do not import torch and PyG anew."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

from torch.multiprocessing import start_processes

# Of ten CPU seconds that a rank takes when it is started from nothing, nine are imports. A server (one a worker of
# pytest) imports once what all ranks need, runs nothing, and is forked for each of them.
_LIBRARIES = [
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch_geometric.nn",
    "graphscale.sync.subnets",
    "numba.np.arraymath",
]


def started(function: Callable[..., None], *given: object, size: int) -> None:
    """Run ``function(rank, *given)`` in ``size`` processes; the error of one that fails is raised here."""
    multiprocessing.set_forkserver_preload(_LIBRARIES)
    start_processes(function, given, nprocs=size, start_method="forkserver")
