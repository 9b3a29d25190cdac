"""Composing runs of sub-networks: the model cut up and dealt out, what it sees, how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from graphscale import metrics, nodes, rng
from graphscale.errors import InputError
from graphscale.gist_advice import advice
from graphscale.gist_outputs import ByColumns, Ends, fed, whole
from graphscale.nn.plain import plain
from graphscale.nn.stock import Feed, toy
from graphscale.objectives.node import node_loss
from graphscale.run import Run, Scores, device_of
from graphscale.seeing import seen
from graphscale.step import Slot
from graphscale.sync.subnets import Subnets
from graphscale.width import store
from graphscale.width.inference import infer
from graphscale.width.shards import Shards
from graphscale.width.spec import Build, Spec, on_meta
from graphscale.world import World

if TYPE_CHECKING:
    from graphscale.data.transform import Views
    from graphscale.graph import Graph
    from graphscale.recipes.gist import GISTConfig


def spec_of(build: Build, dims: Mapping[str, int], graph: Graph) -> Spec:
    """Which axis of which tensor is which hidden dimension, tried on a toy of the graph."""
    rows, edges, attr = toy(nn.Identity(), graph, 9, 30)  # once: thousands of layouts are tried on it

    def call(model: nn.Module) -> Tensor:
        first = next(model.parameters())
        x = rows.to(first, copy=True)
        if not any(isinstance(m, nn.Embedding) for m in model.modules()):
            x /= x.abs().max().clamp(min=1e-6)  # what is larger would saturate, and hide what a layer does
        told = attr.to(first if attr.is_floating_point() else first.device) if attr is not None else None
        return Feed.plainly(model, graph)(model, x, edges.to(first.device), told)

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
    meta = on_meta(make, config.widths())
    with rng.isolated(rng.derive(rng.INIT, seed)):
        model, shards = _started(config, views, seed, make, column)
        # Sub-networks see the same batches; copies of one network, which local SGD trains, would stay equal on them.
        dealt = world if config.local_sgd else row
        graph, batches, smallest, said = seen(config, views.seen, seed, dealt, house=False)
        nodes.demand_pairs(meta, smallest)
        steps = config.epochs * len(batches)
        sync = Subnets(
            make, shards, num_subnets=config.num_subnets, every=config.every, slot_of=partial(_slot, config, views),
            seed=seed, everybody=world, replicas=row, carry=config.carry, identity=config.local_sgd,
            clip=config.clip, drops=config.drops(steps), device=device,
        )  # fmt: skip
        model, evaluate, ends, notes = _scored(config, views, make, model, sync)
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
        notes=(*views.notes, *notes, *said, *advice(shards.spec, meta, config, steps, column.size)),
        prefetch=config.prefetch,
        in_shards=config.evaluate == "columns",
    )


def _started(
    config: GISTConfig, views: Views, seed: int, make: Build, column: World
) -> tuple[nn.Module | None, Shards]:  # fmt: skip
    """(The whole model, or None where no rank may hold it; its shards), with weights drawn from ``seed``."""
    dims, device = config.widths(), device_of(config.device)
    spec = spec_of(make, dims, views.whole)
    held = store.with_moments(spec, on_meta(make, dims)) if config.carry else spec
    if config.evaluate == "columns":
        return None, store.drawn(held, column, make, rng.derive(rng.INIT, seed), device)
    model = make(dims)
    return model, store.cut(held, column, model.state_dict(), device)


def _scored(
    config: GISTConfig, views: Views, make: Build, model: nn.Module | None, sync: Subnets
) -> tuple[nn.Module, Callable[[], Scores], Ends, list[str]]:
    """(The model as this rank has it, its scores, the end of an epoch, what is to be said)."""
    if model is None:
        scorer = ByColumns(config, sync, make, views)
        return scorer.columns.model, scorer.scores, scorer, []
    feed, notes = fed(config, model, views)
    model = model.to(device_of(config.device)) if sync.world.leads else on_meta(make, config.widths())
    return model, *whole(config, sync, model, feed, views), notes


def _slot(config: GISTConfig, views: Views, module: nn.Module) -> Slot:
    """A sub-network that trains."""
    feed, _ = fed(config, module, views)
    return Slot(module, nodes.adam(config, module), node_loss(plain(module, feed, bf16=config.precision == "bf16")))


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
