"""Cluster-GCN (Chiang, Liu, Si, Li, Bengio, Hsieh; KDD 2019), whole.

| in the paper                                   | here                                        |
|------------------------------------------------|---------------------------------------------|
| METIS clusters, section 3.1                    | ``partitioning.partition``                  |
| Algorithm 1: q clusters, links re-added        | ``batches.cluster.ClusterBatches``          |
| the block is re-normalised, section 6.2        | ``nn.propagation.Propagation.of``           |
| equations (1), (8), (9), (10), (11)            | ``nn.propagation``, ``nn.static.ClusterGCN``|
| first layer's AX over all edges, section 6.2   | ``nn.static.precompute``                    |
| loss, equation (2)                             | ``objectives.node.node_loss``               |
| inductive: train on the train-node-only graph  | ``Graph.induced``, below                    |

The released code's concatenated root term and LayerNorm are the defaults, as they made the paper's
figures; its per-cluster validation is not taken over: scores here are of the exact full graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from graphscale.config import TrainConfig
from graphscale.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from graphscale.batch import Batches
    from graphscale.data.transform import Views
    from graphscale.graph import Graph
    from graphscale.nn.stock import Feed
    from graphscale.run import Run, Scores


@dataclass(frozen=True, kw_only=True)
class ClusterGCNConfig(TrainConfig):
    """Cluster-GCN: q METIS clusters a batch, links among them kept, the block re-normalised."""

    model: str = "cluster_gcn"
    """cluster_gcn (the paper's), a PyG model (gcn, sage, gat, gin, pna), or your module:callable."""
    hidden: int = 128
    """Width of the hidden layers."""
    layers: int = 3
    """Number of weight layers."""
    dropout: float = 0.2
    """Probability of dropout, before every linear layer."""
    heads: int = 8
    """Attention heads of gat; --hidden counts all of them."""
    batches: Literal["clusters", "full"] = "clusters"
    """Clusters, or the whole graph as one batch (the yardstick)."""
    num_parts: int = 50
    """p: clusters of the training graph."""
    parts_per_batch: int = 1
    """q: clusters a batch, drawn without replacement."""
    partitioner: Literal["metis", "random"] = "metis"
    """METIS, or random parts as the control."""
    setting: Literal["transductive", "inductive"] = "transductive"
    """Inductive trains on the graph among the training nodes alone, and scores on the whole graph."""
    norm: Literal["row", "row+I", "self", "self+I", "diag", "sym"] = "diag"
    """A' of cluster_gcn: equations (1), (9), (10), (10)+(9), (10)+(11) of the paper, or Kipf's."""
    diag_lambda: float = 1.0
    """lambda of equation (11), for --norm diag."""
    concat: bool = True
    """Concatenate the node's own features: [A'X || X] W."""
    layer_norm: bool = True
    """LayerNorm after every hidden linear layer."""
    residual: bool = False
    """Equation (8): add a layer's input to its output where widths agree."""
    precompute: bool = False
    """Exact first layer: A'X over all training edges, once, instead of over the batch's."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        self.demand(("hidden", "layers", "heads", "num_parts", "parts_per_batch"), lambda v: v > 0, "must be above 0")
        self.demand(("dropout",), lambda v: 0 <= v < 1, "must lie in [0, 1)")
        self.demand(("diag_lambda",), lambda v: v >= 0, "cannot be negative")
        if self.batches == "clusters" and self.parts_per_batch > self.num_parts:
            raise InputError(
                f"--parts-per-batch {self.parts_per_batch} exceeds --num-parts {self.num_parts}."
                " A batch cannot hold more clusters than there are."
            )
        if self.model != "cluster_gcn" and (self.precompute or self.residual):
            raise InputError(
                f"--precompute and --residual belong to --model cluster_gcn; {self.model} runs unedited."
                " Leave them out, or write them into your model."
            )

    def composition(self) -> str:
        """The run as a sentence of its parts."""
        seen = "full batch"
        if self.batches == "clusters":
            seen = f"clusters(q={self.parts_per_batch} of p={self.num_parts}, {self.partitioner})"
        return f"{seen} . plain({self.model}) . node_loss . replicas"


Config = ClusterGCNConfig


def read(config: ClusterGCNConfig, state: Mapping[str, Any] | None = None) -> Views:
    """Read and transform the data, once for all seeds.

    Args:
        state: what a checkpoint kept (``Run.keeps``), to see new data as the model saw its own.
    """
    from graphscale.data import static, transform

    graph = static.load(config.data, split=config.split, undirected=config.undirected)
    if graph.x is None:
        graph = transform.degree_features(graph)
    if state is None:
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
    return transform.Views(seen, whole, scaler)


def _precomputed(config: ClusterGCNConfig, graph: Graph) -> Graph:
    from graphscale.nn.static import precompute

    assert graph.x is not None
    z = precompute(graph.x, graph.adj, config.norm, config.diag_lambda, concat=config.concat)
    return replace(graph, x=z)


def model_of(config: ClusterGCNConfig, views: Views, seed: int) -> tuple[nn.Module, Feed | None, list[str]]:
    """The model with weights drawn from ``seed``, how it is fed, and what is to be said of that."""
    from graphscale import rng
    from graphscale.nn import static, stock

    graph = views.seen
    with rng.isolated(rng.derive(rng.INIT, seed)):
        if config.model == "cluster_gcn":
            house = static.ClusterGCN(
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
            unused = ["cluster_gcn takes no edge_attr: edge attributes are not used"]
            return house, None, unused if graph.edge_attr is not None else []
        model = stock.build(
            config.model,
            graph,
            in_dim=graph.num_features,
            hidden=config.hidden,
            num_layers=config.layers,
            dropout=config.dropout,
            heads=config.heads,
            layer_norm=config.layer_norm,
        )
        feed, notes = stock.Feed.of(model, graph)
    return model, feed, notes


def build(config: ClusterGCNConfig, views: Views, seed: int) -> Run:
    """The composed run of one seed."""
    import torch

    from graphscale import metrics
    from graphscale.batches.cluster import ClusterBatches
    from graphscale.batches.full import FullBatch
    from graphscale.evaluation import Exact
    from graphscale.nn.plain import plain
    from graphscale.objectives.node import node_loss
    from graphscale.partitioning import partition
    from graphscale.run import Run, device_of
    from graphscale.sync.replicas import Replicas
    from graphscale.world import World

    world, device = World.current(), device_of(config.device)
    model, feed, notes = model_of(config, views, seed)
    model.to(device)
    batches: Batches = FullBatch(views.seen, seed=seed, world=world)
    quality: dict[str, object] = {}
    if config.batches == "clusters":
        cut = partition(views.seen, config.num_parts, method=config.partitioner, seed=seed)
        quality = cut.describe()
        batches = ClusterBatches(cut.apply(views.seen), config.parts_per_batch, seed=seed, world=world)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    objective = node_loss(plain(model, feed, bf16=config.precision == "bf16"))
    scored = metrics.names(views.whole.num_classes, multilabel=views.whole.multilabel)
    return Run(
        model=model,
        batches=batches,
        sync=Replicas(model, optimiser, objective, world=world, clip=config.clip),
        evaluate=Exact(model, feed, views.whole, device),
        metrics=scored,
        monitor=config.monitor or scored[0],
        world=world,
        device=device,
        partition=quality,
        keeps={"scaler": views.scaler.state_dict(), "num_classes": views.whole.num_classes},
        notes=(*views.notes, *notes),
    )


def scores(config: ClusterGCNConfig, state: Mapping[str, Any]) -> Scores:
    """Exact scores of a checkpoint on ``config.data``.

    Raises:
        InputError: where the checkpoint's weights are not those of this configuration and data.
    """
    from graphscale.evaluation import Exact
    from graphscale.run import device_of

    views = read(config, state)
    model, feed, _ = model_of(config, views, config.seed)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise InputError(
            f"the checkpoint does not fit {config.model} on {config.data}: {error}. Give data with the features"
            " and edge attributes that the model was trained on."
        ) from error
    device = device_of(config.device)
    return Exact(model.to(device), feed, views.whole, device)()
