"""Exact outputs of anybody's model over a whole graph, in memory of a tile.

A tile is a range of rows (the roots) with the sources of their edges (the halo). One sweep over all
tiles makes the first propagation exact for every node and keeps it in a table; the next sweep puts the
halo's rows from that table in place of the block's own, which lack the halo's neighbours, and so makes
the second propagation exact; after K sweeps for K propagations a last one gives the logits. The price
is (K + 1) / 2 times the arithmetic of one pass; the memory is a tile's, beside the tables, which may lie
in files.

This is exact for models whose other parts treat rows apart. Whether a model is so is not guessed but
tried, on a toy graph: ``way`` compares tiles with a whole pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from graphscale import scratch
from graphscale.csr import Csr
from graphscale.graph import Graph, take_rows
from graphscale.nn.fast_calls import NoChance
from graphscale.nn.splice import Rows, cut, last_input, spliced
from graphscale.nn.stock import Feed, toy
from graphscale.nn.trial import MODES, TRIED, alike, on_trial
from graphscale.reach import Reach

Way = Literal["bare", "degrees", "whole"]  # "degrees": rows of the halo are filled, for code that counts them


# Of a toy graph, and of its tiles: few, so that no node, the one of most edges included, is in all of them. Code that
# takes a maximum over a block's nodes, or pads its rows to the longest, would look right if one were.
_NODES, _ROOTS = 24, 3


class _Reached(Exception):  # noqa: N818 - no error: the rest of the forward pass is not needed
    pass


@dataclass(frozen=True)
class Tile:
    """Roots start:stop of a graph and their halo, as a square block."""

    start: int
    stop: int
    n_id: Tensor  # [n] roots first
    adj: Csr  # [n, n]
    entry: Tensor  # [e] position of every entry in the graph

    @property
    def halo(self) -> Tensor:
        """[n - roots] nodes past the roots."""
        return self.n_id[self.stop - self.start :]


def tile_of(reach: Reach, start: int, stop: int, *, degrees: bool) -> Tile:
    """The block of rows start:stop; with ``degrees`` the halo's rows are filled (``reach``)."""
    n_id, adj, entry = reach.block(torch.arange(start, stop), filled=degrees)
    return Tile(start, stop, n_id, adj, entry)


def tiles(adj: Csr, *, rows: int, entries: int, degrees: bool) -> Iterator[Tile]:
    """All rows in turn, as many at a time as keep a tile within ``rows`` roots and ``entries`` entries.

    A single row may exceed ``entries``: it cannot be divided.
    """
    reach = Reach(adj)
    start, size = 0, rows
    most = rows  # of a tile whose halo is filled: only a tile that was made tells how large it is
    while start < adj.num_rows:
        stop = min(adj.num_rows, start + size)
        inside = int(adj.indptr[stop] - adj.indptr[start])
        if stop - start > 1 and inside > entries:
            size = (stop - start) // 2
            continue
        tile = tile_of(reach, start, stop, degrees=degrees)
        if stop - start > 1 and tile.adj.num_entries > entries:
            most = size = (stop - start) // 2
            continue
        yield tile
        start, size = stop, min(most, 2 * size)


def way(model: nn.Module, feed: Feed, graph: Graph, *, training: bool = False) -> Way:
    """How a model's outputs may be computed: in bare tiles, in tiles with degrees, or only all at once.

    Args:
        training: whether what training alone reaches must be so too.
    """
    for degrees in (False, True):
        modes = MODES if training else MODES[:1]
        if all(_in_tiles_too(model, feed, graph, mode, degrees, low=low) for mode, low in modes):
            return "degrees" if degrees else "bare"
    return "whole"


def _in_tiles_too(
    model: nn.Module, feed: Feed, graph: Graph, training: bool, degrees: bool, *, low: bool
) -> bool:  # fmt: skip
    """Whether a copy of the model gives in tiles of a toy graph what it gives on the whole; in float64 where it can.

    Sweeps need not be made: where every tile is right given right rows of its halo, each sweep makes one table right.
    """
    for dtype in (torch.float64, None):
        trial = on_trial(model, training=training, dtype=dtype)
        x, adj, attr = toy(trial, graph, _NODES, 70)
        if dtype is not None:
            x, attr = (t.to(dtype) if t is not None and t.is_floating_point() else t for t in (x, attr))  # type: ignore[assignment]
        tables: list[Tensor] = []

        def kept(number: int, out: Tensor, tables: list[Tensor] = tables) -> Tensor:
            tables.append(out.clone())  # layers go on with it in place
            return out

        try:
            with torch.no_grad(), NoChance(low=low), spliced(trial, kept):
                expected = feed(trial, x, adj, attr)
        except TRIED:
            continue  # somebody's own code may make float32 of its own
        if low and not bool(expected.isfinite().all()):
            return True  # where chance drops everything, a model may give nothing to compare
        reach, found = Reach(adj.to(torch.device("cpu"))), []
        try:
            with torch.no_grad(), NoChance(low=low):
                for start in range(0, _NODES, _ROOTS):
                    tile = tile_of(reach, start, start + _ROOTS, degrees=degrees)
                    found.append(_tile_of_toy(trial, feed, tile, x, attr, tables))
        except TRIED:
            return False
        return alike(torch.cat(found).to(expected), expected)
    return low


def _tile_of_toy(
    trial: nn.Module, feed: Feed, tile: Tile, x: Tensor, attr: Tensor | None, tables: list[Tensor]
) -> Tensor:
    """Logits of a tile's roots, where the halo's rows come from ``tables``."""
    n_id, roots = tile.n_id.to(x.device), tile.stop - tile.start

    def visit(number: int, out: Tensor) -> Tensor:
        if out.shape[0] != n_id.numel():
            raise ValueError("a propagation has other rows than the block")
        return torch.cat([out[:roots], tables[number][n_id[roots:]]])

    with spliced(trial, visit):
        attr = None if attr is None else attr[tile.entry.to(x.device)]
        return feed(trial, x[n_id], tile.adj.to(x.device), attr)[:roots]


def in_tiles(
    model: nn.Module,
    feed: Feed,
    graph: Graph,
    *,
    device: torch.device,
    rows: int = 1 << 16,
    entries: int = 1 << 20,
    degrees: bool = True,
    seen: Rows | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(logits [N, C], input of the last layer that sends messages [N, H], if any) of a model in evaluation mode.

    Args:
        device: where tiles are computed; tables and results lie in scratch.
        rows: roots a tile, at most.
        entries: entries a tile, at most.
        degrees: see ``tile_of``.
        seen: is told what every propagation exactly gives, [roots, d], as it is while the model trains: what a layer
            does first, product or sum, depends on gradients.
    """
    sweep = _Sweep(model, feed, graph, device, seen)
    with torch.set_grad_enabled(seen is not None):
        for depth in itertools.count():
            for tile in tiles(graph.adj, rows=rows, entries=entries, degrees=degrees):
                sweep.run(tile, depth)
            if sweep.logits is not None:
                return sweep.logits, sweep.hidden
    raise AssertionError("a forward pass has finitely many propagations")


class _Sweep:
    """Passes of tiles through a model, and the tables between them."""

    def __init__(self, model: nn.Module, feed: Feed, graph: Graph, device: torch.device, seen: Rows | None) -> None:
        self.model, self.feed, self.graph, self.device, self.seen = model, feed, graph, device, seen
        self.tables: dict[int, Tensor] = {}  # number of a propagation -> [N, d] what it exactly gives
        self.logits: Tensor | None = None
        self.hidden: Tensor | None = None

    def run(self, tile: Tile, depth: int) -> None:
        """A tile's forward pass up to propagation ``depth``, the first whose table is not yet complete."""
        roots = tile.stop - tile.start

        def visit(number: int, out: Tensor) -> Tensor:
            if out.shape[0] != tile.n_id.numel():
                raise ValueError("a propagation has other rows than the block")
            if number == depth:
                self.tables[number] = self._filled(self.tables.get(number), tile, out)
                if self.seen is not None:
                    self.seen(number, tile.start, tile.stop, self.tables[number][tile.start : tile.stop])
                raise _Reached
            rows = self.tables[number][tile.halo].to(out).view(-1, *out.shape[1:])
            return cut(torch.cat([out.detach()[:roots], rows]), out)

        graph, device = self.graph, self.device
        x = take_rows(graph.x, tile.n_id)
        assert x is not None
        attr = None if graph.edge_attr is None else graph.edge_attr[tile.entry].to(device)
        with spliced(self.model, visit), last_input(self.model) as last:
            try:
                logits = self.feed(self.model, x.to(device), tile.adj.to(device), attr)
            except _Reached:
                return
        self.logits = self._filled(self.logits, tile, logits)
        if last:
            self.hidden = self._filled(self.hidden, tile, last[-1])

    def _filled(self, table: Tensor | None, tile: Tile, values: Tensor) -> Tensor:
        """The table with the tile's roots written, made where there is none yet."""
        flat = values.detach()[: tile.stop - tile.start].flatten(1)
        if table is None:
            table = scratch.empty(self.graph.num_nodes, flat.shape[1], dtype=flat.dtype)
        table[tile.start : tile.stop] = flat.cpu()
        return table
