"""What exists in time: a stream of events between nodes, in the order in which they happened.

E events, N nodes, F numbers an event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from graphscale import scratch
from graphscale.errors import InputError
from graphscale.kernels.temporal import TemporalCsr, extended, temporal_csr
from graphscale.scratch import joined

_BLOCK = 1 << 22  # events that are looked at at a time


@dataclass(frozen=True, eq=False, repr=False)
class Events:
    """A stream; its arrays may be memory-mapped. Event e happened no later than event e + 1.

    Moments are int64, or float64 where the source has fractions: float32 would tie seconds of a year.
    """

    src: Tensor  # [E] int32 or int64
    dst: Tensor  # [E]
    t: Tensor  # [E] int64 or float64, ascending
    num_nodes: int
    feat: Tensor | None = None  # [E, F] float32
    label: Tensor | None = None  # [E] int64: state of src at the event; None without labels
    num_src: int = 0  # sources are 0 .. num_src - 1 and destinations the rest; 0 where a node may be either
    directed: bool = False  # whether the events of a node, as its neighbours see them, are the incoming ones alone
    notes: tuple[str, ...] = ()
    kept: Mapping[str, Tensor] = field(default_factory=dict)  # the CSR of a store: indptr, neighbour, event

    def __repr__(self) -> str:
        kind = f"bipartite, {self.num_src:,} sources, " if self.bipartite else "directed, " if self.directed else ""
        labels = "" if self.label is None else ", labels"
        return f"Events({kind}{self.num_events:,} of {self.num_nodes:,} nodes, {self.num_features} features{labels})"

    @property
    def num_events(self) -> int:
        """E."""
        return self.src.numel()

    @property
    def num_features(self) -> int:
        """F, 0 without features."""
        return 0 if self.feat is None else self.feat.shape[1]

    @property
    def bipartite(self) -> bool:
        """Whether sources and destinations are other kinds of nodes."""
        return self.num_src > 0

    def met(self, among: Tensor | int | None, *ends: Literal["src", "dst"]) -> Tensor:
        """[N] bool: nodes that are one of these ends of some events.

        Args:
            among: numbers of the events, or how many of the first ones; by default all.
            ends: which.
        """
        found = torch.zeros(self.num_nodes, dtype=torch.bool)
        count = self.num_events if among is None else among if isinstance(among, int) else among.numel()
        for end in ends:
            column = self.src if end == "src" else self.dst
            for some in scratch.blocks(count, 1):
                found[(column[among[some]] if isinstance(among, Tensor) else column[some]).long()] = True
        return found

    @cached_property
    def csr(self) -> TemporalCsr:
        """Every node's events in the order of time."""
        if self.kept:
            return TemporalCsr(self.kept["indptr"], self.kept["neighbour"], self.kept["event"])
        return temporal_csr(self.src, self.dst, self.num_nodes, directed=self.directed)

    def select(self, keep: Tensor) -> Events:
        """The stream of some events, numbered anew.

        Args:
            keep: [E] bool, or ascending numbers of events.
        """
        at = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
        return replace(
            self, src=self.src[at], dst=self.dst[at], t=self.t[at],
            feat=None if self.feat is None else self.feat[at],
            label=None if self.label is None else self.label[at], kept={},
        )  # fmt: skip

    def roomier(self, sources: int) -> Events:
        """The bipartite stream with numbers for so many later sources: destinations are numbered behind them.

        Raises:
            InputError: where the stream is not bipartite, or the number is negative.
        """
        if not self.bipartite or sources < 0:
            raise InputError(
                f"room for {sources:,} later sources: a number from 0 is needed, and a bipartite stream (num_src). New"
                " nodes of any other take the next numbers."
            )
        nodes = self.num_nodes + sources
        kind = torch.int32 if nodes < 2**31 else torch.int64
        dst = scratch.empty(self.num_events, dtype=kind)
        for some in scratch.blocks(self.num_events, 1):
            dst[some] = self.dst[some].long() + sources
        return replace(self, src=self.src.to(kind), dst=dst, num_nodes=nodes, num_src=self.num_src + sources, kept={})

    def demand_follows(self, later: Events) -> None:
        """Refuse events that cannot be appended to these.

        Raises:
            InputError: where they begin before this stream ends, or are of another kind.
        """
        if later.num_features != self.num_features or (later.label is None) != (self.label is None):
            raise InputError(
                f"the later events have {_kind(later)}, the stream {_kind(self)}. Give events of one kind."
            )
        if later.num_src != self.num_src and (self.bipartite or later.bipartite):
            raise InputError(
                f"the later events have {later.num_src:,} sources, the stream {self.num_src:,}: destinations would be"
                " other nodes. Give events of one stream, numbered as it is."
            )
        if later.t.is_floating_point() and not self.t.is_floating_point():
            raise InputError(
                "the later events have moments with fractions (float64), the stream whole numbers (int64). Give whole"
                " numbers, or prepare the stream again with fractions."
            )
        if self.num_events and later.num_events and bool(later.t[0] < self.t[-1]):
            raise InputError(
                f"the later events begin at {later.t[0].item()}, before the stream ends ({self.t[-1].item()})."
                " Append events in the order of time."
            )

    def appended(self, later: Events) -> Events:
        """The stream with later events at its end; the CSR grows by them, it is not built again.

        Many additions, one after the other, are ``growing.Growing``'s.

        Raises:
            InputError: where they begin before this stream ends, or are of another kind.
        """
        self.demand_follows(later)
        nodes = max(self.num_nodes, later.num_nodes)
        grown = replace(
            self, num_nodes=nodes, kept={}, src=joined(self.src, later.src), dst=joined(self.dst, later.dst),
            t=joined(self.t, later.t),
            feat=None if self.feat is None or later.feat is None else joined(self.feat, later.feat),
            label=None if self.label is None or later.label is None else joined(self.label, later.label),
        )  # fmt: skip
        if "csr" in self.__dict__ or self.kept:
            grown.__dict__["csr"] = extended(self.csr, later.src, later.dst, nodes, self.num_events, self.directed)
        return grown

    def split(self, val: float = 0.15, test: float = 0.15) -> tuple[int, int]:
        """Numbers of the first validation and the first test event: by time, events of one moment together.

        Args:
            val, test: shares of the events.

        Raises:
            InputError: where one of the three would be empty.
        """
        cuts = []
        for share in (1 - val - test, 1 - test):
            at = min(int(share * self.num_events), self.num_events - 1)
            cuts.append(int(torch.searchsorted(self.t, self.t[at], right=False)) if at >= 0 else 0)
        if not 0 < cuts[0] < cuts[1] < self.num_events:
            raise InputError(
                f"{self.num_events} events cannot be split by time at {1 - val - test:.2f} and {1 - test:.2f}: a part"
                " would be empty (events of one moment stay together). Give more events, or other shares."
            )
        return cuts[0], cuts[1]

    def identity(self) -> str:
        """A hash of who met when, with what label and features: what a checkpoint is bound to.

        Of the features, which may be larger than memory, 65,536 rows are looked at, evenly spread.
        """
        kind = (self.num_nodes, self.num_src, self.directed, self.num_features, self.label is not None)
        digest = hashlib.blake2b(repr(kind).encode(), digest_size=16)
        for tensor in (self.src, self.dst, self.t, *([] if self.label is None else [self.label])):
            for start in range(0, self.num_events, _BLOCK):
                digest.update(np.ascontiguousarray(tensor[start : start + _BLOCK].numpy()).data)
        if self.feat is not None:
            rows = torch.linspace(0, self.num_events - 1, min(self.num_events, 1 << 16), dtype=torch.float64).long()
            digest.update(np.ascontiguousarray(self.feat[rows].numpy()).data)
        return digest.hexdigest()


def stream(
    src: Tensor, dst: Tensor, t: Tensor, *, num_nodes: int | None = None, feat: Tensor | None = None,
    label: Tensor | None = None, num_src: int = 0, directed: bool = False, sort: bool = False, known: int = 0,
) -> Events:  # fmt: skip
    """A checked stream.

    Args:
        src, dst: [E] nodes from 0.
        t: [E] moments.
        num_nodes: N; by default the largest id and one.
        num_src: where sources are nodes below it and destinations the others.
        sort: put events in the order of time, those of one moment as they come; otherwise they must be.
        known: nodes of the stream that these events go on with.

    Raises:
        InputError: on anything unsound, naming the first event.
    """
    notes: tuple[str, ...] = ()
    lengths = {"src": src, "dst": dst, "t": t, "feat": feat, "label": label}
    for name, value in lengths.items():
        if value is not None and value.shape[0] != src.numel():
            raise InputError(f"{name} has {value.shape[0]} rows for {src.numel()} events. Give one row an event.")
    if src.numel() == 0:
        raise InputError("the stream has no event. Give at least one.")
    if feat is not None and feat.dim() != 2:
        raise InputError(f"feat is {list(feat.shape)}. Give [E, F]: a row of numbers an event.")
    src, dst = signed(src), signed(dst)
    nodes = _num_nodes(src, dst, num_nodes, known)
    label = None if label is None else whole(label, "label")
    t = t.to(torch.float64) if t.is_floating_point() else t.to(torch.int64)
    if t.is_floating_point() and not bool(t.isfinite().all()):
        raise InputError(f"event {_first(~t.isfinite())} has no finite time. Drop such events, or mend their times.")
    if sort and bool(_backwards(t).any()):
        order = t.argsort(stable=True)
        src, dst, t = src[order], dst[order], t[order]
        feat, label = (None if v is None else v[order] for v in (feat, label))
        notes = (f"events were put in the order of time: {_unsorted(order):,} were not",)
    if bool(_backwards(t).any()):
        at = _first(_backwards(t)) + 1
        raise InputError(
            f"event {at} (t = {t[at].item()}) happens before event {at - 1} (t = {t[at - 1].item()}). Sort the events"
            " by time."
        )
    if num_src:
        _demand_parted(src, dst, num_src)
    if feat is not None and not bool(feat.isfinite().all()):
        bad_row = _first(~feat.isfinite().all(1))
        raise InputError(f"the features of event {bad_row} hold NaN or an infinity. Clean the features.")
    kind = torch.int32 if nodes < 2**31 else torch.int64
    return Events(
        src=src.to(kind), dst=dst.to(kind), t=t, num_nodes=nodes, feat=None if feat is None else feat.float(),
        label=label, num_src=num_src, directed=directed, notes=notes,
    )  # fmt: skip


def signed(ids: Tensor) -> Tensor:
    """Ids of unsigned types as int64, which torch compares; those beyond its range become negative, and are refused."""
    return ids.to(torch.int64) if ids.dtype in (torch.uint16, torch.uint32, torch.uint64) else ids


def _num_nodes(src: Tensor, dst: Tensor, said: int | None, known: int) -> int:
    """The number of nodes, as it is said or as the ids have it.

    Raises:
        InputError: where ids are no whole numbers, or out of range.
    """
    for name, ids in (("src", src), ("dst", dst)):
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise InputError(f"{name} is {ids.dtype}: nodes are whole numbers. Convert the column.")
    nodes = 1 + int(torch.maximum(src.max(), dst.max())) if said is None else said
    if said is None and nodes > max(1_000_000 + 2 * known, 200 * src.numel()):
        raise InputError(
            f"{src.numel():,} events name node {nodes - 1:,}: every number up to the largest is a node with a memory."
            " Number the nodes anew, from 0 without gaps."
        )
    for name, ids in (("src", src), ("dst", dst)):
        bad = (ids < 0) | (ids >= nodes)
        if bool(bad.any()):
            at = _first(bad)
            raise InputError(f"event {at}: {name} is {int(ids[at])}, and nodes are 0 .. {nodes - 1}. Mend the ids.")
    return nodes


def whole(values: Tensor, name: str) -> Tensor:
    """[E] int64 of a column of whole numbers, however it is stored.

    Raises:
        InputError: where one has a fraction or is no number.
    """
    if values.is_floating_point():
        bad = ~values.isfinite() | (values != values.floor())
        if bool(bad.any()):
            at = _first(bad.reshape(-1))
            raise InputError(
                f"event {at}: {name} is {values.reshape(-1)[at].item()}, no whole number. Mend the column."
            )
    return values.long()


def _backwards(t: Tensor) -> Tensor:
    """[E - 1] bool; a difference of int64 may overflow."""
    return t[1:] < t[:-1]


def _demand_parted(src: Tensor, dst: Tensor, num_src: int) -> None:
    bad = (src >= num_src) | (dst < num_src)
    if bool(bad.any()):
        at = _first(bad)
        raise InputError(
            f"event {at} ({int(src[at])}, {int(dst[at])}) does not go from one of the {num_src:,} sources to a"
            " destination. Leave num_src out where a node may be both; for later sources, prepare the stream with room"
            " (--spare-sources)."
        )


def _kind(events: Events) -> str:
    return f"{events.num_features} features{'' if events.label is None else ' and labels'}"


def _first(bad: Tensor) -> int:
    return int(bad.nonzero()[0, 0])


def _unsorted(order: Tensor) -> int:
    return int((order != torch.arange(order.numel())).sum())
