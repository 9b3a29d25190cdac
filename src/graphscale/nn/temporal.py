"""Networks over a stream: TGN, JODIE, APAN, and TGAT as the control without memory.

A pass takes what the memory gives of the n nodes of a batch (``Memory.parts``) and the batch; it updates the
memory of nodes with something pending, embeds the r root queries and says what is to be written. n nodes, m messages,
d numbers of memory, F of an event, T of a time, H heads, k sampled events a query.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphscale.batches.stream import EventBatch, Hop
from graphscale.kernels.aggregate import aggregate
from graphscale.kernels.even import even, even_number
from graphscale.kernels.event_attention import attend_events
from graphscale.nn.memories import Correction, Mails, Messages, Remembered, Time
from graphscale.step import Params


class Attention(nn.Module):
    """Temporal attention over sampled events, in heads, and the node's own part (TGN's; PyG's TransformerConv)."""

    def __init__(self, dim: int, out: int, edge: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout, self.width = heads, dropout, out // heads
        self.query, self.skip = nn.Linear(dim, out), nn.Linear(dim, out)
        self.key, self.value = nn.Linear(dim, out), nn.Linear(dim, out)
        self.edge_key, self.edge_value = (nn.Linear(edge, out, bias=False) for _ in range(2))

    def forward(self, h: Tensor, hop: Hop, time: Time) -> Tensor:
        """Of h [q, d], the next hop's queries: [m, out]."""
        m, q, heads, width = hop.block.num_rows, len(h), self.heads, self.width
        h = even(h)
        own = h[: even_number(m, len(h))]
        query = self.query(own).view(-1, heads, width) / math.sqrt(width)
        key, value = (f(h).view(-1, heads, width)[:q] for f in (self.key, self.value))
        to_key, to_value = (f.weight.view(heads, width, -1) for f in (self.edge_key, self.edge_value))
        by_event = torch.bmm(query.transpose(0, 1), to_key.to(query.dtype))[:, :m]  # [H, m, T + F]
        seen, sums = attend_events(
            hop.block, hop.rows, hop.age, hop.feat, time.w, time.b, query[:m], key, value, by_event, self.dropout,
            self.training,
        )  # fmt: skip
        events = torch.bmm(even(sums, 1).to(query.dtype), to_value.to(query.dtype).transpose(1, 2))[:, :m]
        out: Tensor = (seen + events.transpose(0, 1)).reshape(m, -1) + self.skip(own)[:m]
        return out


class Sum(nn.Module):
    """TGN's sum: relu of W1 (sum of [h_u || e]), then W2 of it beside the node's own."""

    def __init__(self, dim: int, out: int, edge: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.near, self.edge = nn.Linear(dim, out), nn.Linear(edge, out, bias=False)
        self.out = nn.Linear(dim + out, out)

    def forward(self, h: Tensor, hop: Hop, time: Time) -> Tensor:
        """[q, d] -> [m, out]."""
        edge = time(hop.age)
        edge = edge if hop.feat is None else torch.cat([edge, hop.feat], dim=1)
        summed = aggregate(hop.block, self.near(h)) + self.edge(aggregate(hop.rows, edge))
        out: Tensor = self.out(torch.cat([h[: hop.block.num_rows], summed.relu()], dim=1))
        return out


_HOPS: dict[str, type[Attention] | type[Sum]] = {"attention": Attention, "sum": Sum}


class Projection(nn.Module):
    """JODIE's: s (1 + W dt), dt the time since a node's last event in standard units."""

    def __init__(self, dim: int, mean: float, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.register_buffer("scale", torch.tensor([mean, max(std, 1e-6)]))

    def forward(self, h: Tensor, idle: Tensor) -> Tensor:
        """[r, d], [r] -> [r, d]."""
        assert isinstance(self.scale, Tensor)
        return h * (1 + (idle - self.scale[0])[:, None] / self.scale[1] * self.weight)


class Pairs(nn.Module):
    """Logits of pairs: W (relu of A z_src + B z_dst); A and B act once a root."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.src, self.dst, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 1)

    def forward(self, z: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Of roots [r, d] and places of any one shape: logits of that shape."""
        a, b = (f(even(z)) for f in (self.src, self.dst))
        logits: Tensor = self.out((F.embedding(src, a) + F.embedding(dst, b)).relu())
        return logits.squeeze(-1)


class Embedded(NamedTuple):
    """What a pass gives."""

    roots: Tensor  # [r, d]
    memory: Remembered | None  # of the batch's nodes


class TemporalNet(nn.Module):
    """A memory's update, an embedding and a decoder.

    Args:
        dim: d, the width of everything.
        feat: F of an event.
        update: ``gru``, ``rnn``, ``mail`` or ``none`` (no memory: TGAT).
        embed: ``attention``, ``sum``, ``time`` or ``identity``.
        layers: hops of attention or sum.
        correction: PRES's, over the update; what is embedded and what is written may be the measured memory.
        gaps: (mean, deviation) of the time between a node's events, for ``time``.
        states: classes of a source's state, where they are foretold; 0 for links.
        learned_times: whether the frequencies of encoded times are learned.
    """

    def __init__(
        self, dim: int, feat: int, *, update: str, embed: str, layers: int = 1, time_dim: int = 100, heads: int = 2,
        dropout: float = 0.1, correction: Correction | None = None, gaps: tuple[float, float] = (0.0, 1.0),
        states: int = 0, learned_times: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim, self.embed, self.correction = dim, embed, correction
        self.time = Time(time_dim, learned=learned_times)
        self.update: nn.Module | None = None
        if update == "mail":
            self.update = Mails(dim, feat, self.time, heads, dropout)
        elif update != "none":
            self.update = Messages(dim, feat, self.time, update)
        hops = layers if embed in _HOPS else 0
        self.layers = nn.ModuleList(_HOPS[embed](dim, dim, time_dim + feat, heads, dropout) for _ in range(hops))
        self.projection = Projection(dim, *gaps) if embed == "time" else None
        self.decoder = Pairs(dim)
        self.states = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, states)) if states else None

    def forward(self, parts: Params, batch: EventBatch) -> Embedded:
        """A pass over a batch."""
        memory = None
        if self.update is None:
            h = torch.zeros(batch.n_id.numel(), self.dim, device=batch.idle.device)
        else:
            memory = self.remembered(parts, batch.now)
            h = memory.seen
        if batch.place.numel() != batch.n_id.numel():  # some nodes are queried at several moments
            h = F.embedding(batch.place, h)
        return Embedded(self.embedded(h, batch), memory)

    def remembered(self, parts: Params, now: Tensor) -> Remembered:
        """Memories with what was pending taken in.

        Args:
            parts: what the table gives of the nodes.
            now: [] moment at which memories are read, as the stream counts it.
        """
        assert self.update is not None
        memory, (nodes, measured) = parts["state"], self.update(parts, now)
        before, after, correction, incoherent = memory[nodes], measured, self.correction, None
        if correction is not None:
            after, incoherent = correction(parts, nodes, before, measured)
        seen = kept = memory.index_copy(0, nodes, after.to(memory.dtype))
        if correction is not None and "measured" in (correction.embeds, correction.writes):
            other = memory.index_copy(0, nodes, measured.to(memory.dtype))
            seen, kept = (other if of == "measured" else seen for of in (correction.embeds, correction.writes))
        return Remembered(seen, kept, before, after, incoherent)

    def embedded(self, h: Tensor, batch: EventBatch) -> Tensor:
        """Root queries [r, d] of the memories [q, d] of all queries."""
        for layer, hop in zip(self.layers, reversed(batch.hops), strict=True):
            h = layer(h, hop, self.time)
            if layer is not self.layers[-1]:
                h = h.relu()
        roots = h[: batch.num_roots]
        if self.projection is not None:
            roots = self.projection(roots, batch.idle)
        return roots
