"""How a node's memory takes in what is pending (TGN's messages, APAN's mails), and PRES's correction of it.

u nodes with something pending, m messages, d numbers of memory, F of an event, T of a time, S mails a node.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphscale.kernels.corrections import corrected
from graphscale.kernels.even import even
from graphscale.kernels.gates import gated
from graphscale.kernels.mail_attention import attend_mails
from graphscale.kernels.waves import waves
from graphscale.step import Params

Memories = Literal["corrected", "measured"]


class Time(nn.Module):
    """cos(w dt + b), w from 1 down to 1e-9 (TGAT's).

    TGN learns w and b. Adam moves every number by about its rate a step, which is far more than most of w: within an
    epoch the slow frequencies are gone and long times are noise. They stay as they are unless ``learned``
    (GraphMixer, Cong et al. 2023, has them fixed for the same reason).
    """

    def __init__(self, dim: int, *, learned: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.w = nn.Parameter(torch.logspace(0, -9, dim), requires_grad=learned)
        self.b = nn.Parameter(torch.zeros(dim), requires_grad=learned)

    def forward(self, dt: Tensor) -> Tensor:
        """[...] -> [..., T]."""
        return waves(dt, self.w, self.b)


class Messages(nn.Module):
    """Takes in pending messages [s_v || s_other || feat || phi(elapsed)], their last or their mean, by a GRU or RNN."""

    def __init__(self, dim: int, feat: int, time: Time, cell: str) -> None:
        super().__init__()
        self.time, self.dim = time, dim
        width = 2 * dim + feat + time.dim
        self.cell = nn.GRUCell(width, dim) if cell == "gru" else nn.RNNCell(width, dim)

    def forward(self, parts: Params, now: Tensor) -> tuple[Tensor, Tensor]:
        """(nodes [u] with something pending, their memories [u, d] after it, which ``now`` does not change)."""
        of, other, phi = parts["of"], parts["other"], self.time(parts["elapsed"])
        if "feat" in parts:
            other = torch.cat([other, parts["feat"]], dim=1)
        nodes, group, count = of.unique_consecutive(return_inverse=True, return_counts=True)
        if nodes.numel() < of.numel():  # a message is what a cell multiplies: the mean of messages is that of parts
            share = (1 / count)[group][:, None]
            other, phi = (x.new_zeros(nodes.numel(), x.shape[1]).index_add(0, group, share * x) for x in (other, phi))
        return nodes, self.take_in(parts["state"][nodes], other, phi)

    def take_in(self, state: Tensor, other: Tensor, phi: Tensor) -> Tensor:
        """The cell's answer [u, d] to messages [state || other || phi].

        Products are parted by what they multiply: state and other are constants, which need no gradient, and what
        of state counts in a gate twice, as a part of the message and as the cell's state, is multiplied once.

        Args:
            state: [u, d] own memories.
            other: [u, d + F] the other ends' memories and the events' features.
            phi: [u, T] encoded times.
        """
        d, cell, rows, carried = self.dim, self.cell, len(state), state
        state, other, phi = (even(x) for x in (state, other, phi))
        own, far, by_time = cell.weight_ih.split([d, other.shape[1], phi.shape[1]], dim=1)
        told = torch.addmm(F.linear(other, far), phi, by_time.t())
        if isinstance(cell, nn.RNNCell):
            return torch.tanh(told + F.linear(state, own + cell.weight_hh, cell.bias_ih + cell.bias_hh))[:rows]
        (gates, fresh), (held, kept) = (x.split([2 * d, d]) for x in (own, cell.weight_hh))
        (bias, fresh_bias), (held_bias, kept_bias) = (x.split([2 * d, d]) for x in (cell.bias_ih, cell.bias_hh))
        weight, all_bias = torch.cat([gates + held, fresh, kept]), torch.cat([bias + held_bias, fresh_bias, kept_bias])
        mine = F.linear(state, weight, all_bias)
        return gated(told[:rows], mine[:rows], carried)  # what a gate keeps is carried as it is, in bfloat16 too


class Mails(nn.Module):
    """Attention of a node's memory over its mails, then LayerNorm and a small network (APAN).

    A mail's time counts to the moment at which the memory is read, as in TGL's APAN: a node tells by it how long
    nothing has come.
    """

    def __init__(self, dim: int, feat: int, time: Time, heads: int, dropout: float) -> None:
        super().__init__()
        self.time, self.heads, self.dropout = time, heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key, self.value = (nn.Linear(2 * dim + feat + time.dim, dim) for _ in range(2))
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, parts: Params, now: Tensor) -> tuple[Tensor, Tensor]:
        """(nodes [u] with mail, their memories [u, d] at the moment ``now``)."""
        there, nodes = parts["there"], parts["there"].any(1).nonzero()[:, 0]
        age = torch.where(there, now - parts["moment"], 0).float()
        state, heads, width = parts["state"][nodes], self.heads, self.query.out_features // self.heads
        query = self.query(state).view(len(nodes), heads, width) / math.sqrt(width)  # [u, H, W]
        (to_key, key_bias), (to_value, value_bias) = (
            (f.weight.view(heads, width, -1), f.bias.view(heads, width)) for f in (self.key, self.value)
        )
        asked, bias = torch.bmm(query.transpose(0, 1), to_key.to(query.dtype)), (query * key_bias).sum(2)
        sums, total = attend_mails(
            nodes, there, age, parts["mail"], self.time.w, self.time.b, asked, bias, self.dropout, self.training
        )  # [H, u, M + T], [u, H]
        values = torch.bmm(sums.to(query.dtype), to_value.to(query.dtype).mT).transpose(0, 1)
        seen = (values + total[:, :, None] * value_bias).reshape(state.shape)
        return nodes, self.out(self.norm(seen + state))


class Remembered(NamedTuple):
    """Memories of n nodes once they have taken in what was pending."""

    seen: Tensor  # [n, d] to be embedded
    kept: Tensor  # [n, d] to be written
    before: Tensor  # [u, d] of the nodes that took something in, before
    after: Tensor  # [u, d] and after, corrected
    incoherent: Tensor | None = None  # [] by how much these two are, where that is known by the way


_GAMMA_RATE = 50.0


class Correction(nn.Module):
    """PRES's equation 8: gamma times the measured memory and 1 - gamma times the predicted one (7).

    Args:
        gamma: weight of the measurement; None learns it, as the sigmoid of a number at fifty times a weight's rate:
            Adam moves a number by about its rate a step, and at a weight's gamma would stay where it begins.
        first: where it begins, if it is learned.
        embeds: the memory that is embedded: the corrected one as in the paper's figure 8, or the measured one as in
            its algorithm 2, by which no gradient of the task reaches gamma.
        writes: the memory that is written back; its code writes the measured one.
    """

    def __init__(
        self, gamma: float | None = None, *, first: float = 0.9, embeds: Memories = "corrected",
        writes: Memories = "corrected",
    ) -> None:  # fmt: skip
        super().__init__()
        self.fixed, self.embeds, self.writes = gamma, embeds, writes
        self.raw = nn.Parameter(torch.tensor(math.log(first / (1 - first)) / _GAMMA_RATE)) if gamma is None else None

    @property
    def gamma(self) -> Tensor | float:
        """In [0, 1]."""
        return torch.sigmoid(_GAMMA_RATE * self.raw) if self.raw is not None else float(self.fixed or 0.0)

    def forward(
        self, parts: Params, nodes: Tensor, before: Tensor, measured: Tensor
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """(Memories [u, d] of ``nodes``, their incoherence); one of which nothing is known keeps what is measured."""
        if self.fixed == 1.0:
            return measured, None
        gamma = torch.as_tensor(self.gamma, dtype=measured.dtype, device=measured.device)
        return corrected(before, parts["ahead"], parts["known"], nodes, measured, gamma)
