"""What the ranks of tests run: importable by name, as spawned processes need it."""

from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch_geometric.nn as pyg
from graphs import random_graph

from graphscale.batches.cluster import ClusterBatches
from graphscale.loop import fetch, train_step
from graphscale.nn.compensation import GRADIENTS, Mix, with_compensation
from graphscale.nn.history import TABLE, attach, with_history
from graphscale.nn.plain import plain
from graphscale.nn.static import ClusterGCN
from graphscale.nn.stock import Feed
from graphscale.objectives.node import node_loss
from graphscale.partitioning import partition
from graphscale.run import Run
from graphscale.step import Forward, Write
from graphscale.sync.replicas import Replicas
from graphscale.tables.history import History
from graphscale.world import World


def build(world):
    graph = random_graph()
    clusters = partition(graph, 5).apply(graph)  # an odd number: the second rank ends on padding
    torch.manual_seed(0)
    model = ClusterGCN(5, 8, 3, 2, dropout=0.3).double()
    inner = plain(model)
    table = History(graph.num_nodes, 3, dtype=torch.float64, world=world)

    def apply(params, batch):
        out = inner(params, batch)
        return Forward(out.logits, {"h": Write(batch.n_id, out.logits.detach())}, out.buffers)

    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    return Run(
        model=model,
        batches=ClusterBatches(clusters, 1, world=world),
        sync=Replicas(model, optimiser, node_loss(apply), world=world, bucket=256),
        evaluate=dict,
        metrics=(),
        monitor="",
        prefetch=1,
        tables={"h": table},
        world=world,
    )


def build_gas(world, *, lmc):
    graph = random_graph(120, density=0.02)
    graph = partition(graph, 5, method="random").apply(graph)
    torch.manual_seed(0)
    model = pyg.GCN(5, 8, 3, 3, dropout=0.3).double()
    feed, _ = Feed.of(model, graph)
    widths, filled = attach(model, feed, graph)
    kept = {TABLE: widths, GRADIENTS: widths[:-1]} if lmc else {TABLE: widths[:-1]}
    apply = with_compensation(model, feed, widths, Mix(0.4, "linear")) if lmc else with_history(model, feed, widths)
    return Run(
        model=model,
        batches=ClusterBatches(graph, 1, world=world, halo=list(kept), filled=filled, inner=lmc),
        sync=Replicas(
            model, torch.optim.Adam(model.parameters(), lr=0.05), node_loss(apply), world=world, per_step=8.0
        ),
        evaluate=dict,
        metrics=(),
        monitor="",
        prefetch=1,
        tables={
            name: History(graph.num_nodes, sum(some), dtype=torch.float64, world=world) for name, some in kept.items()
        },
        world=world,
    )


BUILD = {
    "cluster_gcn": build,
    "gas": functools.partial(build_gas, lmc=False),
    "lmc": functools.partial(build_gas, lmc=True),
}


def ranks(rank, folder, kind):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    run = BUILD[kind](World.current())
    for index in range(3):
        for step, batch in enumerate(run.batches.epoch(index)):
            train_step(run, batch, step)
    everyone = torch.arange(next(iter(run.tables.values())).num_rows)
    state = {f"table.{name}": table.read(everyone) for name, table in run.tables.items()} | run.model.state_dict()
    torch.save(state, f"{folder}/{rank}.pt")
    if kind != "cluster_gcn":  # rows of all ranks reach a checkpoint, and come back to any
        kept = {name: table.state_dict() for name, table in run.tables.items()}
        if rank == 0:
            torch.save(kept, f"{folder}/tables.pt")
        dist.barrier()
        fresh = BUILD[kind](World.current())
        for name, rows in torch.load(f"{folder}/tables.pt", weights_only=True).items():
            fresh.tables[name].load_state_dict(rows)
            assert torch.equal(fresh.tables[name].read(everyone), state[f"table.{name}"])
            assert fresh.tables[name].rows.shape[0] == 60, "each rank holds half of the rows"
            assert fresh.tables[name].writes == run.tables[name].writes == 9
        assert run.tables["history"].taken_ages()[1] > 0
    assert World.current().total(rank + 1) == 3
    dist.destroy_process_group()
    deadline = time.monotonic() + 10  # a thread that was joined is listed for a moment more
    while any("gloo" in name for name in threads()):
        assert time.monotonic() < deadline, "the group outlives its end: SIGABRT at exit"


def threads():
    """Names of this process's threads."""
    tasks = Path("/proc/self/task")
    found = []
    for task in tasks.iterdir() if tasks.is_dir() else ():
        with contextlib.suppress(OSError):  # it may end while it is looked at
            found.append((task / "comm").read_text().strip())
    return found


def accumulated(kind, size=2):
    """The same global order in one process: gradients of ``size`` batches add up before each step."""
    run = BUILD[kind](World())
    slot = run.sync.slots()[0]
    for index in range(3):
        batches = list(run.batches.epoch(index))
        for first in range(0, len(batches), size):
            slot.optimiser.zero_grad()
            some = batches[first : first + size]
            outcomes = [slot.objective({**slot.params(), **fetch(run.tables, b.needs)}, b) for b in some]
            (sum(o.loss_sum for o in outcomes)).backward()
            per_step = run.sync.per_step or sum(o.count for o in outcomes)
            for p in slot.params().values():
                p.grad.div_(per_step)
            slot.optimiser.step()
            for outcome in outcomes:
                for name, write in outcome.writes.items():
                    run.tables[name].write(*write)
                for name, taps in outcome.taps.items():
                    run.tables[name].write(*taps.gradients())
    return {f"table.{name}": table.rows for name, table in run.tables.items()} | run.model.state_dict()
