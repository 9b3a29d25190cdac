"""Small tasks and runs over them, for tests: importable by name, as spawned processes need it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist

from graphscale import folder
from graphscale.batches.task_decoder import EMBEDDING, Decoder
from graphscale.batches.task_reader import TaskReader
from graphscale.data.planted_tasks import planted_tasks
from graphscale.loop import Log, train_step
from graphscale.nn.dlrm import RatingNet, Shape
from graphscale.objectives.rating import Meta, MetaRating
from graphscale.run import Run
from graphscale.sync.sharded import ShardedReplicas
from graphscale.tables.embedding import Descent, Embedding
from graphscale.world import World

# (network, what adapts, order, optimiser of rows)
WAYS = {
    "first": ("dlrm", "dense", "first", "adagrad"),
    "second": ("dlrm", "dense", "second", "sgd"),
    "rows-first": ("wide_deep", "all", "first", "adam"),
    "rows-second": ("melu", "all", "second", "adagrad"),
    "decision": ("melu", "decision", "second", "adam"),
    "joint": ("wide_deep", "none", "first", "adagrad"),
}
EPOCHS, STOP = 2, 5  # a run is stopped after so many steps, in its second epoch


def small(tasks=30, **kind):
    return planted_tasks(tasks, items=23, least=4, most=9, query=2, **kind)


def objective_of(tasks, way, *, learned="tensor", steps=2, top=(8, 5)):
    kind, adapt, order, _ = WAYS[way]
    torch.manual_seed(0)
    net = RatingNet(Shape(kind, 4, (6,), top), tasks.layout, offset=3.0)
    model = Meta(net, adapt, lr=0.05, learned="no" if adapt == "none" else learned).double()
    return MetaRating(model, tasks.layout, "mse", steps, order, 1.0, joint=adapt == "none")


def composed(way, world, *, tasks=None, size=7):
    tasks = tasks or small()
    objective = objective_of(tasks, way)
    table = Embedding(
        tasks.layout.num_rows, objective.model.net.row_dim, descent=Descent(WAYS[way][3], 0.05, 0.01), scale=0.3,
        dtype=torch.float64, world=world,
    )  # fmt: skip
    reader = TaskReader(Decoder(tasks, private=WAYS[way][1] in ("all", "rows"), spare=9), size, world=world)
    optimiser = torch.optim.Adam(objective.model.parameters(), lr=0.01)
    sync = ShardedReplicas(objective.model, optimiser, objective, world=world, tables={EMBEDDING: table})
    return Run(
        objective.model, reader, sync, dict, (), "", tables={EMBEDDING: table}, world=world, keeps={"graph": "small"},
        in_shards=True,
    )  # fmt: skip


def stepped(run, log, *, until=None):
    """Train to the end of the last epoch, or until so many steps are done in all."""
    while log.epochs < EPOCHS:
        for batch in run.batches.epoch(log.epochs, log.batches):
            train_step(run, batch, log.steps)
            log.steps, log.batches = log.steps + 1, log.batches + 1
            if log.steps == until:
                return log
        log.epochs, log.batches = log.epochs + 1, 0
    return log


def saved(run, log, place):
    """A checkpoint as a session writes it; collective."""
    if run.world.leads:
        (place / "checkpoints").mkdir(parents=True)
    run.world.share(0)
    shards = folder.save_shards(place, log, run)
    state = {**folder.gathered(log, run), "shards": shards}
    if run.world.leads:
        store = folder.RunFolder(place, keep=1)
        store.save(log, run, state)
        store.close()


def state_of(run):
    """Dense weights and all rows; collective."""
    table = run.tables[EMBEDDING]
    return {**run.model.state_dict(), "rows": table.read(torch.arange(table.num_rows))}


class Wire:
    """Counts what all_to_all_single is given for other ranks."""

    def __init__(self, rank):
        self.rank, self.bytes, self.calls, self._send = rank, 0, 0, dist.all_to_all_single

    def __call__(self, out, rows, out_splits=None, in_splits=None, **kwargs):
        widths = in_splits or [1] * dist.get_world_size()
        self.bytes += (sum(widths) - widths[self.rank]) * rows.element_size()
        self.calls += 1
        return self._send(out, rows, out_splits, in_splits, **kwargs)


def ranks(rank, place, size, ways):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet-{size}", rank=rank, world_size=size)
    place = Path(place)
    for way in ways:
        run = composed(way, World.current())
        wire = dist.all_to_all_single = Wire(rank)
        stepped(run, Log())
        dist.all_to_all_single = wire._send
        traffic, lookups = vars(run.tables[EMBEDDING].traffic).copy(), run.tables[EMBEDDING].traffic.lookups
        (place / f"{way}-{size}-{rank}.json").write_text(
            json.dumps({**traffic, "wire": wire.bytes, "calls": wire.calls, "lookups": lookups, "dense": run.sync.sent})
        )
        torch.save(state_of(run), place / f"{way}-{size}-{rank}.pt")
        if (place / f"{way}-from-1").is_dir():  # one process's checkpoint goes on here, and ours goes on there
            run = composed(way, World.current())
            stepped(run, folder.restore(place / f"{way}-from-1", run))
            torch.save(state_of(run), place / f"{way}-went-on-{size}-{rank}.pt")
            run = composed(way, World.current())
            saved(run, stepped(run, Log(), until=STOP), place / f"{way}-from-{size}")
    dist.destroy_process_group()
