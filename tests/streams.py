"""Small streams and their networks, for tests."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from graphscale.batches.negatives import Negatives
from graphscale.batches.schedule import by_count
from graphscale.batches.stream import MEMORY, Sampler, StreamBatches
from graphscale.events import stream
from graphscale.loop import train_step
from graphscale.nn.memories import Correction
from graphscale.nn.temporal import TemporalNet
from graphscale.objectives.link import stream_loss
from graphscale.run import Run
from graphscale.sync.replicas import Replicas
from graphscale.tables.mailbox import PredictiveMailbox
from graphscale.tables.predictive import Prediction, Predictive
from graphscale.world import World

NODES, EVENTS, DIM = 9, 30, 8


def small(*, num_events=EVENTS, nodes=NODES, features=0, ties=True, seed=0):
    """Events among a few nodes: a hub, events with itself, events of one moment."""
    draw = torch.Generator().manual_seed(seed)
    src, dst = (torch.randint(nodes, (num_events,), generator=draw) for _ in range(2))
    src[torch.rand(num_events, generator=draw) < 0.3] = 1
    t = torch.randint(0, 40 if ties else 10**6, (num_events,), generator=draw).sort().values
    feat = torch.randn(num_events, features, generator=draw) if features else None
    return stream(src, dst, t, num_nodes=nodes, feat=feat)


class Made(TorchDispatchMode):
    """Counts the numbers that operations give."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        fresh = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        if not func.is_view and not func._schema.name.endswith("_"):
            self.numbers += sum(t.numel() for t in fresh)
        return out


def paged(column, name):
    """The column, of one value, in memory of which nothing is mapped: ``resident`` tells what is read or written."""
    size = column.numel() * column.element_size()
    with os.fdopen(os.memfd_create(name), "r+b") as file:
        if column.view(-1)[0]:
            file.write(column.numpy().tobytes())
        file.truncate(size)
        file.flush()
        pages = np.frombuffer(mmap.mmap(file.fileno(), size), dtype=np.uint8)
    return torch.from_numpy(pages).view(column.dtype).view(column.shape)


def resident(name):
    """Kilobytes of ``paged`` memory that were touched, by whatever means."""
    lines, kb = iter(Path("/proc/self/smaps").read_text().splitlines()), 0
    for line in lines:
        if f"memfd:{name} " in line:
            kb += next(int(field.split()[1]) for field in lines if field.startswith("Rss:"))
    return kb


def network(events, **kind):
    torch.manual_seed(1)
    settings = {"update": "gru", "embed": "attention", "layers": 1, "learned_times": True, **kind}
    return TemporalNet(DIM, events.num_features, time_dim=6, dropout=0.0, gaps=(3.0, 5.0), **settings)


def negatives(size, count=2, seed=0, nodes=NODES):
    return torch.randint(nodes, (size, count), generator=torch.Generator().manual_seed(seed))


# Name -> (kind of network, its hops, kind of memory, its settings).
KINDS = {
    "tgn": ({}, (5,), Predictive, {}),
    "tgn, mean": ({}, (5,), Predictive, {"of": "mean"}),
    "jodie, snapshot": ({"update": "rnn", "embed": "time", "layers": 0}, (), Predictive, {"when": "snapshot"}),
    "apan": ({"update": "mail", "embed": "identity", "layers": 0}, (), PredictiveMailbox, {}),
}


def composed(events, world, kind="tgn"):
    torch.manual_seed(0)
    of_net, hops, of_memory, settings = KINDS[kind]
    net = network(events, correction=Correction(), **of_net).double()
    table = of_memory(
        events, events.csr, DIM, prediction=Prediction(spread=True), dtype=torch.float64, world=world, **settings
    )
    drawn = Negatives.of(events, "random", 2, seed=0, train_end=events.num_events)
    batches = StreamBatches(
        Sampler(events, events.csr, hops), torch.arange(events.num_events), by_count(events.num_events, 7), drawn,
        world=world,
    )  # fmt: skip
    sync = Replicas(net, torch.optim.Adam(net.parameters(), lr=0.01), stream_loss(net, beta=0.1), world=world)
    return Run(net, batches, sync, dict, (), "", tables={MEMORY: table}, world=world, begins=table.reset)


def rank_of_two(rank, folder, kind):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    run = composed(small(num_events=50), World.current(), kind)
    for index in range(2):
        run.begins()
        for step, batch in enumerate(run.batches.epoch(index)):
            train_step(run, batch, step)
    torch.save([run.model.state_dict(), run.tables[MEMORY].state_dict()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def dealt_to(batches, rank):
    """The batches of one of two ranks, in one process."""
    world = World()
    object.__setattr__(world, "rank", rank)
    object.__setattr__(world, "size", 2)
    return StreamBatches(batches.sampler, batches.numbers, batches.starts, batches.negatives, world=world)
