"""A rank ends with the process that launched it, however that one ended."""

from __future__ import annotations

import os
import threading
import time

LAUNCHER = "GRAPHSCALE_LAUNCHER"  # process id that graphscale --nproc gives to its ranks


def end_with_launcher(*, every: float = 0.5) -> None:
    """Watch this process's parent from a thread, and end at once when it is gone.

    A rank whose launcher was killed would go on writing into a run that its user resumes, or wait hours
    for peers that will never come.
    """
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, name="graphscale-launcher", daemon=True).start()
