"""What the machine says of this process: peak anonymous memory, versions, the source's commit."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from types import TracebackType

from graphscale import __version__

_STATUS = Path("/proc/self/status")


def anon_mb() -> float | None:
    """Anonymous resident memory in MB (10^6 bytes): without mapped files. None where the system has no such count."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        return None
    return None


class PeakMemory:
    """Samples anonymous memory every ``interval`` seconds while the block runs; ``peak_mb`` is the largest seen."""

    def __init__(self, interval: float = 0.02) -> None:
        self.interval, self.peak_mb = interval, anon_mb()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            self._sample()

    def _sample(self) -> None:
        now = anon_mb()
        if now is not None:
            self.peak_mb = max(self.peak_mb or 0.0, now)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide a number."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()} {sys.platform}",
             "graphscale": __version__}  # fmt: skip
    for name in ("torch", "torch-geometric", "numpy", "numba", "pymetis", "torchmetrics"):
        found[name] = metadata.version(name)
    return found


def commit() -> str | None:
    """The commit of the source tree this package runs from, with + where it was changed; None outside one."""
    folder = Path(__file__).parent
    try:
        ask = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
        listed = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            timeout=10,
        )
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if listed.returncode == 0 else None
