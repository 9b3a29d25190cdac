"""Ctrl-C as a wish that is granted between two steps, when there is something whole to save."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from graphscale.world import launched


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C; the message says where it is saved and how to go on."""


class Stop:
    """While the block runs, the first Ctrl-C only sets ``wished``; a second one stops at once.

    Ranks of a launch keep wishing: the launcher repeats the signal, and all must end after the same step.
    """

    def __init__(self) -> None:
        self.wished = False
        self._before: Any = None

    def _wish(self, number: int, frame: FrameType | None) -> None:
        if self.wished and launched() is None:
            raise KeyboardInterrupt
        self.wished = True

    def __enter__(self) -> Stop:
        heard = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # under nohup it is not to be heard
        if heard and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._wish)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
