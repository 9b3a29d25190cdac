"""What recipes for the nodes of a static graph share. Heavy imports wait until a run is built: help must be quick."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphscale.config import NodeConfig

if TYPE_CHECKING:
    from torch import nn

    from graphscale.batch import Batch, Batches
    from graphscale.data.transform import Views
    from graphscale.graph import Graph
    from graphscale.nn.exact import Outputs
    from graphscale.nn.stock import Feed
    from graphscale.run import Run, Scores
    from graphscale.step import Objective
    from graphscale.table import Table


def read(config: NodeConfig) -> Views:
    """The training graph and the graph to score."""
    from graphscale import nodes

    return nodes.read(config)


def restored(config: NodeConfig, state: Mapping[str, Any]) -> tuple[nn.Module, Feed | None, Views]:
    """The model of a checkpoint, how it is fed, and ``config.data`` as it sees it."""
    from graphscale import nodes

    return nodes.restored(config, state)


def predicted(config: NodeConfig, state: Mapping[str, Any], *, hidden: bool) -> tuple[Outputs, Graph]:
    """What a checkpoint says of every node of ``config.data``, and that graph."""
    from graphscale import nodes

    return nodes.predicted(config, state, hidden=hidden)


def scores(config: NodeConfig, state: Mapping[str, Any]) -> Scores:
    """Exact scores of a checkpoint on ``config.data``."""
    from graphscale import nodes

    return nodes.scores(config, state)


def composed(
    config: NodeConfig,
    views: Views,
    model: nn.Module,
    feed: Feed | None,
    *,
    graph: Graph,
    batches: Batches,
    objective: Objective[Batch],
    notes: Sequence[str],
    partition: Mapping[str, object],
    tables: Mapping[str, Table] | None = None,
    per_step: float | None = None,
    evaluate: Callable[[], Scores] | None = None,
    ends: Callable[[bool], Mapping[str, float]] | None = None,
) -> Run:
    """A run by Adam and replicas, scored exactly.

    Args:
        feed: how a stock model is called; None for a model of the house.
        graph: what is trained on, in the order of ``batches``.
        partition: the quality of its clusters, for the result.
        per_step: see ``sync.replicas``.
        evaluate: another way to the exact scores.
        ends: see ``Run``.
    """
    from graphscale import metrics, nodes
    from graphscale.evaluation import Exact
    from graphscale.run import Run, device_of
    from graphscale.sync.replicas import Replicas
    from graphscale.world import World

    world, device = World.current(), device_of(config.device)
    optimiser = nodes.adam(config, model)
    scored = metrics.names(views.whole.num_classes, multilabel=views.whole.multilabel)
    return Run(
        model=model,
        batches=batches,
        sync=Replicas(model, optimiser, objective, world=world, clip=config.clip, per_step=per_step),
        evaluate=evaluate or Exact(model, feed, views.whole, device),
        metrics=scored,
        monitor=config.monitor or scored[0],
        tables=tables or {},
        ends=ends,
        world=world,
        device=device,
        partition=partition,
        keeps={
            "scaler": views.scaler.state_dict(),
            "num_classes": views.whole.num_classes,
            "graph": graph.identity(),
        },
        notes=(*views.notes, *notes),
        prefetch=config.prefetch,
    )
