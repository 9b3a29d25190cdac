"""A few steps that are looked at more closely: some under torch's profiler, some with their work counted.

Both slow a step down, so these steps are kept apart from those whose seconds are reported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from graphscale import checkpoint
from graphscale.profile.work import Work

WARM_UP, TRACED, COUNTED = 2, 3, 7

_NOTHING = nullcontext()


class Kind(Enum):
    """What a step's seconds are good for."""

    FIRST = "warm-up"  # compiled kernels are loaded, memory is claimed
    OBSERVED = "window"  # slowed down by being looked at
    TIMED = "timed"


class Plan(NamedTuple):
    """Which steps of this process are traced, and which counted: numbers from 1."""

    traced: range
    counted: range

    @staticmethod
    def of(steps: int) -> Plan:
        """Steps 3 to 5 and 6 to 12; of few ``steps`` half of those after warming up, of a single one both."""
        first = 1 + min(WARM_UP, max(0, steps - 1))
        most = (steps + 2 - first) // 2
        traced = range(first, first + max(1, min(TRACED, most // 3)))
        counted = range(traced.stop, traced.stop + min(COUNTED, most - len(traced)))
        return Plan(traced, counted or traced)


class Window:
    """Follows the steps of a run, and opens and closes what looks at them.

    Args:
        trace: where the Chrome trace goes.
    """

    def __init__(self, plan: Plan, trace: Path, device: torch.device) -> None:
        self.plan, self.trace, self.device = plan, trace, device
        self.step = 1  # the one that comes next or is under way
        self.counted = 0  # steps
        self.work = {"forward": Work(), "backward": Work()}
        self._profiler: profile | None = None

    @property
    def kind(self) -> Kind:
        """Of the step under way."""
        if self.step in self.plan.traced or self.step in self.plan.counted:
            return Kind.OBSERVED
        return Kind.FIRST if self.step < self.plan.traced.start else Kind.TIMED

    def opens(self) -> None:
        """Before a step: start tracing where it is due."""
        if self.step in self.plan.traced and self._profiler is None:
            self._profiler = _tracer(self.device)
            self._profiler.start()

    def moves_on(self) -> None:
        """After a step: stop what ends with it, start what begins with the next."""
        self.counted += self.step in self.plan.counted
        self.step += 1
        if self.step not in self.plan.traced:
            self.closes()
        self.opens()

    def closes(self) -> None:
        """Stop tracing, and write the trace."""
        if self._profiler is not None:
            tracer, self._profiler = self._profiler, None
            tracer.stop()
            with tempfile.TemporaryDirectory() as aside:
                made = Path(aside) / "trace.json"
                tracer.export_chrome_trace(str(made))
                checkpoint.write_aside(self.trace, made.read_bytes())

    def span(self, name: str) -> AbstractContextManager[None]:
        """Around a stage: its name in the trace, its work in the counts."""
        counts = self.step in self.plan.counted and name in self.work
        if self._profiler is None and not counts:
            return _NOTHING
        return self._looked_at(name, counts)

    @contextmanager
    def _looked_at(self, name: str, counts: bool) -> Iterator[None]:
        with ExitStack() as stack:
            if self._profiler is not None:
                stack.enter_context(record_function(name))
            if counts:
                stack.enter_context(self.work[name].counted())
            yield


def _tracer(device: torch.device) -> profile:
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    every: Any = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)  # the one that makes batches too
    return profile(activities=activities, experimental_config=every)
