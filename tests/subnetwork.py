"""What the ranks of tests of sub-networks run: importable by name, as spawned processes need it."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from graphs import random_graph

from graphscale.batches.cluster import ClusterBatches
from graphscale.loop import train_step
from graphscale.nn import wide
from graphscale.nn.plain import plain
from graphscale.nn.stock import Feed
from graphscale.objectives.node import node_loss
from graphscale.partitioning import partition
from graphscale.run import Run
from graphscale.step import Slot
from graphscale.sync.subnets import Subnets
from graphscale.width import store
from graphscale.width.columns import Columns
from graphscale.width.inference import infer
from graphscale.width.plan import deal
from graphscale.width.spec import on_meta
from graphscale.world import World

GRAPH = partition(random_graph(120, density=0.05), 6, method="random").apply(random_graph(120, density=0.05))
DIMS = {"h1": 9, "h2": 7}
LR = 0.02


def build(dims, norm="layer", kind="sage"):
    model = wide.stack(
        kind, dims, 5, 3, hidden=8, heads=2, dropout=0.3, layer_norm=norm == "layer", batch_norm=norm == "batch"
    )
    return model.double()


def initial(norm="layer", kind="sage"):
    torch.manual_seed(0)
    return build(DIMS, norm, kind)


def fed(module):
    feed, _ = Feed.of(module, GRAPH)
    return Slot(module, torch.optim.Adam(module.parameters(), lr=LR), node_loss(plain(module, feed)))


def batches(world):
    return ClusterBatches(GRAPH, 2, world=world)


def composed(world, *, m=4, every=2, replicas=1, norm="layer", kind="sage", **settings):
    """A run of sub-networks on this world."""
    column, row = world.mesh(replicas)

    def make(dims):
        return build(dims, norm, kind)

    spec = infer(make, DIMS, call=lambda model: Feed("edge_index", False, False)(model, GRAPH.x, GRAPH.adj, None))
    if settings.get("carry"):
        spec = store.with_moments(spec, on_meta(make, DIMS))
    shards = store.cut(spec, column, initial(norm, kind).state_dict())
    sync = Subnets(
        make, shards, num_subnets=m, every=every, slot_of=fed, seed=3, everybody=world, replicas=row, **settings
    )
    dealt = world if settings.get("identity") else row
    return Run(model=make(DIMS), batches=batches(dealt), sync=sync, evaluate=dict, metrics=(), monitor="", world=world)


def trained(run, steps, start=0):
    """The full-width state after the steps from ``start`` to ``steps``, on the first rank."""
    stream = (batch for index in range(100) for batch in run.batches.epoch(index))
    for step, batch in zip(range(steps), stream, strict=False):
        if step >= start:
            train_step(run, batch, step)
    run.sync.merge()
    state = run.model.state_dict()
    run.sync.whole(state)
    return state


def by_columns(run):
    """Logits of the full width, no rank holding it; on all ranks."""
    run.sync.merge()
    return Columns(lambda dims: build(dims, "batch", "sage"), run.sync.shards, GRAPH).logits()


def ranks(rank, size, folder, tasks):
    """Several trainings, each in all ranks: ``tasks`` are (file, steps, start, load, save, settings)."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{size}", rank=rank, world_size=size)
    for name, steps, start, load, save, settings in tasks:
        run = composed(World.current(), **settings)
        if load:
            run.sync.load(Path(folder) / load)
        state = trained(run, steps, start)
        logits = by_columns(run) if settings.get("norm") == "batch" and settings.get("kind", "sage") == "sage" else 0
        if save:
            run.sync.save(Path(folder) / save)
        sent = World.current().totals(run.sync.sent(), run.sync.shards.packed)
        if rank == 0:
            torch.save({"state": state, "sent": sent, "logits": logits}, f"{folder}/{name}.pt")
    dist.destroy_process_group()


class Mixed(torch.nn.Module):
    """Units with tensors of several types."""

    def __init__(self, dims):
        super().__init__()
        width = dims["h"]
        self.register_buffer("first", torch.arange(width, dtype=torch.float64))
        self.weight = torch.nn.Parameter(torch.arange(width * 3.0).view(width, 3))
        self.register_buffer("on", torch.arange(width) % 2 == 0)
        self.register_buffer("seen", torch.arange(width) + 2**40)
        self.register_buffer("brief", torch.arange(width).to(torch.bfloat16))

    def forward(self, x):
        scale = self.first + self.seen.double() / 2**40 + self.on + self.brief.double()
        return ((x @ self.weight.t().to(x.dtype)) * scale.to(x.dtype)).sum(1, keepdim=True)


def mixed_ranks(rank, folder):
    """Cut, deal out and put back tensors of several types on two ranks; what comes back is what went."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    dims, x = {"h": 10}, torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    spec = infer(Mixed, dims, call=lambda model: model(x.to(next(model.parameters()).dtype)))
    state = {name: tensor.clone() for name, tensor in Mixed(dims).state_dict().items()}
    for identity in (False, True):
        shards = store.cut(spec, World.current(), state)
        before = {name: rows.clone() for name, rows in shards.own.items()}
        plan = deal(spec.dims, 4, seed=0, number=0, identity=identity)
        parts = shards.dispatch(plan, 4)
        for part in parts.values():
            assert all(tensor.dtype == state[name].dtype for name, tensor in part.items())
        shards.aggregate(plan, 4, {i: {n: t.clone() for n, t in part.items()} for i, part in parts.items()})
        assert all(torch.equal(shards.own[name], rows) for name, rows in before.items())
    dist.destroy_process_group()
