"""An evaluation in tiles as a process of its own runs it: importable by name, as that one needs it."""

from __future__ import annotations

import torch

from graphscale import probe, store
from graphscale.nn import exact, named, stock


def evaluated(rank, place, model, out):
    """Write the megabytes that it takes to a file."""
    torch.set_num_threads(1)
    graph = store.read(place)
    model = named.build(model, graph, in_dim=16, hidden=64, num_layers=2, dropout=0.0)
    feed, _ = stock.Feed.of(model, graph)
    exact._ONE_PASS = 0
    before = probe.anon_mb()
    with probe.PeakMemory() as memory:
        exact.outputs(model, feed, graph, torch.device("cpu"))
    out.write_text(str(memory.peak_mb - before))
