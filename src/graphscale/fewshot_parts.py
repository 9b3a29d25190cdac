"""The parts that few-shot runs are composed of: subgraphs, network, settings, scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graphscale.batches.subgraphs import Inputs, Subgraphs
from graphscale.batches.tasks import Maker, TaskBatch
from graphscale.batches.whole import WholeSubgraphs
from graphscale.fewshot_scores import METRICS, Answer, EpisodeScores
from graphscale.fewshot_views import FewShotViews
from graphscale.kernels.ego_walk import Rules
from graphscale.nn.ego import EgoGCN, Rates
from graphscale.nn.ego_stock import StockEgo
from graphscale.objectives.meta import How, Meta
from graphscale.run import Run, device_of
from graphscale.sync.replicas import Replicas
from graphscale.world import World

if TYPE_CHECKING:
    from graphscale.recipes.gmeta import GMetaConfig


def composed(
    config: GMetaConfig, views: FewShotViews, seed: int, net: nn.Module, objective: Any, batches: Any, answer: Answer
) -> Run:
    """A run by Adam and replicas, scored on fixed episodes.

    Args:
        objective: of a batch of ``batches``.
        answer: see ``EpisodeScores``.
    """
    world, device = World.current(), device_of(config.device)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return Run(
        model=net,
        batches=batches,
        sync=Replicas(net, optimiser, objective, world=world, clip=config.clip),
        evaluate=scorer(config, views, seed, answer, device),
        metrics=METRICS,
        monitor=config.monitor or "accuracy",
        world=world,
        device=device,
        keeps={
            "scaler": views.scaler.state_dict(),
            "graph": views.graph.identity(),
            "seed": seed,
            "setup": views.setup,
            "ways": views.ways,
            "classes": views.classes,
        },
        notes=(*views.graph.notes, *said(views)),
        prefetch=config.prefetch,
    )


def said(views: FewShotViews) -> list[str]:
    """What episodes are drawn from."""
    kind = "labels" if views.setup == "disjoint" else "graphs"
    counts = ", ".join(f"{len(views.parts[split])} {split}" for split in ("train", "val", "test"))
    notes = [f"{views.setup}: {counts} {kind}; {views.ways} ways", *views.notes]
    for split, pools in views.pools.items():
        notes += [f"{split}: {note}" for note in pools.notes]
    if views.graph.adj.values is not None:
        notes.append("edge weights are not used: subgraphs weigh edges by degrees")
    return notes


def how(config: GMetaConfig) -> How:
    """The settings of the objective."""
    return How(
        loss="ce" if config.method == "maml" else "proto",
        adapt={"anil": "head", "protonet": "none"}.get(config.method, "all"),  # type: ignore[arg-type]
        order=config.order,
        prototypes=config.prototypes,
        space=config.space or "hidden",
        rate=config.inner_lr,
    )


def inner_steps(config: GMetaConfig, *, test: bool = False) -> int:
    """K."""
    return 0 if config.method == "protonet" else config.test_steps if test else config.inner_steps


def rules(config: GMetaConfig, *, hide: bool = False) -> Rules:
    """What a subgraph is; with ``hide`` never with a pair's own edge, whatever the run's."""
    whole = config.reach == "graph"
    return Rules(
        -1 if whole else config.hops, -1 if whole else config.cap, config.depth, config.self_loops, hide or config.hide
    )


def maker(
    config: GMetaConfig, views: FewShotViews, seed: int, *, adapts: bool | None = None, hide: bool = False
) -> Maker:
    """What makes batches of points.

    Args:
        adapts: whether the first layer does; by default as the method has it.
        hide: see ``rules``.
    """
    through = config.method in ("gmeta", "maml", "finetune", "no_finetune") if adapts is None else adapts
    if config.method == "tlp":
        return _bare
    usual: dict[str, Any] = {"seed": seed, "resample": config.resample}
    if config.model != "gcn":
        return WholeSubgraphs(views.graph.adj, views.x, rules(config, hide=hide), **usual)
    return Subgraphs(
        views.graph.adj, views.x, rules(config, hide=hide), adapts=through, threads=torch.get_num_threads(), **usual
    )  # fmt: skip


def _bare(support: Tensor, query: Tensor, epoch: int = 0) -> tuple[None, None, Inputs]:
    """Points without subgraphs."""
    return None, None, Inputs(None)


def network(config: GMetaConfig, views: FewShotViews, outputs: int | None = None) -> EgoGCN | StockEgo:
    """The network of a configuration, its weights drawn from torch's generator."""
    features = 1 if views.x is None else views.x.shape[1]
    outputs = outputs or views.ways
    net: EgoGCN | StockEgo
    if config.model == "gcn":
        net = EgoGCN(features, config.hidden, config.depth, outputs, centres=views.centres)
    else:
        net = StockEgo.of(config.model, features, config.hidden, outputs, config.depth, centres=views.centres)
    if config.learn_rates:
        net.rates = Rates(net.names("head" if config.method == "anil" else "all"), config.inner_lr)
    return net


def objective(config: GMetaConfig, net: EgoGCN | StockEgo) -> Meta:
    """What a meta-batch is learned by."""
    return Meta(net, how(config), steps=inner_steps(config))


def answering(config: GMetaConfig, net: Any) -> Answer:
    """Answers before and after adaptation, under the weights that the network has then."""
    meta, steps = objective(config, net), inner_steps(config, test=True)

    def answer(batch: TaskBatch) -> tuple[Tensor | None, Tensor]:
        net.eval()
        said = list(meta.answers(dict(net.named_parameters()), batch, steps=steps, at={0, steps}))
        return said[0].logits, said[-1].logits

    return answer


def scorer(config: GMetaConfig, views: FewShotViews, seed: int, answer: Answer, device: torch.device) -> EpisodeScores:
    """What scores validation and test."""
    return EpisodeScores(
        maker(config, views, seed), views.pools, answer, shots=config.shots, queries=config.queries,
        tasks=config.eval_tasks, per_step=config.tasks_per_step, seed=seed, device=device,
    )  # fmt: skip
