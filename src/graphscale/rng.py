"""Randomness is an argument: every draw of the house follows from a key of integers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# What a key is for, so that two uses with equal numbers never share a stream.
INIT, PARTITION, ORDER, STEP, DATA, SAMPLE, WIDTH, SEARCH = range(8)


def derive(*key: int) -> int:
    """A 63-bit seed for a key of non-negative integers, the same on every machine."""
    state: int = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return state >> 1


def generator(*key: int) -> torch.Generator:
    """A CPU generator for a key."""
    return torch.Generator().manual_seed(derive(*key))


def _generators(device: torch.device | None) -> list[torch.Generator]:
    found = [torch.default_generator]
    if device is not None and device.type == "cuda":
        found.append(torch.cuda.default_generators[device.index or 0])
    return found


def state(device: torch.device) -> list[torch.Tensor]:
    """What torch's global generators will draw from."""
    return [g.get_state() for g in _generators(device)]


def restore(states: list[torch.Tensor], device: torch.device) -> None:
    """Let torch draw again what it drew after ``state``."""
    for g, kept in zip(_generators(device), states, strict=True):
        g.set_state(kept)


@contextmanager
def isolated(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch draws from ``seed``; outside, the global state is as if nothing had happened."""
    # torch.manual_seed would format a stack trace for CUDA at every call, and keep it.
    generators = _generators(device)
    states = [g.get_state() for g in generators]
    for g in generators:
        g.manual_seed(seed)
    try:
        yield
    finally:
        for g, state in zip(generators, states, strict=True):
            g.set_state(state)
