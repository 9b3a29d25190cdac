"""What recipes for the nodes of a static graph share: reading data, making models, scoring checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from graphscale import rng
from graphscale.config import NodeConfig
from graphscale.data import static, transform
from graphscale.data.transform import Views
from graphscale.errors import InputError
from graphscale.evaluation import Exact
from graphscale.graph import Graph
from graphscale.nn import named
from graphscale.nn.exact import Outputs, outputs
from graphscale.nn.static import ClusterGCN, precompute
from graphscale.nn.stock import Feed
from graphscale.partitioning import Method, partition
from graphscale.run import Scores, device_of


def read(config: NodeConfig, state: Mapping[str, Any] | None = None) -> Views:
    """Read and transform the data, once for all seeds.

    Args:
        state: what a checkpoint kept (``Run.keeps``), to see new data as the model saw its own.
    """
    graph = static.load(config.data, split=config.split, undirected=config.undirected)
    if graph.x is None:
        if config.setting == "inductive":
            raise InputError(
                f"{config.data} has no features, and degrees of the whole graph would tell training of the test nodes'"
                " edges. Give features, or train with --setting transductive."
            )
        graph = transform.degree_features(graph)
    if state is None:
        demand_splits(graph, config.data)
        scaler = transform.Scaler.fit(graph, config.scaling)
    else:
        scaler = transform.Scaler.from_state(config.scaling, state["scaler"])
        graph = graph.for_classes(state["num_classes"])
    graph = scaler.apply(graph)
    if config.model == "cluster_gcn":
        graph = graph.without_loops()
    whole = seen = graph
    if config.setting == "inductive":
        seen = graph.induced(graph.masks["train"].nonzero().flatten())
    if config.precompute:
        whole = _precomputed(config, graph)
        seen = whole if seen is graph else _precomputed(config, seen)
    return Views(seen, whole, scaler)


def demand_splits(graph: Graph, name: str) -> None:
    """Refuse data without labels to train on.

    Raises:
        InputError: naming the empty splits, or where there is a single class.
    """
    empty = [split for split, mask in graph.masks.items() if not bool(mask.any())]
    if empty:
        raise InputError(
            f"{name} has no labelled node in {', '.join(empty)}. Prepare it again with --labels: label and split"
            " (train, val, test) of every node."
        )
    if graph.num_classes < 2 and not graph.multilabel:
        raise InputError(f"all labels of {name} are of one class: there is nothing to learn. Check y.")


class Clustered(Protocol):
    """Settings of a recipe whose batches are clusters."""

    @property
    def num_parts(self) -> int: ...  # noqa: D102
    @property
    def parts_per_batch(self) -> int: ...  # noqa: D102
    @property
    def partitioner(self) -> Method: ...  # noqa: D102


def clustered(graph: Graph, config: Clustered, seed: int) -> tuple[Graph, int, list[str]]:
    """(the graph in cluster order, clusters a batch, what is to be said of them); a store keeps its clusters."""
    notes = []
    if graph.num_parts == 1:
        graph = partition(graph, config.num_parts, method=config.partitioner, seed=seed).apply(graph)
    else:
        notes.append(f"clusters of the store are used ({graph.num_parts}); --num-parts and --partitioner are not")
    q = config.parts_per_batch
    asked = int(str(graph.clusters.get("asked", graph.num_parts)))  # METIS leaves some empty where parts are small
    if graph.num_parts < q <= asked:
        notes.append(f"{graph.num_parts} clusters hold a node: a batch takes all of them, not {q}")
        q = graph.num_parts
    return graph, q, notes


def demand_pairs(model: nn.Module, smallest: int) -> None:
    """Refuse a batch of one node to a model that normalises over a batch.

    Args:
        smallest: nodes of the smallest batch that an epoch can hold.

    Raises:
        InputError: where BatchNorm would meet a single row, which has no variance.
    """
    if smallest == 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        raise InputError(
            f"{type(model).__name__} has BatchNorm, and an epoch may hold a batch of one node, whose variance is"
            " undefined. Give fewer --num-parts, more --parts-per-batch, or another --batch-size."
        )


def _precomputed(config: NodeConfig, graph: Graph) -> Graph:
    assert graph.x is not None
    z = precompute(graph.x, graph.adj, config.norm, config.diag_lambda, concat=config.concat)
    return replace(graph, x=z)


def model_of(
    config: NodeConfig, graph: Graph, seed: int, whole: Graph | None = None
) -> tuple[nn.Module, Feed | None, list[str]]:
    """The model with weights drawn from ``seed``, how it is fed, and what is to be said of that."""
    demand_degrees(config.model, graph)
    with rng.isolated(rng.derive(rng.INIT, seed)):
        if config.model == "cluster_gcn":
            unused = ["cluster_gcn takes no edge_attr: edge attributes are not used"]
            return _house(config, graph), None, unused if graph.edge_attr is not None else []
        model = named.build(
            config.model,
            graph,
            in_dim=graph.num_features,
            hidden=config.hidden,
            num_layers=config.layers,
            dropout=config.dropout,
            input_dropout=config.input_dropout,
            heads=config.heads,
            layer_norm=config.layer_norm,
            batch_norm=config.batch_norm,
            hops=config.hops,
            alpha=config.alpha,
            theta=config.theta,
        )
        feed, notes = Feed.of(model, whole or graph, bf16=config.precision == "bf16", faster=config.accelerate)
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            f"{config.model} has no trainable parameter: training would change nothing. Check its freezing."
        )
    return model, feed, notes


def demand_degrees(model: str, graph: Graph) -> None:
    """Refuse negative weights to a model that divides by their sums.

    Raises:
        InputError: naming how many there are.
    """
    weight = graph.adj.values
    if model in ("cluster_gcn", "gcn", "appnp", "gcnii") and weight is not None and bool((weight < 0).any()):
        raise InputError(
            f"{model} divides by weighted degrees, and {int((weight < 0).sum())} edge weights are negative."
            " Shift or clip the weights, give them as edge_attr, or choose a --model that takes no degrees."
        )


def adam(config: NodeConfig, model: nn.Module) -> torch.optim.Adam:
    """Adam over the parameters, grouped by their weight decay.

    One pass over memory a step (``fused``) is 9 times faster than torch's default on 5 M numbers on a CPU, and 3 times
    on a small network.

    Raises:
        InputError: where a part of ``decays`` is in no parameter's name.
    """
    names = [name for name, _ in model.named_parameters()]
    for item in (config.decays or "").split(",") if config.decays else ():
        part = item.partition("=")[0].strip()
        if not any(part in name for name in names):
            raise InputError(
                f"--decays names '{part}', which is in no parameter's name of {config.model}. It has:"
                f" {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}."
            )
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(config.decay_of(name), []).append(parameter)
    parted = [{"params": inside, "weight_decay": decay} for decay, inside in groups.items()]
    return torch.optim.Adam(parted, lr=config.lr, fused=True)


def _house(config: NodeConfig, graph: Graph) -> ClusterGCN:
    return ClusterGCN(
        graph.num_features,
        config.hidden,
        graph.num_classes,
        config.layers,
        dropout=config.dropout,
        norm=config.norm,
        diag_lambda=config.diag_lambda,
        concat=config.concat,
        layer_norm=config.layer_norm,
        residual=config.residual,
        precomputed=config.precompute,
    )


def restored(config: NodeConfig, state: Mapping[str, Any]) -> tuple[nn.Module, Feed | None, Views]:
    """The model of a checkpoint, how it is fed, and ``config.data`` as it sees it.

    Raises:
        InputError: where the checkpoint's weights are not those of this configuration and data.
    """
    views = read(config, state)
    model, feed, _ = model_of(config, views.whole, config.seed)
    load(model, state["model"], config)
    return model, feed, views


def load(model: nn.Module, weights: Mapping[str, Any], config: NodeConfig, *, assign: bool = False) -> None:
    """Give a model the weights of a checkpoint: a copy, or with ``assign`` the tensors themselves.

    Raises:
        InputError: where they are of another model.
    """
    try:
        model.load_state_dict(weights, assign=assign)
    except RuntimeError as error:
        raise InputError(
            f"the checkpoint does not fit {config.model} on {config.data}: {str(error).splitlines()[-1].strip()}"
            " Give data with the features and edge attributes that the model was trained on."
        ) from error


def predicted(config: NodeConfig, state: Mapping[str, Any], *, hidden: bool) -> tuple[Outputs, Graph]:
    """(What a checkpoint says of every node of ``config.data``, that graph); with the last hidden layer, if asked.

    Raises:
        InputError: as ``restored``.
    """
    model, feed, views = restored(config, state)
    device = device_of(config.device)
    return outputs(model.to(device), feed, views.whole, device, hidden=hidden), views.whole


def scores(config: NodeConfig, state: Mapping[str, Any]) -> Scores:
    """Exact scores of a checkpoint on ``config.data``.

    Raises:
        InputError: as ``restored``.
    """
    model, feed, views = restored(config, state)
    device = device_of(config.device)
    return Exact(model.to(device), feed, views.whole, device)()
