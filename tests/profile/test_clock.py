"""Clocks of stages, with a time that the tests decide."""

from __future__ import annotations

import threading

import pytest
import torch

from graphscale.batches.ahead import ahead
from graphscale.profile import clock as module
from graphscale.profile.clock import BESIDE, OFF, STAGES, Stages
from graphscale.profile.rates import Rates
from graphscale.profile.summary import summary
from graphscale.profile.window import Kind, Plan, Window

CPU = torch.device("cpu")


class Time:
    """Stands still until it is told to pass."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    monkeypatch.setattr(module, "time", found := Time())
    return found


def stages(tmp_path, steps=1000, device=CPU) -> Stages:
    clock = Stages(device, Window(Plan.of(steps), tmp_path / "trace.json", device))
    clock.window.plan = Plan(range(-1, 0), range(-1, 0))  # nothing is looked at
    return clock


@pytest.mark.parametrize("steps", range(1, 60))
def test_the_window_fits_into_the_steps(steps):
    plan = Plan.of(steps)
    assert len(plan.traced) >= 1 and len(plan.counted) >= 1
    assert plan.traced.start >= 1 and max(plan.traced.stop, plan.counted.stop) - 1 <= steps
    seen = {*plan.traced, *plan.counted}
    if steps > 1:
        assert 1 not in seen  # there is always a step that nothing slows down
    if steps >= 5:
        assert not set(plan.traced) & set(plan.counted)
        assert 2 * len(seen) <= steps
    if steps >= 22:
        assert (list(plan.traced), list(plan.counted)) == ([3, 4, 5], [*range(6, 13)])


def test_a_clock_that_is_off_gives_back_what_it_is_given():
    items = iter([1, 2])
    assert OFF.made(items) is items and OFF.waited(items) is items
    assert OFF.stage("forward") is OFF.stage("backward")  # nothing is made


def test_seconds_go_to_their_stage_and_epoch(tmp_path, time):
    clock = stages(tmp_path)
    for epoch in (1, 2):
        clock.begins(epoch)
        for _ in range(3):
            began = time.now
            for weight, name in enumerate(STAGES, 1):
                with clock.stage(name):
                    time.now += weight * epoch
            time.now += 0.5  # in no stage
            clock.done(time.now - began)
        for name in BESIDE:
            with clock.stage(name):
                time.now += 100 * epoch
    made = summary(clock, Rates(1.0, 1.0), {})
    for epoch, line in zip((1, 2), made["epochs"], strict=True):
        assert (line["epoch"], line["steps"], line["evaluate"], line["checkpoint"]) == (
            epoch,
            3,
            100 * epoch,
            100 * epoch,
        )
        expected = {name: 3.0 * weight * epoch for weight, name in enumerate(STAGES, 1)}
        assert line["stages"] == pytest.approx({**expected, "rest": 1.5})
        assert sum(line["stages"].values()) == pytest.approx(line["seconds"])
    for name in ("steps", "seconds", "evaluate", "sample"):
        assert made["total"][name] == pytest.approx(sum(line[name] for line in made["epochs"]))
    assert made["mean"]["stages"]["wait"] == pytest.approx((1 + 2) / 2)


def test_what_is_unfinished_when_an_epoch_begins_is_of_no_step(tmp_path, time):
    clock = stages(tmp_path)
    clock.begins(1)
    with clock.stage("wait"):  # for the end of the batches
        time.now += 7
    clock.begins(2)
    clock.done(1.0)
    assert clock.epochs[1].steps[Kind.TIMED].stages["wait"] == 0.0


def test_a_stage_that_fails_ends(tmp_path, time):
    clock = stages(tmp_path)
    clock.begins(1)
    with pytest.raises(KeyError), clock.stage("forward"):
        time.now += 2
        raise KeyError
    clock.done(2.0)
    assert clock.epochs[0].steps[Kind.TIMED].stages["forward"] == 2.0


@pytest.mark.parametrize("depth", [0, 2])
def test_making_is_told_from_waiting(tmp_path, time, depth):
    clock, threads = stages(tmp_path), set()

    def items():
        for i in range(4):
            threads.add(threading.current_thread().name)
            time.now += 1 if depth == 0 else 0
            yield i

    clock.begins(1)
    for _ in clock.waited(ahead(clock.made(items()), depth)):
        clock.done(0.0)
    sums = clock.epochs[0]
    assert sums.steps[Kind.TIMED].steps == 4
    assert (sums.sample, sums.steps[Kind.TIMED].stages["wait"]) == ((4.0, 4.0) if depth == 0 else (0.0, 0.0))
    assert threads == ({"MainThread"} if depth == 0 else {"graphscale-ahead"})


def test_leaving_early_ends_the_thread(tmp_path):
    clock = stages(tmp_path)
    clock.begins(1)
    for _ in clock.waited(ahead(clock.made(iter(range(100))), 2)):
        break
    assert not [t for t in threading.enumerate() if t.name == "graphscale-ahead"]


def test_on_cuda_a_stage_waits_for_the_device(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    device = torch.device("cuda")
    clock = stages(tmp_path, device=device)
    clock.begins(1)
    for name in (*STAGES, *BESIDE):
        with clock.stage(name):
            pass
    assert waited == [device] * 9
    with OFF.stage("forward"):
        pass
    assert len(waited) == 9  # never without --profile
