"""What the ranks of tests run: importable by name, as spawned processes need it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import torch
import torch.distributed as dist
from graphs import random_graph

from graphscale.batches.cluster import ClusterBatches
from graphscale.loop import train_step
from graphscale.nn.plain import plain
from graphscale.nn.static import ClusterGCN
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


def ranks(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    run = build(World.current())
    for index in range(3):
        for step, batch in enumerate(run.batches.epoch(index)):
            train_step(run, batch, step)
    state = {"table": run.tables["h"].read(torch.arange(60)), **run.model.state_dict()}
    torch.save(state, f"{folder}/{rank}.pt")
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


def accumulated(size=2):
    """The same global order in one process: gradients of ``size`` batches add up before each step."""
    run = build(World())
    slot, table = run.sync.slots()[0], run.tables["h"]
    for index in range(3):
        batches = list(run.batches.epoch(index))
        for first in range(0, len(batches), size):
            slot.optimiser.zero_grad()
            outcomes = [slot.objective(slot.params(), batch) for batch in batches[first : first + size]]
            (sum(o.loss_sum for o in outcomes) / sum(o.count for o in outcomes)).backward()
            slot.optimiser.step()
            for outcome in outcomes:
                table.write(*outcome.writes["h"])
    return {"table": table.rows, **run.model.state_dict()}
