"""Works that benchmarks/gmeta_dlrm.py times: steps of ranks and ablations, readers of the same records, exchanges.

Ranks are processes of one thread, spawned here; what they find is a JSON file a rank.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from graphscale import configure, rating_runs
from graphscale.batches.ahead import ahead
from graphscale.batches.task_decoder import EMBEDDING, Decoder, TaskBatch
from graphscale.batches.task_reader import TaskReader
from graphscale.data.planted_tasks import log_blocks
from graphscale.loop import train_step
from graphscale.objectives.rating import TABLE
from graphscale.run import Run
from graphscale.store.tasks import read_tasks, write_tasks
from graphscale.sync.sharded import ShardedReplicas
from graphscale.tables.embedding import Descent, Embedding
from graphscale.tasks import Field, Layout, Tasks
from graphscale.world import World

FIELDS, DENSE = 26, 13


def stored(work: Path, samples: int, tasks: int, rows: int) -> Path:
    """A log of clicks: ``tasks`` of about ``samples / tasks`` records, a fifth of them queries; made once."""
    place = work / f"log-{samples}-{tasks}-{rows}"
    if not place.is_dir():
        each = max(2, rows // FIELDS)
        layout = Layout(
            tuple(f"d{i}" for i in range(DENSE)), tuple(Field(f"f{i}", f"f{i}") for i in range(FIELDS)),
            {f"f{i}": each for i in range(FIELDS)},
        )  # fmt: skip
        draw = np.random.default_rng(0)
        cuts = np.sort(draw.choice(np.arange(1, samples // 5), tasks - 1, replace=False)) * 5
        offset = np.r_[0, cuts, samples]
        held = max(1, tasks // 100)
        parts = {"train": (0, tasks - 2 * held), "val": (tasks - 2 * held, tasks - held), "test": (tasks - held, tasks)}
        blocks = log_blocks(tasks, samples, fields=FIELDS, rows=each, dense=DENSE)
        sizes = np.diff(offset)
        write_tasks(place, layout, blocks, offset, sizes - np.maximum(1, sizes // 5), parts)
    return place


def config_of(store: Path, size: int, tasks: int, **changes: Any) -> Any:
    """DLRM 512-256-1, rows of 16, first order, one inner step."""
    usual: dict[str, Any] = {
        "data": str(store), "loss": "bce", "model": "dlrm", "dim": 16, "bottom": "64", "top": "512,256",
        "order": "first", "inner_steps": 1, "tasks_per_step": tasks * size, "threads": 1, "device": "cpu",
        "preset": "none", "prefetch": 2,
    }  # fmt: skip
    return configure("gmeta_dlrm", **{**usual, **changes})


class Gathering(ShardedReplicas):
    """The order of the textbook: the first rank receives all gradients, descends, and sends the weights out."""

    def __init__(self, *args: Any, world: World, **kwargs: Any) -> None:
        super().__init__(*args, world=World(), **kwargs)
        self.world = world

    def reduce(self, slot: Any, count: int) -> int:
        """Gradients to the first rank; its optimiser steps alone."""
        total, parameters = self.world.total(count), list(slot.params().values())
        flat = torch.cat([p.grad.reshape(-1) for p in parameters])[None]
        everyone = flat.new_empty(self.world.size, flat.shape[1])
        summed = self.world.at_first(flat, everyone, [1] * self.world.size).sum(0) / total
        for p, g in zip(parameters, summed.split([p.numel() for p in parameters]), strict=True):
            p.grad = g.view_as(p) if self.world.leads else None
        return total

    def finish(self, step: int) -> None:
        """The first rank's weights to all."""
        parameters = list(self.slot.params().values())
        with torch.no_grad():
            flat = self.world.first(torch.cat([p.reshape(-1) for p in parameters]))
            for p, value in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                p.copy_(value.view_as(p))


def two_exchanges(run: Run, batch: TaskBatch, step: int) -> None:
    """A step that fetches for the support, then for the queries, and sends gradients back likewise."""
    slot, table = run.sync.slots()[0], run.tables[EMBEDDING]
    slot.optimiser.zero_grad(set_to_none=True)
    sides = [[b.ids[:, : b.width] for b in batch.blocks], [b.ids[:, b.width :] for b in batch.blocks]]
    wanted = [torch.cat([ids[ids >= 0] for ids in side]).unique().long() for side in sides]
    rows = torch.zeros(batch.rows.numel(), table.dim)
    for want in wanted:
        rows[want] = table.read(batch.rows[want])
    leaf = rows.requires_grad_()
    outcome = slot.objective({**slot.params(), TABLE: leaf}, batch)  # type: ignore[arg-type]
    outcome.loss_sum.backward()
    total = run.sync.reduce(slot, outcome.count)
    slot.optimiser.step()
    assert leaf.grad is not None
    met = torch.zeros(len(rows), dtype=torch.bool)
    for want in wanted:  # a row of both is sent twice: once with its gradient, once with zeros
        table.write(batch.rows[want], torch.where(met[want, None], 0, leaf.grad[want] / total))
        met[want] = True


def one_by_one(batch: TaskBatch) -> Iterator[TaskBatch]:
    """The tasks of a batch as batches of their own, without padding."""
    for block in batch.blocks:
        for t in range(block.size):
            one = slice(t, t + 1)
            shown, asked = int(block.shown[t]), int(block.asked[t])
            place = torch.cat([torch.arange(shown), block.width + torch.arange(asked)])
            alone = replace(
                block, tasks=block.tasks[one], shown=block.shown[one], asked=block.asked[one], width=shown,
                y=block.y[one, place], dense=block.dense[one, place], ids=block.ids[one, place],
            )  # fmt: skip
            yield replace(batch, blocks=(alone,), count=1)


def looped(run: Run, batch: TaskBatch, step: int) -> None:
    """A step whose tasks adapt one after the other."""
    slot, table = run.sync.slots()[0], run.tables[EMBEDDING]
    slot.optimiser.zero_grad(set_to_none=True)
    rows = table.read(batch.rows).requires_grad_()
    params = {**slot.params(), TABLE: rows}
    for task in one_by_one(batch):
        slot.objective(params, task).loss_sum.backward()  # type: ignore[arg-type]
    total = run.sync.reduce(slot, batch.count)
    slot.optimiser.step()
    assert rows.grad is not None
    table.write(batch.rows, rows.grad / total)


def usual(run: Run, batch: TaskBatch, step: int) -> None:
    """A step as the loop makes it."""
    train_step(run, batch, step)  # type: ignore[arg-type]


WAYS: dict[str, tuple[Callable[[Run, TaskBatch, int], None], type[ShardedReplicas]]] = {
    "as it is": (usual, ShardedReplicas),
    "two exchanges": (two_exchanges, ShardedReplicas),
    "gather": (usual, Gathering),
}


def timed(run: Run, step: Callable[[Run, TaskBatch, int], None], steps: int, first: int = 0) -> dict[str, float]:
    """Seconds of some steps after two, reading among them, and records that this rank saw."""
    run.model.train()
    records, began, number = 0, 0.0, 0
    for number, batch in enumerate(ahead(run.batches.epoch(first), run.prefetch)):  # type: ignore[arg-type]
        if number == 2:
            records, began = 0, time.perf_counter()
        step(run, batch, number)  # type: ignore[arg-type]
        records += batch.records  # type: ignore[attr-defined]
        if number == steps + 1:
            break
    return {"seconds": time.perf_counter() - began, "records": float(records), "steps": float(number - 1)}


def _step_rank(rank: int, size: int, place: str, store: str, tasks: int, steps: int, rounds: int) -> None:
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{place}/meet-{size}", rank=rank, world_size=size)
    config = config_of(Path(store), size, tasks)
    views = rating_runs.read(config)
    found: dict[str, list[dict[str, float]]] = {}
    for name, (step, sync) in WAYS.items():
        if size == 1 and name != "as it is":
            continue
        found[name] = []
        rating_runs.ShardedReplicas = sync  # type: ignore[misc]
        run = rating_runs.build(config, views, 0)
        for index in range(rounds):
            found[name].append(timed(run, step, steps, index))
    (Path(place) / f"{size}-{rank}.json").write_text(json.dumps(found))
    if size > 1:
        dist.destroy_process_group()


def steps_of(place: Path, store: Path, size: int, tasks: int, steps: int, rounds: int) -> dict[str, float]:
    """Records a second of all ranks together, by way: the best round, whose slowest rank counts."""
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob(f"*{size}*"):
        old.unlink()
    mp.spawn(_step_rank, (size, str(place), str(store), tasks, steps, rounds), nprocs=size)
    found = [json.loads((place / f"{size}-{rank}.json").read_text()) for rank in range(size)]
    return {
        name: max(
            sum(f[name][i]["records"] for f in found) / max(f[name][i]["seconds"] for f in found) for i in range(rounds)
        )
        for name in found[0]
    }


# name -> (step, whether wide layers descend as factors)
INNER: dict[str, tuple[Callable[[Run, TaskBatch, int], None], bool]] = {
    "at once, factors": (usual, True), "at once, stacked": (usual, False),
    "one by one, factors": (looped, True), "one by one, own weights": (looped, False),
}  # fmt: skip


def inner_loops(store: Path, tasks: int, steps: int) -> dict[str, float]:
    """Seconds a step of all tasks at once and one by one, in turn, on one thread; and the floor of its products.

    The floor is the products with weights that no way can do without, forward and to inputs for the support, to weights
    too for queries, at the rate of one such product.
    """
    torch.set_num_threads(1)
    config = config_of(store, 1, tasks)
    run = rating_runs.build(config, rating_runs.read(config), 0)
    objective: Any = run.sync.slots()[0].objective
    seconds: dict[str, list[float]] = {name: [] for name in INNER}
    floors, rate = [], _product_rate()
    weights = sum(p.numel() for p in run.model.parameters() if p.dim() == 2)
    for number, batch in enumerate(run.batches.epoch(0)):
        for name, (step, factors) in INNER.items():
            object.__setattr__(objective, "factors", factors)
            began = time.perf_counter()
            step(run, batch, number)  # type: ignore[arg-type]
            seconds[name].append(time.perf_counter() - began)
        shown, asked = (sum(int(getattr(b, side).sum()) for b in batch.blocks) for side in ("shown", "asked"))  # type: ignore[attr-defined]
        floors.append(weights * (4 * shown + 6 * asked) / rate)
        if number == steps:
            break
    return {
        **{name: float(np.median(values[1:])) for name, values in seconds.items()},
        "floor": float(np.median(floors)),
    }


def _product_rate() -> float:
    """Operations a second of a product of the widest layer's shape."""
    x, w = torch.randn(2500, 367), torch.randn(512, 367)
    took = []
    for _ in range(10):
        began = time.perf_counter()
        torch.nn.functional.linear(x, w)
        took.append(time.perf_counter() - began)
    return 2 * 2500 * 367 * 512 / min(took)


# Readers: records a second of the same records in the same batches, nothing trained.


def meta_io(tasks: Tasks, size: int, limit: int) -> tuple[int, float]:
    """(Records, seconds) of the house's reader."""
    return _drained(TaskReader(Decoder(tasks), size).epoch(0), limit)


def _drained(batches: Iterator[TaskBatch], limit: int) -> tuple[int, float]:
    records, began = 0, time.perf_counter()
    for batch in batches:
        records += batch.records
        if records >= limit:
            break
    return records, time.perf_counter() - began


def as_parquet(tasks: Tasks, size: int, place: Path) -> Path:
    """The training records as Parquet, a row group a batch of tasks; made once."""
    if not place.is_file():
        layout, offset = tasks.layout, tasks.offset
        names = ["label", *layout.dense, *(field.name for field in layout.fields)]
        kinds = [pa.float32()] * (1 + len(layout.dense)) + [pa.int32()] * layout.slots
        first, end = tasks.parts["train"]
        with pa_parquet.ParquetWriter(
            place.with_suffix(".part"), pa.schema(list(zip(names, kinds, strict=True)))
        ) as out:
            for a in range(first, end, size):
                words = tasks.records[int(offset[a]) : int(offset[min(a + size, end)])].numpy()
                columns = [np.ascontiguousarray(words[:, k]) for k in range(words.shape[1])]
                arrays = [
                    c.view(np.float32) if pa.types.is_floating(k) else c for c, k in zip(columns, kinds, strict=True)
                ]
                out.write_table(
                    pa.table(dict(zip(names, arrays, strict=True)), schema=out.schema), row_group_size=len(words)
                )
        place.with_suffix(".part").rename(place)
    return place


def parquet(tasks: Tasks, size: int, limit: int, place: Path) -> tuple[int, float]:
    """(Records, seconds) of row groups in a shuffled order, made words and decoded as the house does."""
    decoder, offset, support = Decoder(tasks), tasks.offset.numpy(), tasks.support.numpy()
    first, end = tasks.parts["train"]

    def batches() -> Iterator[TaskBatch]:
        with pa_parquet.ParquetFile(place, memory_map=True) as file:
            for group in torch.randperm(file.num_row_groups, generator=torch.Generator().manual_seed(0)).tolist():
                table = file.read_row_group(group, use_threads=False)
                words = np.empty((table.num_rows, table.num_columns), dtype=np.int32)
                for k, column in enumerate(table.columns):
                    words[:, k] = column.to_numpy().view(np.int32)
                a = first + group * size
                b = min(a + size, end)
                sizes = np.diff(offset[a : b + 1])
                yield decoder.decoded(
                    words, offset[a:b] - offset[a], support[a:b], sizes - support[a:b], torch.arange(a, b)
                )

    return _drained(batches(), limit)


class Rows(torch.utils.data.Dataset[tuple[Tensor, ...]]):
    """Label, dense numbers and ids of records one by one."""

    def __init__(self, tasks: Tasks) -> None:
        self.records = tasks.records[slice(*tasks.span("train"))]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        floats = self.records[i, : 1 + DENSE].view(torch.float32)
        return floats[0], floats[1:], self.records[i, 1 + DENSE :]


def rows(tasks: Tasks, size: int, limit: int, workers: int) -> tuple[int, float]:
    """(Records, seconds) of torch's DataLoader over shuffled records; not grouped by task, not decoded."""
    each = max(1, tasks.num_records // max(1, tasks.num_tasks)) * size
    sampler = torch.utils.data.RandomSampler(Rows(tasks), replacement=True, num_samples=limit)
    loader = torch.utils.data.DataLoader(Rows(tasks), each, sampler=sampler, num_workers=workers)
    records, began = 0, time.perf_counter()
    for batch in loader:
        batch[2].unique(return_inverse=True)  # of what the house does to a batch, this much
        records += len(batch[0])
    return records, time.perf_counter() - began


def sequential(tasks: Tasks, limit: int, *, cold: bool) -> tuple[int, float]:
    """(Records, seconds) of reading the file from its beginning in blocks of 8 MB; cold: not cached."""
    assert tasks.path is not None
    file = os.open(tasks.path / "records.npy", os.O_RDONLY)
    if cold:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    wanted, met, buffer = limit * tasks.layout.words * 4, 0, bytearray(8 << 20)
    began = time.perf_counter()
    while met < wanted and (got := os.preadv(file, [buffer], met)):
        met += got
    seconds = time.perf_counter() - began
    os.close(file)
    return met // (tasks.layout.words * 4), seconds


def decoder_alone(tasks: Tasks, size: int, limit: int) -> tuple[int, float]:
    """(Records, seconds) of decoding one batch again and again, its words in the cache: the decoder's limit."""
    decoder = Decoder(tasks)
    first = tasks.parts["train"][0]
    return _drained((decoder.batch(first, first + size) for _ in iter(int, 1)), limit)


def forgotten(tasks: Tasks) -> None:
    """Let the records' file leave the page cache."""
    assert tasks.path is not None
    file = os.open(tasks.path / "records.npy", os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


# An exchange of rows: fetch and descend.


def _exchange_rank(rank: int, size: int, place: str, count: int, dim: int, num_rows: int, steps: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=size)
    world = World.current()
    table = Embedding(num_rows, dim, descent=Descent("adagrad", 0.01), world=world)
    draw = torch.Generator().manual_seed(rank)
    wanted = [torch.randperm(num_rows, generator=draw)[:count].sort().values for _ in range(8)]
    seconds, floor = [], []
    for step in range(steps + 3):
        ids = wanted[step % len(wanted)]
        gradient = torch.full((count, dim), 1e-3)
        world.total(1)
        began = time.perf_counter()
        table.read(ids)
        table.write(ids, gradient)
        seconds.append(time.perf_counter() - began)
        world.total(1)
        began = time.perf_counter()  # the bytes' floor: ids, rows, gradients of half the rows, and nothing else
        half = count // size
        for payload in (torch.zeros(count, 2), torch.zeros(count, dim), torch.zeros(count, dim)):
            world.exchange(payload, [half] * size, [half] * size)
        floor.append(time.perf_counter() - began)
    found = {"seconds": float(np.median(seconds[3:])), "floor": float(np.median(floor[3:]))}
    (Path(place) / f"exchange-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def exchange(place: Path, count: int, dim: int, num_rows: int, steps: int) -> dict[str, float]:
    """Median seconds of a fetch and a descent on 2 ranks, and of moving its bytes alone; the slower rank's."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "meet").unlink(missing_ok=True)
    mp.spawn(_exchange_rank, (2, str(place), count, dim, num_rows, steps), nprocs=2)
    found = [json.loads((place / f"exchange-{rank}.json").read_text()) for rank in range(2)]
    return {name: max(f[name] for f in found) for name in found[0]}


def big_log(file: Path, records: int) -> int:
    """A Parquet log of so many records in any order, made once; gives the bytes of its columns in memory."""
    if not file.is_file():
        names = ["user", "clicked", "t", "d0", "d1", *(f"f{i}" for i in range(12))]
        with pa_parquet.ParquetWriter(
            file, pa.schema([(n, pa.float64() if n[0] == "d" else pa.int64()) for n in names])
        ) as out:
            for start in range(0, records, 1 << 18):
                draw, size = np.random.default_rng(start), min(1 << 18, records - start)
                columns = {
                    "user": draw.integers(records // 40 + 1, size=size), "clicked": draw.integers(2, size=size),
                    "t": draw.integers(1 << 40, size=size), "d0": draw.random(size), "d1": draw.random(size),
                }  # fmt: skip
                columns |= {f"f{i}": draw.integers(1 << 30, size=size) for i in range(12)}
                out.write_table(pa.table(columns, schema=out.schema))
    return records * 17 * 8


def loaded(store: Path) -> Tasks:
    """The stored log."""
    return read_tasks(store)
