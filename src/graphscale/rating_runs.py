"""Composing runs over tasks: what training sees, the rows, the network and its inner loop, scores, measures."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graphscale import rng
from graphscale.batches.task_decoder import EMBEDDING, Decoder
from graphscale.batches.task_reader import TaskReader
from graphscale.data.planted_tasks import planted_tasks
from graphscale.data.pyg import DATA_VARIABLE
from graphscale.errors import InputError
from graphscale.nn.dlrm import RatingNet, Shape
from graphscale.objectives.rating import Meta, MetaRating
from graphscale.rating_scores import TaskScores
from graphscale.run import Run, Scores, device_of
from graphscale.store.folder import is_tasks
from graphscale.store.tasks import read_tasks
from graphscale.sync.sharded import ShardedReplicas, load_tables, whole_rows
from graphscale.tables.embedding import Descent, Embedding
from graphscale.tasks import Tasks, blocks, in_order
from graphscale.world import World

if TYPE_CHECKING:
    from graphscale.recipes.gmeta_dlrm import GMetaDLRMConfig


@dataclass(frozen=True)
class RatingViews:
    """Tasks, and what of the training records every seed needs."""

    tasks: Tasks
    offset: float  # what is answered before training: mean label, or its logit
    mean: torch.Tensor  # [D] of dense numbers
    deviation: torch.Tensor  # [D]


def read(config: GMetaDLRMConfig) -> RatingViews:
    """The tasks of a configuration, and statistics of the training records.

    Raises:
        InputError: where there are no such tasks, or the labels are not those of the loss.
    """
    tasks = _tasks(config)
    for part in ("val", "test"):
        first, end = tasks.parts.get(part, (0, 0))
        if first == end:
            raise InputError(
                f"{config.data} has no task in {part}, so nothing can be scored. Prepare it with --{part}."
            )
    if config.bottom and not tasks.layout.dense:
        raise InputError(f"--bottom {config.bottom} is of dense numbers, and {config.data} has none. Leave it out.")
    mean = tasks.mean_label()
    if config.loss == "bce":
        _demand_clicks(tasks)
        mean = min(max(mean, 1e-6), 1 - 1e-6)
        offset = float(torch.logit(torch.tensor(mean, dtype=torch.float64)))
    else:
        offset = mean
    return RatingViews(tasks, offset, *_moments(tasks))


def _tasks(config: GMetaDLRMConfig) -> Tasks:
    name = config.data
    kind, _, size = name.partition(":")
    if kind in ("planted-tasks", "planted-clicks"):
        count = size.replace("_", "") or "400"
        if not (count.isascii() and count.isdigit()) or int(count) < 20:
            raise InputError(f"'{name}' asks for no number of tasks from 20. Write {kind}:400.")
        return planted_tasks(int(count), clicks=kind == "planted-clicks", seed=config.split)
    folder = os.environ.get(DATA_VARIABLE)
    for place in [Path(name), *([Path(folder) / name] if folder else [])]:
        if is_tasks(place):
            return read_tasks(place)
        if place.is_dir() and (made := _movielens(place, config.split)) is not None:
            return made
    where = f"the folder {folder}" if folder else f"{DATA_VARIABLE} (unset)"
    raise InputError(
        f"no tasks '{name}', neither as a path nor in {where}. Make a store: graphscale prepare-tasks LOGS --to DIR; or"
        " give MovieLens' folder, or planted-tasks:400."
    )


def _movielens(place: Path, split: int) -> Tasks | None:
    """MovieLens by RecBole-MetaRec's protocol, ``split`` a seed, in a folder that goes when the process ends."""
    from graphscale.data import task_logs
    from graphscale.data.task_sorting import Cut
    from graphscale.task_preparing import prepare_tasks

    if not task_logs.is_movielens(place):
        return None
    made = Path(tempfile.mkdtemp(prefix="graphscale-tasks-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    cut = Cut(by="random", query=10, least=13, most=100, seed=split)
    return prepare_tasks(place, made / "tasks", task_logs.MOVIELENS, cut)


def _demand_clicks(tasks: Tasks) -> None:
    for first, end in blocks(*tasks.span("train")):
        labels = tasks.labels(first, end)
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise InputError("--loss bce foretells labels 0 and 1, and these have others. Use --loss mse.")


def _moments(tasks: Tasks) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and deviations [D] of the training records' dense numbers, in blocks."""
    count, dense = 0, len(tasks.layout.dense)
    total, square = (torch.zeros(dense, dtype=torch.float64) for _ in range(2))
    for first, end in blocks(*tasks.span("train")) if dense else ():
        x = tasks.records[first:end, 1 : 1 + dense].contiguous().view(torch.float32).double()
        total, square, count = total + x.sum(0), square + (x**2).sum(0), count + len(x)
    mean = total / max(1, count)
    deviation = (square / max(1, count) - mean**2).clamp(min=0).sqrt()
    return mean.float(), torch.where(deviation > 0, deviation, 1.0).float()


def build(config: GMetaDLRMConfig, views: RatingViews, seed: int) -> Run:
    """The composed run of one seed."""
    world, device, tasks = World.current(), device_of(config.device), views.tasks
    objective = objective_of(config, views, seed, device)
    table = table_of(config, views, objective, seed, world, device)
    model, tables = objective.model, {EMBEDDING: table}
    decoder = decoder_of(config, tasks, redraw=config.redraw)
    reader = TaskReader(decoder, config.tasks_per_step, seed=seed, world=world)
    evaluate = scorer(config, tasks, objective, table, world, device)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    sync = ShardedReplicas(model, optimiser, objective, world=world, clip=config.clip, tables=tables)
    return Run(
        model=model,
        batches=reader,  # type: ignore[arg-type]
        sync=sync,
        evaluate=evaluate,
        metrics=evaluate.names,
        monitor=config.monitor or ("auc" if config.loss == "bce" else "mae"),
        tables=tables,
        world=world,
        device=device,
        ends=Measures(evaluate, table, decoder, objective, sync, len(reader)),
        keeps={"graph": tasks.identity},
        notes=(*tasks.notes, _said(tasks, reader, table)),
        prefetch=config.prefetch,
        in_shards=True,
    )


def decoder_of(config: GMetaDLRMConfig, tasks: Tasks, *, redraw: float = 0.0) -> Decoder:
    """What makes batches."""
    return Decoder(tasks, private=config.adapt in ("all", "rows"), shots=config.shots, redraw=redraw)


def objective_of(config: GMetaDLRMConfig, views: RatingViews, seed: int, device: torch.device) -> MetaRating:
    """The network and its inner loop."""
    shape = Shape(config.model, config.dim, config.widths("bottom"), config.widths("top"))
    with rng.isolated(rng.derive(rng.INIT, seed)):
        net = RatingNet(shape, views.tasks.layout, offset=views.offset)
        net.measured(views.mean, views.deviation)
        model = Meta(net, config.adapt, lr=config.inner_lr, offset_lr=config.offset_lr, learned=config.rates).to(device)
    steps = 0 if config.adapt == "none" else config.inner_steps
    return MetaRating(
        model, views.tasks.layout, config.loss, steps, config.order, config.shrink, joint=config.adapt == "none"
    )  # fmt: skip


def table_of(
    config: GMetaDLRMConfig, views: RatingViews, objective: MetaRating, seed: int, world: World, device: torch.device
) -> Embedding:
    """The rows of all tables."""
    descent = Descent(config.row_optimiser, config.row_lr, config.row_decay)
    return Embedding(
        views.tasks.layout.num_rows, objective.model.net.row_dim, descent=descent, scale=config.row_scale, seed=seed,
        disk=config.rows == "disk", world=world, device=device,
    )  # fmt: skip


def scorer(
    config: GMetaDLRMConfig, tasks: Tasks, objective: MetaRating, table: Embedding, world: World, device: torch.device
) -> TaskScores:
    """What scores the tasks that training does not see."""
    tables = {EMBEDDING: table}
    return TaskScores(
        objective, tables, decoder_of(config, tasks), size=config.tasks_per_step, world=world, device=device
    )  # fmt: skip


def scores(config: GMetaDLRMConfig, state: Mapping[str, Any]) -> Scores:
    """The scores of a checkpoint.

    Raises:
        InputError: where the checkpoint is of other tasks.
    """
    objective, table, views = restored(config, state)
    found = scorer(config, views.tasks, objective, table, World(), device_of(config.device))
    found.ready()
    return found()


def restored(
    config: GMetaDLRMConfig, state: Mapping[str, Any], *, same: bool = True
) -> tuple[MetaRating, Embedding, RatingViews]:  # fmt: skip
    """The objective of a checkpoint, with its network, its rows and its tasks.

    Args:
        same: the tasks must be those of training; else those with tables of the same sizes do.

    Raises:
        InputError: where the checkpoint is of other tasks.
    """
    views, device = read(config), device_of(config.device)
    if same and state.get("graph") != views.tasks.identity:
        raise InputError(
            f"{config.data} does not hold the tasks that the run was trained on, whose ids its rows stand for. Bring"
            " the data back as it was."
        )
    objective = objective_of(config, views, config.seed, device)
    table = table_of(replace(config, row_scale=0.0), views, objective, config.seed, World(), device)
    try:
        objective.model.load_state_dict(state["model"])
        load_tables({EMBEDDING: table}, state["beside"])
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"the checkpoint cannot be read ({str(error).splitlines()[0]}). It is damaged, or of other settings: train"
            " again."
        ) from error
    objective.model.eval()
    return objective, table, views


def weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Dense weights of a checkpoint, and ``embedding.rows``: tables in the layout's order, ids in theirs.

    Raises:
        InputError: where the rows cannot be read.
    """
    try:
        rows = whole_rows(state["beside"], EMBEDDING)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"the rows of the best epoch cannot be read ({error}). Train the run again.") from error
    return {**state["model"], f"{EMBEDDING}.rows": in_order(rows)}


def _said(tasks: Tasks, reader: TaskReader, table: Embedding) -> str:
    first, end = tasks.span("train")
    return (
        f"{end - first:,} records of {reader.end - reader.first:,} tasks to train on in {len(reader):,} steps;"
        f" {table.num_rows:,} rows x {table.dim} in {len(tasks.layout.tables)} tables"
    )


class Measures:
    """The end of an epoch: the scores, where they are wanted, and what a step sent and took on average.

    ``bytes_*`` go to other ranks, a step of this rank. ``seconds_read`` and ``_decode`` are of the thread that makes
    batches; ``_exchange`` waits for other ranks; ``_inner`` and ``_outer`` are forward alone; ``_update`` is rows'.
    """

    def __init__(
        self, evaluate: TaskScores, table: Embedding, decoder: Decoder, objective: MetaRating, sync: ShardedReplicas,
        steps: int,
    ) -> None:  # fmt: skip
        self.evaluate, self.table, self.decoder, self.objective = evaluate, table, decoder, objective
        self.sync, self.steps = sync, steps
        self._before = self._sums()

    def __call__(self, scored: bool) -> dict[str, float]:
        """Means over the epoch's steps."""
        now = self._sums()
        means = {name: (now[name] - self._before[name]) / self.steps for name in now}
        if scored:
            self.evaluate.ready()
        self._before = self._sums()
        return means

    def _sums(self) -> dict[str, float]:
        traffic, meter, spent = self.table.traffic, self.decoder.meter, self.objective.spent
        return {
            "bytes_read": meter.bytes, "ids": meter.ids, "distinct_rows": meter.distinct,
            "bytes_counts": traffic.counts, "bytes_ids": traffic.ids, "bytes_rows": traffic.rows,
            "bytes_gradients": traffic.gradients, "bytes_dense": self.sync.sent,
            "seconds_read": meter.read, "seconds_decode": meter.decode, "seconds_exchange": traffic.exchange,
            "seconds_inner": spent.inner, "seconds_outer": spent.outer, "seconds_update": traffic.update,
        }  # fmt: skip
