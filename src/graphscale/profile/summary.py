"""From the clock's sums to numbers: ``report.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphscale.profile.clock import BESIDE, Epoch, Stages, Sums
from graphscale.profile.rates import Rates
from graphscale.profile.window import Kind, Window

Summary = dict[str, Any]


def summary(clock: Stages, rates: Rates, facts: Mapping[str, Any]) -> Summary:
    """All that was measured, in seconds, bytes and operations."""
    sums = {kind: _united(epoch.steps[kind] for epoch in clock.epochs) for kind in Kind}
    of = next(kind for kind in (Kind.TIMED, Kind.FIRST, Kind.OBSERVED) if sums[kind].steps)
    mean = _mean(sums[of])
    total = _epoch(clock.epochs)
    total.pop("epoch")
    return {
        **facts,
        "machine": {"bytes_per_second": rates.bandwidth, "flops_per_second": rates.products},
        "total": total,
        "mean": {"of": of.value, **mean},
        "window": _window(clock.window, rates, mean["stages"]["forward"] + mean["stages"]["backward"]),
        "epochs": [_epoch([epoch]) for epoch in clock.epochs],
    }


def _united(parts: Iterable[Sums]) -> Sums:
    whole = Sums()
    for part in parts:
        whole.add(part.steps, part.seconds, part.stages)
    return whole


def _rest(seconds: float, stages: Mapping[str, float]) -> dict[str, float]:
    """The stages, and what of the steps' seconds is in none of them."""
    return {**stages, "rest": seconds - sum(stages.values())}


def _mean(sums: Sums) -> Summary:
    seconds = sums.seconds / sums.steps
    stages = {name: value / sums.steps for name, value in sums.stages.items()}
    return {"steps": sums.steps, "seconds": seconds, "stages": _rest(seconds, stages)}


def _epoch(epochs: Sequence[Epoch]) -> Summary:
    """The sums of one epoch or more over steps of all kinds."""
    sums = _united(part for epoch in epochs for part in epoch.steps.values())
    return {
        "epoch": epochs[-1].number,
        "steps": sums.steps,
        "seconds": sums.seconds,
        "stages": _rest(sums.seconds, sums.stages),
        "sample": sum(epoch.sample for epoch in epochs),
        **{name: sum(epoch.beside[name] for epoch in epochs) for name in BESIDE},
    }


def _window(window: Window, rates: Rates, seconds: float) -> Summary:
    """The work of a counted step on average, and its floor beside what forward and backward take."""
    plan, steps = window.plan, window.counted
    found: Summary = {"traced": _numbers(plan.traced), "counted": _numbers(plan.counted), "counted_steps": steps}
    if steps == 0:
        return found
    work = {name: {"flops": w.flops / steps, "bytes": w.moved / steps, "least_bytes": w.least / steps}
            for name, w in window.work.items()}  # fmt: skip
    flops, moved, least = (sum(w[key] for w in work.values()) for key in ("flops", "bytes", "least_bytes"))
    floor, lowest = rates.floor(moved, flops), rates.floor(least, flops)
    floors = {"floor_seconds": floor, "least_floor_seconds": lowest, "measured_seconds": seconds}
    return {**found, "work": work, **floors, "share": floor / seconds, "least_share": lowest / seconds}


def _numbers(steps: range) -> list[int]:
    return [steps.start, steps.stop - 1]
