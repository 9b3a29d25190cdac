"""Samples of a temporal CSR in torch, the same as the compiled ones, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphscale.kernels.sampling import MIX

if TYPE_CHECKING:
    from graphscale.kernels.temporal import TemporalCsr

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def recent(csr: TemporalCsr, nodes: Tensor, cuts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``temporal.recent`` by one search."""
    end = torch.searchsorted(csr.keys, nodes.long() * csr._span + cuts.clamp(max=csr._span))
    at = end[:, None] - 1 - torch.arange(k, device=nodes.device)
    there = at >= csr.indptr[nodes.long()][:, None]
    at = at.clamp(min=0)
    if not csr.event.numel():
        nothing = torch.full((nodes.numel(), k), -1, device=nodes.device)
        return nothing.to(csr.neighbour.dtype), nothing
    return torch.where(there, csr.neighbour[at], -1), torch.where(there, csr.event[at], -1)


def uniform(csr: TemporalCsr, nodes: Tensor, cuts: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """``temporal.uniform``: the same draws, in k steps over all queries."""
    nodes = nodes.long()
    lo = csr.indptr[nodes]
    there = torch.searchsorted(csr.keys, nodes * csr._span + cuts.clamp(max=csr._span)) - lo
    state = _mix_words(_mix_words(nodes * _signed(_GAMMA) + _signed(np.uint64(seed))) + cuts)
    latest = there[:, None] - 1 - torch.arange(k, device=nodes.device)
    drawn = torch.full_like(latest, -1)
    for j in range(k):
        state = state + _signed(_GAMMA)
        top = (there - k + j).clamp(min=0)
        place = _shifted(_mix_words(state), 11) % (top + 1)
        drawn[:, j] = torch.where((drawn[:, :j] == place[:, None]).any(1), top, place)
    at = torch.where((there > k)[:, None], drawn.sort(descending=True).values, latest)
    found = (lo[:, None] + at.clamp(min=0)).clamp(max=max(0, csr.event.numel() - 1))
    if not csr.event.numel():
        nothing = torch.full_like(at, -1)
        return nothing.to(csr.neighbour.dtype), nothing
    return torch.where(at >= 0, csr.neighbour[found], -1), torch.where(at >= 0, csr.event[found], -1)


def _signed(word: Any) -> int:
    """The same 64 bits as torch's int64."""
    return int(np.uint64(word).astype(np.int64))


def _shifted(words: Tensor, by: int) -> Tensor:
    """Logical shift to the right of 64-bit words."""
    moved: Tensor = (words >> by) & (2 ** (64 - by) - 1)
    return moved


def _mix_words(z: Tensor) -> Tensor:
    """``kernels.sampling.mix`` of int64 words."""
    z = (z ^ _shifted(z, 30)) * _signed(MIX[0])
    z = (z ^ _shifted(z, 27)) * _signed(MIX[1])
    return z ^ _shifted(z, 31)
