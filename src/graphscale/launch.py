"""Several processes on this machine: torchrun underneath, and a plain word when one of them is lost."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from graphscale.orphan import LAUNCHER

VERDICT = "GRAPHSCALE_VERDICT"  # a file in which ranks of a launch note how they ended by themselves


def launch(nproc: int, argv: Sequence[str], *, advice: str, restarts: int = 0) -> int:
    """Run ``python -m graphscale ARGV`` as ``nproc`` ranks; returns the exit code of the command.

    Args:
        nproc: processes on this machine.
        argv: the command without ``--nproc``.
        advice: what to do when a rank is lost.
        restarts: times that all ranks are started again before that is said.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Ranks share the cores; as many threads each as there are cores would fight.
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # its report repeats ours at length
    scratch = tempfile.mkdtemp(prefix="graphscale-")
    os.environ[VERDICT] = str(Path(scratch) / "verdict")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "graphscale", *argv)
    except SignalException as stop:  # Ctrl-C: the ranks have had it too, and saved after the step they were in
        print(f"interrupted. {advice}", file=sys.stderr)
        return 130 if stop.sigval == signal.SIGINT else 1
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode in (2, 130):  # the rank has said why
            return int(failure.exitcode)
        print(f"error: rank {rank} {_fate(failure.exitcode)}; the other ranks were stopped. {advice}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def ends(code: int) -> int:
    """The exit code of a rank that ends by itself; noted, or the launcher would start it again as if it were lost."""
    if VERDICT in os.environ:
        Path(os.environ[VERDICT]).write_text(str(code))
    return code


def verdict() -> int | None:
    """The exit code with which a rank of this launch has ended by itself."""
    place = Path(os.environ.get(VERDICT, "/"))
    return int(place.read_text() or 1) if place.is_file() else None


def restarted() -> int:
    """How often the ranks of this launch were started again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _fate(exitcode: int) -> str:
    if exitcode < 0:
        return f"was lost: killed by {signal.Signals(-exitcode).name}"
    return f"failed with exit code {exitcode}; its error stands above"
