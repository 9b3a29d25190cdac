"""Processes of their own for tests, which do not import torch and PyG anew: forked from a server that did so once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from torch.multiprocessing import start_processes

# Of seven CPU seconds that a small run takes as a program, six are imports. The server (one a worker of pytest) imports
# what most runs need and does nothing else, so that its forks are as new processes are.
_LIBRARIES = [
    "torch._dynamo", "torch.distributed.checkpoint", "torch_geometric.nn", "torch.utils.tensorboard",
    "numba.np.arraymath", "graphscale.session", "graphscale.console", "graphscale.sync.subnets",
]  # fmt: skip


def started(function: Callable[..., None], *given: object, size: int) -> None:
    """Run ``function(rank, *given)`` in ``size`` processes; the error of one that fails is raised here."""
    multiprocessing.set_forkserver_preload(_LIBRARIES)
    start_processes(function, given, nprocs=size, start_method="forkserver")


def begun(*argv: str, folder: Path) -> BaseProcess:
    """The command line ``graphscale ARGV`` in a folder; what it says goes to the files ``out`` and ``err`` there."""
    multiprocessing.set_forkserver_preload(_LIBRARIES)
    process = multiprocessing.get_context("forkserver").Process(target=_program, args=(argv, str(folder)))
    process.start()
    return process


def done(*argv: str, folder: Path) -> None:
    """``begun`` to its end, which must be a good one."""
    process = begun(*argv, folder=folder)
    process.join()
    assert process.exitcode == 0, (folder / "err").read_text()


def _program(argv: tuple[str, ...], folder: str) -> None:
    os.chdir(folder)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    from graphscale.__main__ import main

    sys.exit(main(argv))
