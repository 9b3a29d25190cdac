"""Composing runs of sub-networks: the model cut up, dealt out, merged, and scored at full width."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graphscale import metrics, nodes, rng
from graphscale.errors import InputError
from graphscale.evaluation import Exact
from graphscale.nn.plain import plain
from graphscale.nn.stock import Feed, toy
from graphscale.objectives.node import node_loss
from graphscale.run import Run, Scores, device_of
from graphscale.seeing import seen
from graphscale.step import Slot
from graphscale.sync.subnets import Subnets
from graphscale.width import store
from graphscale.width.calibrate import calibrate
from graphscale.width.columns import Columns
from graphscale.width.inference import infer
from graphscale.width.plan import coverage, deal, rounds_for
from graphscale.width.spec import MOMENTS, Build, Spec, on_meta
from graphscale.world import World

if TYPE_CHECKING:
    from graphscale.data.transform import Views
    from graphscale.graph import Graph
    from graphscale.recipes.gist import GISTConfig

_ENOUGH = 0.99  # of every hidden matrix, or what is left at its random start is felt


def spec_of(build: Build, dims: Mapping[str, int], graph: Graph) -> Spec:
    """Which axis of which tensor is which hidden dimension, tried on a toy of the graph."""

    def call(model: nn.Module) -> Tensor:
        x, adj, attr = toy(model, graph, 9, 30)
        dtype = next(model.parameters()).dtype
        if not any(isinstance(m, nn.Embedding) for m in model.modules()):
            x = x / x.abs().max().clamp(min=1e-6)  # what is larger would saturate, and hide what a layer does
        attr = attr.to(dtype) if attr is not None and attr.is_floating_point() else attr
        return Feed.plainly(model, graph)(model, x.to(dtype), adj, attr)

    return infer(build, dims, call=call, layouts=getattr(build, "layouts", None))


def build(config: GISTConfig, views: Views, seed: int, make: Build) -> Run:
    """The composed run of one seed.

    Args:
        make: ``build(dims)``.
    """
    world, device = World.current(), device_of(config.device)
    _demand_shares(config, world)
    nodes.demand_degrees(config.model, views.seen)
    column, row = world.mesh(config.replicas)
    dims = config.widths()
    spec = spec_of(make, dims, views.whole)
    meta = on_meta(make, dims)
    held = store.with_moments(spec, meta) if config.carry else spec
    model, feed = meta, None
    with rng.isolated(rng.derive(rng.INIT, seed)):
        if config.evaluate == "whole":
            model = make(dims)
            shards = store.cut(held, column, model.state_dict(), device)
            feed, notes = _fed(config, model, views)
            model = model.to(device) if world.leads else meta
        else:
            shards = store.drawn(held, column, make, rng.derive(rng.INIT, seed), device)
            notes = []
        # Sub-networks see the same batches; copies of one network, which local SGD trains, would stay equal on them.
        dealt = world if config.local_sgd else row
        graph, batches, smallest, said = seen(config, views.seen, seed, dealt, house=False)
        nodes.demand_pairs(meta, smallest)
        steps = config.epochs * len(batches)

        def slot_of(module: nn.Module) -> Slot:
            own, _ = _fed(config, module, views)
            optimiser = nodes.adam(config, module)
            return Slot(module, optimiser, node_loss(plain(module, own, bf16=config.precision == "bf16")))

        sync = Subnets(
            make, shards, num_subnets=config.num_subnets, every=config.every, slot_of=slot_of, seed=seed,
            everybody=world, replicas=row, carry=config.carry, identity=config.local_sgd, clip=config.clip,
            drops=config.drops(steps), device=device,
        )  # fmt: skip
    if config.evaluate == "whole":
        evaluate: Callable[[], Scores] = Exact(_scaled(config, model), feed, views.whole, device)
        # Statistics of BatchNorm are those of narrow networks, but for one sub-network or copies of the whole.
        narrow = config.num_subnets > 1 and not config.local_sgd
        assert feed is not None
        again = partial(calibrate, model, feed, views.seen, device) if narrow and world.leads else None
        ends: Any = partial(_gather, sync, model.state_dict(), again)
    else:
        scorer = _ByColumns(
            Columns(make, shards, views.whole, narrow=config.num_subnets > 1), sync, views.whole, _scale(config)
        )
        evaluate, ends = scorer.scores, scorer
    scored = metrics.names(views.whole.num_classes, multilabel=views.whole.multilabel)
    return Run(
        model=model,
        batches=batches,
        sync=sync,
        evaluate=evaluate,
        metrics=scored,
        monitor=config.monitor or scored[0],
        ends=ends,
        world=world,
        device=device,
        partition=graph.clusters if config.batches == "clusters" else {},
        keeps={
            "scaler": views.scaler.state_dict(),
            "num_classes": views.whole.num_classes,
            "graph": graph.identity(),
        },
        notes=(*views.notes, *notes, *said, *advice(held, config, steps, column.size)),
        prefetch=config.prefetch,
    )


def _demand_shares(config: GISTConfig, world: World) -> None:
    if world.size % config.replicas:
        raise InputError(
            f"{world.size} processes cannot be parted into groups of --replicas {config.replicas}. Make one a multiple"
            " of the other."
        )
    if config.local_sgd and (config.num_subnets, config.replicas) != (world.size, 1):
        raise InputError(
            f"--local-sgd trains the whole network on every process, each on its own batches: give --num-subnets"
            f" {world.size} (the processes) and no --replicas, or leave --local-sgd out."
        )
    if world.size // config.replicas > config.num_subnets:
        raise InputError(
            f"{world.size // config.replicas} processes share --num-subnets {config.num_subnets}: some would have"
            " nothing to train. Give more sub-networks, or several processes to each with --replicas."
        )


def _fed(config: GISTConfig, module: nn.Module, views: Views) -> tuple[Feed, list[str]]:
    return Feed.of(module, views.whole, bf16=config.precision == "bf16", faster=config.accelerate)


def _scale(config: GISTConfig) -> float:
    return 1.0 / config.num_subnets if config.logit_scale == "1/m" else 1.0


def _scaled(config: GISTConfig, model: nn.Module) -> nn.Module:
    """The same model, whose logits are divided by m where that is asked for."""
    if config.logit_scale == "1/m":
        model.register_forward_hook(partial(_divided, _scale(config)))
    return model


def _divided(scale: float, model: nn.Module, arguments: Any, logits: Tensor) -> Tensor:
    return logits * scale


def _gather(
    sync: Subnets, into: Mapping[str, Tensor], again: Callable[[], None] | None, scored: bool
) -> dict[str, float]:  # fmt: skip
    """The end of an epoch: the full width is brought together, and calibrated, where it is scored."""
    if scored:
        sync.merge()
        sync.whole(into)
        if again is not None:
            again()
    return sync.measures()


class _ByColumns:
    """The end of an epoch where no rank holds the model: logits by columns, where it is scored."""

    def __init__(self, columns: Columns, sync: Subnets, graph: Graph, scale: float) -> None:
        self.columns, self.sync, self.graph, self.scale = columns, sync, graph, scale
        self._logits = torch.empty(0)

    def __call__(self, scored: bool) -> dict[str, float]:
        if scored:
            self.sync.merge()
            self._logits = self.columns.logits() * self.scale
        return self.sync.measures()

    def scores(self) -> Scores:
        masks, y = self.graph.masks, self.graph.y
        return {split: metrics.score(self._logits[masks[split]], y[masks[split]]) for split in ("val", "test")}


def advice(spec: Spec, config: GISTConfig, steps: int, hosts: int) -> list[str]:
    """What is to be said before training: rounds, coverage, bytes; and the zeta that would cover the model.

    Args:
        spec: what is exchanged, Adam's moments included where they are carried.
        hosts: processes that share the sub-networks.
    """
    m, rounds = config.num_subnets, math.ceil(steps / config.every)
    model = {name: entry for name, entry in spec.entries.items() if not name.startswith(MOMENTS)}
    plan = deal(spec.dims, m, seed=0, number=0, identity=config.local_sgd)
    part, whole = (sum(entry.size(dims) for entry in model.values()) for dims in (plan.dims(0), spec.dims))
    said = [f"{m} sub-networks of {part:,} of {whole:,} numbers ({100 * part / whole:.1f} %), {rounds:,} rounds"
            f" of {config.every} steps"]  # fmt: skip
    if hosts > 1:
        moved, summed = round_bytes(spec, m, hosts, identity=config.local_sgd), 8 * (hosts - 1) * whole * config.every
        said[0] += (
            f". A round moves about {moved / 2**20:,.1f} MiB between {hosts} processes, where replicas' gradients would"
            f" move {summed / 2**20:,.1f}"
        )
    if config.local_sgd or m == 1 or not _inner(spec):
        return said
    covered = coverage(m, rounds)
    said.append(f"rounds train {100 * covered:.1f} % of every hidden matrix")
    if covered < _ENOUGH:
        needed = rounds_for(m, _ENOUGH)
        best = steps // needed
        way = f"--every {best}" if best else f"at least {needed} steps (more --epochs or batches), with --every 1"
        said[-1] += f", and what is left stays at its random start when the model is scored: {way} would train 99 %"
    return said


def round_bytes(spec: Spec, num_subnets: int, hosts: int, *, identity: bool = False) -> float:
    """Bytes that a round moves between processes: slices there and back, but what stays; and the shared tensors."""
    plan = deal(spec.dims, num_subnets, seed=0, number=0, identity=identity)
    split, shared = spec.split().values(), spec.shared().values()
    slices = sum(
        entry.size(plan.dims(i)) * entry.dtype.itemsize for i in range(num_subnets) for entry in split
    )  # fmt: skip
    means = 8 * sum(entry.size(spec.dims) for entry in shared)  # float64, from every process
    return 2 * slices * (hosts - 1) / hosts + (hosts * means if hosts > 1 else 0)


def _inner(spec: Spec) -> bool:
    """Whether a tensor lies between two hidden dimensions: only of those does a round train a part."""
    return any(sum(any(seg.dim for seg in axis) for axis in entry.axes) > 1 for entry in spec.entries.values())


def restored(
    config: GISTConfig, state: Mapping[str, Any], builder: Callable[[GISTConfig, Graph], Build]
) -> tuple[nn.Module, Feed, Views]:
    """The full-width model of a checkpoint, how it is fed, and the data as it sees it.

    Raises:
        InputError: where the checkpoint does not hold the whole model, or one that fits.
    """
    if not state["model"]:
        raise InputError(
            "the checkpoint does not hold the whole model: it was trained with --evaluate columns, and its weights lie"
            " in shards beside it. Its scores are in result.json."
        )
    views = nodes.read(config, state)
    model = builder(config, views.whole)(config.widths())
    feed, _ = _fed(config, model, views)
    nodes.load(model, state["model"], config)
    return _scaled(config, model), feed, views
