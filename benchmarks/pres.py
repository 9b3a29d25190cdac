"""Streams: speed beside PyG's TGN, an epoch at four times the batch with and without PRES, a long stream.

    GRAPHSCALE_DATA=... python benchmarks/pres.py [--work DIR] [--only TABLE ...] [--threads T] [--device cuda]

Writes benchmarks/results/pres_TABLES_DATE.md of the tables that were asked for and ends with a JSON line. What they
foretell is in ``pres_accuracy.py``.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from study import Table, report
from torch import Tensor

from graphscale import configure, heap, probe, rng, stream_runs
from graphscale.batches.aboard import aboard
from graphscale.batches.ahead import ahead
from graphscale.batches.stream import MEMORY
from graphscale.data.planted_stream import planted_stream
from graphscale.loop import train_step
from graphscale.recipes import pres
from graphscale.run import Run
from graphscale.store.stream import write_stream
from graphscale.stream_scores import LINKS, LinkScores

STREAMS = ("wikipedia_edges", "collegemsg", "ml-100k")
DEVICE = "cpu"
WIDTH, NEIGHBOURS, SIZES = 100, 10, (200, 1000, 4000)


def seconds_of(work: Callable[[int], Any], first: int, last: int) -> float:
    """Seconds of calls ``first`` to ``last``, those before them being warm-up."""
    for i in range(first):
        work(i)
    began = time.perf_counter()
    for i in range(first, last):
        work(i)
    return time.perf_counter() - began


def ours(size: int, *, bf16: bool) -> float:
    """Events a second in training."""
    config = configure("pres", data="wikipedia_edges", preset="none", batch_size=size, lr=1e-4,
                       precision="bf16" if bf16 else "fp32")  # fmt: skip
    run = pres.build(config, pres.read(config), 0)
    assert run.begins is not None
    run.begins()
    run.model.train()
    stream = ahead(itertools.chain.from_iterable(run.batches.epoch(i) for i in itertools.count()), run.prefetch)
    first, last = _span(size)
    spent = seconds_of(lambda i: train_step(run, next(stream), i), first, last)
    return size * (last - first) / spent


def _span(size: int) -> tuple[int, int]:
    """Batches of warm-up and measured ones: some 10 and 40 thousand events, where memories are filled."""
    return max(3, 10_000 // size), max(8, 50_000 // size)


class Latest(torch.nn.Module):
    """PyG's ``LastAggregator`` as it is with torch-scatter, which does not build here.

    Without it PyG 2.8's fallback gives a node that has no message another one's.
    """

    def forward(self, msg: Tensor, index: Tensor, t: Tensor, dim_size: int) -> Tensor:
        """[dim_size, d] of every node's latest message; 0 where it has none."""
        order = t.argsort(stable=True)
        last = torch.full((dim_size,), -1).scatter_reduce_(0, index[order], torch.arange(len(t)), "amax")
        out = msg.new_zeros(dim_size, msg.shape[-1])
        out[last >= 0] = msg[order[last[last >= 0]]]
        return out


class PyGTGN:
    """PyG's own modules, as its examples/tgn.py puts them together; they need a feature an event, which is 0.

    Negatives are ours. With ``new``, memories are of the events of training alone, and evaluation sees the neighbours
    of all, as in ``stream_scores``.

    Args:
        size: of a batch of training.
        new: share of the later nodes that training does not see.
        seed: of the negatives; weights follow from torch's.
    """

    def __init__(
        self, size: int, *, data: str = "wikipedia_edges", new: float = 0.0, lr: float = 1e-4, seed: int = 0
    ) -> None:  # fmt: skip
        from torch_geometric.data import TemporalData
        from torch_geometric.loader import TemporalDataLoader
        from torch_geometric.nn import TGNMemory, TransformerConv
        from torch_geometric.nn.models.tgn import IdentityMessage, LastNeighborLoader

        self.data = data
        self.views = pres.read(configure("pres", data=data, preset="none", new=new))
        events, seen = self.views.events, self.views.numbers
        self.t, self.nodes = events.t[seen].long(), events.num_nodes  # in the order of insertion
        learned = TemporalData(
            src=events.src[seen].long(), dst=events.dst[seen].long(), t=events.t[seen].long(),
            msg=torch.zeros(seen.numel(), 1),
        )  # fmt: skip
        self.loader = TemporalDataLoader(learned, batch_size=size)
        self.size, self.drawn = size, stream_runs.learning(configure("pres", data=data, preset="none"), self.views, 0)
        self.near = LastNeighborLoader(self.nodes, size=NEIGHBOURS)
        self.memory = TGNMemory(
            self.nodes, 1, WIDTH, WIDTH, message_module=IdentityMessage(1, WIDTH, WIDTH),
            aggregator_module=Latest(),
        )  # fmt: skip
        self.conv = TransformerConv(WIDTH, WIDTH // 2, heads=2, dropout=0.1, edge_dim=WIDTH + 1)
        self.src, self.dst, self.out = (torch.nn.Linear(WIDTH, n) for n in (WIDTH, WIDTH, 1))
        self.modules = (self.memory, self.conv, self.src, self.dst, self.out)
        self.optimiser = torch.optim.Adam([p for m in self.modules for p in m.parameters()], lr=lr)
        self.assoc = torch.empty(self.nodes, dtype=torch.long)
        self.stream = itertools.chain.from_iterable(
            self.batches(rng.derive(rng.SAMPLE, seed, epoch)) for epoch in itertools.count()
        )

    def batches(self, seed: int) -> Iterator[tuple[Any, Tensor]]:
        """Those of an epoch, each with a negative an event."""
        events, seen = self.views.events, self.views.numbers
        negatives = replace(self.drawn, seed=seed).draw(seen, events.src[seen], events.dst[seen])
        yield from zip(self.loader, negatives[:, 0].split(self.size), strict=True)

    def embedded(self, n_id: Tensor) -> Tensor:
        """Embeddings of nodes and of their neighbours, found through ``assoc``."""
        n_id, edge_index, e_id = self.near(n_id)
        self.assoc[n_id] = torch.arange(n_id.size(0))
        z, last = self.memory(n_id)
        elapsed = self.memory.time_enc((last[edge_index[0]] - self.t[e_id]).to(z.dtype))
        found: Tensor = self.conv(z, edge_index, torch.cat([elapsed, torch.zeros(len(e_id), 1)], dim=1))
        return found

    def logits(self, z: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Of pairs of nodes."""
        out: Tensor = self.out((self.src(z[self.assoc[src]]) + self.dst(z[self.assoc[dst]])).relu())
        return out.squeeze(-1)

    def took_place(self, src: Tensor, dst: Tensor, t: Tensor) -> None:
        """Events become messages and neighbours."""
        self.memory.update_state(src, dst, t, torch.zeros(len(src), 1))
        self.near.insert(src, dst)

    def step(self, _: int) -> None:
        """One batch of training."""
        batch, negative = next(self.stream)
        self.optimiser.zero_grad()
        z = self.embedded(torch.cat([batch.src, batch.dst, negative]).unique())
        pos, neg = self.logits(z, batch.src, batch.dst), self.logits(z, batch.src, negative)
        loss = torch.nn.functional.softplus(-pos).mean() + torch.nn.functional.softplus(neg).mean()
        self.took_place(batch.src, batch.dst, batch.t)
        loss.backward()
        self.optimiser.step()
        self.memory.detach()

    def epoch(self) -> None:
        """One pass over the training events with an empty memory at its start."""
        for module in self.modules:
            module.train()
        self.memory.reset_state()
        self.near.reset_state()
        self.t = self.views.events.t[self.views.numbers].long()
        for i in range(len(self.loader)):
            self.step(i)

    @torch.no_grad()
    def scores(self) -> dict[str, dict[str, float]]:
        """Of validation and test, by the negatives and in the batches of ``stream_scores``."""
        events, found = self.views.events, {}
        drawn = stream_runs.ranked(configure("pres", data=self.data, preset="none"), self.views)
        for module in self.modules:
            module.eval()
        self.near.reset_state()
        for start in range(0, self.views.val, 200):
            stop = min(start + 200, self.views.val)
            self.near.insert(events.src[start:stop].long(), events.dst[start:stop].long())
        self.t = events.t.long()
        for split, (first, end) in self.views.splits.items():
            means = LinkScores()
            for start in range(first, end, 200):
                numbers = torch.arange(start, min(start + 200, end))
                src, dst = events.src[numbers].long(), events.dst[numbers].long()
                others = torch.cat([dst[:, None], drawn[split].draw(numbers, src, dst)], dim=1)
                z = self.embedded(torch.cat([src, others.reshape(-1)]).unique())
                logits = self.logits(z, src[:, None].expand_as(others), others)
                new = ~(self.views.known[src] & self.views.known[dst])
                means.add(logits[:, 0], logits[:, 1:])
                means.add(logits[new, 0], logits[new, 1:], "_new")
                self.took_place(src, dst, events.t[numbers].long())
            found[split] = means.means([*LINKS, *(f"{name}_new" for name in LINKS)])
        return found


def peer(size: int) -> float:
    """Events a second of PyG's modules."""
    model = PyGTGN(size)
    for module in model.modules:
        module.train()
    first, last = _span(size)
    return size * (last - first) / seconds_of(model.step, first, last)


def sampler(events_a_batch: int) -> tuple[float, float, float]:
    """Microseconds for the 10 latest neighbours of a batch's ends and negatives, in the last tenth of the stream.

    Compiled; a loop in Python by bisection of lists; a loop as the authors of TGN and PRES have it, over numpy arrays.
    """
    from bisect import bisect_left

    import numpy as np

    from graphscale.kernels.temporal import recent

    events = pres.read(configure("pres", data="wikipedia_edges", preset="none")).events
    csr, first = events.csr, int(0.9 * events.num_events)
    batch = slice(first, first + events_a_batch)
    negatives = events.dst[torch.randperm(events.num_events, generator=torch.Generator().manual_seed(0))][batch]
    nodes = torch.cat([events.src[batch], events.dst[batch], negatives]).long()
    cuts = torch.full((nodes.numel(),), first)
    spans = list(itertools.pairwise(csr.indptr.tolist()))
    lists = [(csr.event[a:b].tolist(), csr.neighbour[a:b].tolist()) for a, b in spans]
    arrays = [(csr.event[a:b].numpy(), csr.neighbour[a:b].numpy()) for a, b in spans]

    def by_lists(_: int) -> list[list[tuple[int, int]]]:
        found = []
        for node, cut in zip(nodes.tolist(), cuts.tolist(), strict=True):
            event, neighbour = lists[node]
            end = bisect_left(event, cut)
            found.append([(event[i], neighbour[i]) for i in range(end - 1, max(-1, end - 1 - NEIGHBOURS), -1)])
        return found

    def by_arrays(_: int) -> Any:
        event, neighbour = (np.zeros((len(nodes), NEIGHBOURS), dtype=np.int64) for _ in range(2))
        for i, (node, cut) in enumerate(zip(nodes.numpy(), cuts.numpy(), strict=True)):
            own, near = arrays[node]
            end = np.searchsorted(own, cut)
            own, near = own[:end][-NEIGHBOURS:], near[:end][-NEIGHBOURS:]
            event[i, NEIGHBOURS - len(own) :], neighbour[i, NEIGHBOURS - len(near) :] = own, near
        return event, neighbour

    fast = min(seconds_of(lambda _: recent(csr, nodes, cuts, NEIGHBOURS), 100, 300) / 200 for _ in range(5))
    gc.collect()
    gc.disable()  # a loop makes tens of thousands of tuples: whoever collects them is not what is measured
    try:
        slow = [min(seconds_of(loop, 2, 5) / 3 for _ in range(5)) for loop in (by_lists, by_arrays)]
    finally:
        gc.enable()
    return 1e6 * fast, 1e6 * slow[0], 1e6 * slow[1]


def speed(work: Path) -> Table:
    """Training on wikipedia_edges: one-layer TGN, width 100, 10 neighbours; events a second, best of three."""
    lines = []
    for size in SIZES:
        best = {
            "PyG": max(peer(size) for _ in range(3)),
            "fp32": max(ours(size, bf16=False) for _ in range(3)),
            "bf16": max(ours(size, bf16=True) for _ in range(3)),
        }
        lines.append([
            str(size), *(f"{best[name]:,.0f}" for name in best), f"{best['fp32'] / best['PyG']:.2f}",
            f"{best['bf16'] / best['PyG']:.2f}",
        ])  # fmt: skip
        print(lines[-1], flush=True)
    for size in SIZES:
        fast, lists, arrays = sampler(size)
        lines.append([
            f"sampler, {size} events", f"lists {lists:,.0f} us, arrays {arrays:,.0f} us", f"{fast:,.0f} us", "",
            f"{lists / fast:.0f} and {arrays / fast:.0f}", "",
        ])  # fmt: skip
        print(lines[-1], flush=True)
    return ["batch", "PyG 2.8 modules", "ours", "ours, bfloat16", "times", "times, bfloat16"], lines


# (events, users, items): the long stream, and ones ten and a hundred times smaller.
LONG, MIDDLE, SHORT = (50_000_000, 4_200_000, 800_000), (5_000_000, 420_000, 80_000), (500_000, 42_000, 8_000)


def long(work: Path) -> Table:
    """A generated stream of 50 M events and 5 M nodes from its store, TGN with the correction, batches of 1,000.

    Of an epoch 200,000 events at its beginning and 200,000 at its end, where nodes have all their history and something
    pending; the last columns are of the end: nodes whose memory a batch needs, and time a node. Fewer nodes meet again
    sooner: a batch of the same events needs fewer. Each row is a process of its own.
    """
    lines = []
    for size, memory in ((SHORT, "ram"), (MIDDLE, "ram"), (LONG, "ram"), (LONG, "disk")):
        command = [sys.executable, __file__, "--stretch", *map(str, size), memory, "--work", str(work)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        lines.append([f"{size[0]:,}", f"{size[1] + size[2]:,}", memory, *json.loads(said)])
        print(lines[-1], flush=True)
    return ["events", "nodes", "memory", "opened, s", "first events/s", "last events/s", "peak anonymous MB",
            "nodes a batch", "us a node"], lines  # fmt: skip


def _went_by(run: Run, end: int) -> None:
    """The first events are noted, as an epoch would have left them pending; memories stay as they are."""
    table, events = run.tables[MEMORY], run.batches.sampler.events  # type: ignore[attr-defined]
    newest = torch.full((events.num_nodes,), -1)
    for start in range(0, end, 1 << 20):
        some = torch.arange(start, min(end, start + (1 << 20)))
        for side in (events.src, events.dst):
            newest.scatter_reduce_(0, side[some].long(), some, "amax")
    for nodes in (newest >= 0).nonzero()[:, 0].split(1 << 16):
        table.write(nodes, table.read(nodes), newest[nodes])


def stretch(work: Path, events: int, users: int, items: int, memory: str, threads: int) -> list[str]:
    """A row of ``long``."""
    torch.set_num_threads(threads)
    heap.keep_freed()
    store = work / f"stream-{events}"
    if not store.is_dir():
        write_stream(planted_stream(events, num_src=users, num_dst=items), store)
    rates, needed = [], 0
    with probe.PeakMemory() as peak:
        began = time.perf_counter()
        config = configure("pres", data=str(store), preset="none", batch_size=1000, gamma="0.5", memory=memory,
                           val=0.01, test=0.01)  # fmt: skip
        run = pres.build(config, pres.read(config), 0)
        opened = time.perf_counter() - began
        assert run.begins is not None
        run.begins()
        run.model.train()
        for start in (0, len(run.batches) - 230):
            _went_by(run, start * 1000)
            for step, batch in enumerate(itertools.islice(run.batches.epoch(0, start), 220)):
                if step == 20:
                    began, needed = time.perf_counter(), 0
                train_step(run, batch, step)
                needed += batch.n_id.numel()
            rates.append(200_000 / (time.perf_counter() - began))
    return [
        f"{opened:.0f}", *(f"{rate:,.0f}" for rate in rates), f"{peak.peak_mb or 0:,.0f}", f"{needed / 200:,.0f}",
        f"{2e11 / rates[-1] / needed:.1f}",
    ]  # fmt: skip


PRES = {"gamma": "learn", "beta": 0.1}


def epochs(work: Path) -> Table:
    """Seconds of an epoch of training, b = 200 and 4 b, with and without PRES: the best of four, taken in turns."""
    lines = []
    for data, model in itertools.product(STREAMS, ("tgn", "jodie", "apan")):
        cases = [
            _epochs({"data": data, "preset": "none", "new": 0.1, "batch_size": size, "model": model, **special})
            for size, special in ((200, {}), (200, PRES), (800, {}), (800, PRES))
        ]
        rounds = [[next(case) for case in cases] for _ in range(5)]  # the machine's own speed changes within minutes
        plain, small, large, ours = (min(took) for took in zip(*rounds[1:], strict=True))
        lines.append([
            data, model, *(f"{t:.2f}" for t in (plain, small, large, ours)), f"{plain / ours:.2f}",
            f"{100 * (small / plain - 1):+.0f} %", f"{100 * (ours / large - 1):+.0f} %",
        ])  # fmt: skip
        print(lines[-1], flush=True)
    return ["stream", "model", "b", "PRES, b", "4 b", "PRES, 4 b", "times faster: PRES at 4 b to plain at b",
            "cost of PRES at b", "at 4 b"], lines  # fmt: skip


def _epochs(settings: dict[str, Any]) -> Iterator[float]:
    """Seconds of one epoch after the other."""
    config = configure("pres", **settings, device=DEVICE)
    run = pres.build(config, pres.read(config), 0)
    assert run.begins is not None
    run.model.train()
    for epoch in itertools.count():
        run.begins()
        began = time.perf_counter()
        for step, batch in enumerate(aboard(run.batches.epoch(epoch), run.device, run.prefetch)):
            train_step(run, batch.to(run.device), step)
        yield time.perf_counter() - began


TABLES: dict[str, Callable[[Path], Table]] = {"speed": speed, "epochs": epochs, "long": long}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/pres"))
    parser.add_argument("--only", nargs="*", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the table epochs")
    parser.add_argument("--stretch", nargs=4, help=argparse.SUPPRESS)  # a row of ``long``, in a process of its own
    asked = parser.parse_args()
    global DEVICE
    DEVICE = asked.device
    if asked.stretch:
        *size, memory = asked.stretch
        print(json.dumps(stretch(asked.work, *map(int, size), memory, asked.threads)))
        return
    torch.set_num_threads(asked.threads)
    heap.keep_freed()
    asked.work.mkdir(parents=True, exist_ok=True)
    command = f"python benchmarks/pres.py --only {' '.join(asked.only)} --threads {asked.threads} --device {DEVICE}"
    made = {name: wraps(TABLES[name])(partial(TABLES[name], asked.work)) for name in asked.only}
    report("pres", "Networks over streams: speed", command, made)


if __name__ == "__main__":
    main()
