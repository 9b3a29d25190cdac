"""G-Meta: few-shot learning on graphs from local subgraphs (Huang, Zitnik; NeurIPS 2020), and what it is compared with.

| in the paper                                    | here                                     |
|-------------------------------------------------|------------------------------------------|
| local subgraph of a node, of a pair (section 4) | ``kernels.ego``, ``batches.subgraphs``   |
| episodes: N ways, K shots; three setups         | ``batches.episodes``, ``fewshot_views``  |
| GCN on the subgraph, the centre's row           | ``nn.ego``                               |
| prototypes and distances                        | ``objectives.meta``                      |
| MAML's inner and outer loop (appendix E)        | ``objectives.adapt``, the loop           |

``--variant author`` is the released code's step: first order, prototypes one step stale in the space of logits, the
same tasks in every epoch, every point's subgraph drawn once, a pair's own edge left in its subgraph. The default
resamples tasks and subgraphs, hides a support pair's own edge (a query's is never there), and makes prototypes under
the weights that the queries meet; ``docs/gmeta.md`` has the difference in figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from graphscale.config import TrainConfig
from graphscale.errors import InputError

if TYPE_CHECKING:
    from graphscale.adapting import Adapted
    from graphscale.fewshot_views import FewShotViews
    from graphscale.run import Run, Scores

# What the released code does, where the default does something else.
AUTHOR: Mapping[str, Any] = {
    "order": "first", "prototypes": "stale", "space": "logit", "fixed": True, "resample": False, "hide": False,
}  # fmt: skip
# Searched by ``graphscale tune gmeta`` where nothing else is asked: the authors chose theirs at random, too.
SEARCH = {
    "lr": "1e-4..1e-2:log", "inner_lr": "1e-4..1e-1:log", "hidden": "32,64,128,256", "inner_steps": "2,5,10",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GMetaConfig(TrainConfig):
    """Few-shot learning of nodes and links from local subgraphs."""

    data: str = "syn-cycle"
    """syn-cycle, syn-ba, syn-cycle:10, planted-graphs:G:N; a graph; a folder of .npz; TUDataset:NAME; a store."""
    setup: Literal["auto", "disjoint", "shared", "links"] = "auto"
    """New labels; new graphs of known labels; links on new graphs. auto: one graph is disjoint, several are shared."""
    method: Literal["gmeta", "anil", "protonet", "maml", "finetune", "no_finetune", "knn", "tlp"] = "gmeta"
    """gmeta, or what it is compared with: see docs/gmeta.md."""
    variant: Literal["house", "author"] = "house"
    """author sets order, prototypes, space, fixed, resample and hide as released, whatever else they are by default."""
    scaling: Literal["none", "standard", "row"] = "none"
    """Features: as they are, standardised on the training graphs (for new labels: on all), or rows that sum to 1."""
    model: str = "gcn"
    """gcn, pruned to what reaches the centre; or your module:callable(in_channels, out_channels) on whole subgraphs."""
    epochs: int = 10
    """Passes over --tasks episodes."""
    lr: float = 1e-3
    """Learning rate of Adam in the outer loop."""
    ways: int = 3
    """Classes an episode; shared labels take all where there are no more, links two."""
    shots: int = 3
    """Labelled points a class."""
    queries: int = 24
    """Points a class to foretell; a class of fewer gives what it has."""
    fold: int = 0
    """Which labels (or graphs) validate and test: they move on by --test-labels (--test-graphs) a fold."""
    val_labels: int | None = None
    """Labels of validation, for disjoint labels; by default a quarter, and at least --ways."""
    test_labels: int | None = None
    """Labels of the test; likewise."""
    val_graphs: int | None = None
    """Graphs of validation, for shared labels and links; by default a tenth, and at least one."""
    test_graphs: int | None = None
    """Graphs of the test; likewise."""
    test_graph: str | None = None
    """Name of the one graph of the test, in place of --test-graphs; --fold then moves validation."""
    support_share: float = 0.3
    """Share of a graph's edges that are its message graph and support; the others are asked."""
    features: Literal["auto", "own", "degree"] = "auto"
    """The data's, or a node's degree within the subgraph (the authors' synthetic graphs); auto: own where there are."""
    hops: int = 2
    """h: how far a subgraph reaches."""
    layers: int | None = None
    """L: graph convolutions; by default as many as hops."""
    cap: int = 1000
    """Most nodes of a subgraph; more are cut to this many at random, and the centres come on top where not drawn."""
    reach: Literal["ego", "graph"] = "ego"
    """graph: the whole graph in place of subgraphs (by frontiers too, without a cap)."""
    self_loops: bool = False
    """A node takes itself in, too; the authors' does not."""
    hide: bool = True
    """Leave a pair's own edge out of its subgraph: a query's is never in the message graph."""
    hidden: int = 128
    """H: width."""
    inner_lr: float = 0.01
    """alpha of the inner loop."""
    learn_rates: bool = False
    """Learn alpha, one a weight."""
    inner_steps: int = 10
    """K of training."""
    test_steps: int = 20
    """K of validation and test, and of adapt."""
    order: Literal["first", "second"] = "first"
    """Whether inner gradients are constants of the outer one."""
    prototypes: Literal["fresh", "stale"] = "fresh"
    """Made under the weights that queries meet, or under those before the last inner step."""
    space: Literal["hidden", "logit"] | None = None
    """Where prototypes live: the last layer, or what the head gives (author, anil); by default the last layer."""
    tasks: int = 1000
    """Episodes an epoch."""
    tasks_per_step: int = 32
    """Episodes whose gradients a step sums, a process."""
    fixed: bool = False
    """The same episodes in every epoch."""
    resample: bool = True
    """Draw the nodes of capped subgraphs anew every epoch."""
    eval_tasks: int = 100
    """Episodes of validation, and of the test: always the same for a seed."""
    neighbours: int = 1
    """k of --method knn."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        if self.variant == "author":
            for name, value in AUTHOR.items():
                if getattr(self, name) not in (value, type(self).__dataclass_fields__[name].default):
                    raise InputError(
                        f"--{name} {getattr(self, name)} is not what --variant author does, which is {value}. Leave out"
                        " one of the two."
                    )
                object.__setattr__(self, name, value)
        self.demand(
            ("ways", "shots", "queries", "hops", "layers", "cap", "hidden", "inner_lr", "tasks", "tasks_per_step",
             "eval_tasks", "neighbours", "val_labels", "test_labels", "val_graphs", "test_graphs"),
            lambda v: v > 0, "must be above 0",
        )  # fmt: skip
        self.demand(("cap",), lambda v: v < 1 << 31, "must be below 2^31: more than a graph has is as good as all")
        if self.test_graph is not None and self.test_graphs is not None:
            raise InputError("--test-graph names the graph of the test, --test-graphs counts them. Leave one out.")
        self.demand(("fold", "inner_steps", "test_steps"), lambda v: v >= 0, "cannot be negative")
        self.demand(("ways",), lambda v: v > 1, "must be above 1: one class foretells nothing")
        self.demand(("support_share",), lambda v: 0 < v < 1, "must lie in (0, 1)")
        if self.split:
            raise InputError("--split is of graphs with several splits of nodes. Use --fold.")
        if self.method in ("gmeta", "anil", "maml") and not (self.inner_steps and self.test_steps):
            raise InputError(
                f"--method {self.method} adapts, and 0 inner steps adapt nothing. Give --inner-steps and --test-steps"
                " above 0, or --method protonet."
            )
        if self.space is None:
            object.__setattr__(self, "space", "logit" if self.method == "anil" else "hidden")
        if self.space == "hidden" and self.method == "anil":
            raise InputError(
                "anil adapts the head, which --space hidden does not use. Choose --space logit, or protonet."
            )
        if self.reach == "graph" and self.model != "gcn":
            raise InputError(f"--reach graph is of --model gcn; {self.model} is given whole subgraphs. Leave one out.")
        if self.precision != "fp32":
            raise InputError("gmeta trains in float32: inner steps are small. Leave --precision out.")

    @classmethod
    def protocol(cls) -> tuple[str, ...]:
        """Episodes, splits and what is known of a graph are of the protocol too."""
        episodes = ("setup", "ways", "shots", "queries", "fold", "eval_tasks", "support_share", "hide")
        splits = ("val_labels", "test_labels", "val_graphs", "test_graphs", "test_graph")
        return (*TrainConfig.protocol(), *episodes, *splits)

    @property
    def meta(self) -> bool:
        """Whether the method learns from episodes; else it is a baseline."""
        return self.method in ("gmeta", "anil", "protonet", "maml")

    @property
    def depth(self) -> int:
        """L."""
        return self.layers or self.hops

    @classmethod
    def refuses(cls) -> dict[str, str]:
        """Sub-networks and histories, with the reason."""
        cut = (
            "gmeta cannot be cut into sub-networks: an inner step moves all weights of a task, those of other"
            " sub-networks too. Its networks are narrow; use replicas (--nproc)."
        )
        histories = (
            "gmeta has no use for histories: a subgraph is small, and an inner step changes every row that a history"
            " would hold. Lower --cap for memory."
        )
        return {**dict.fromkeys(("num_subnets", "every", "local_sgd"), cut), "histories": histories}

    def composition(self) -> str:
        """The run as a sentence of its parts."""
        seen = f"graph, {self.depth} layers" if self.reach == "graph" else f"ego({self.hops}, cap {self.cap})"
        tasks = f"tasks({seen}, {self.ways} ways, {self.shots} shots) x {self.tasks_per_step}"
        if not self.meta:
            return f"{seen} . {self.model} . {self.method} . replicas"
        inner = {"gmeta": "all", "anil": "head", "maml": "all"}.get(self.method)
        loss = "ce" if self.method == "maml" else f"proto({self.space}, {self.prototypes})"
        how = "" if inner is None else f"maml({inner}, {self.order} order, {self.inner_steps} x {self.inner_lr}) of "
        return f"{tasks} . {self.model} . {how}{loss} . replicas"


Config = GMetaConfig


def read(config: GMetaConfig) -> FewShotViews:
    """The graphs and what episodes are drawn from, once for all seeds."""
    from graphscale import fewshot_views

    return fewshot_views.read(config)


def build(config: GMetaConfig, views: FewShotViews, seed: int) -> Run:
    """The composed run of one seed."""
    from graphscale import fewshot_runs

    return fewshot_runs.build(config, views, seed)


def scores(config: GMetaConfig, state: Mapping[str, Any]) -> Scores:
    """The scores of a checkpoint."""
    from graphscale import fewshot_runs

    return fewshot_runs.scores(config, state)


def restored(config: GMetaConfig, state: Mapping[str, Any]) -> tuple[Any, None, FewShotViews]:
    """The network of a checkpoint, and the graphs."""
    from graphscale import fewshot_runs

    net, views = fewshot_runs.restored(config, state)
    return net, None, views


def adapted(
    config: GMetaConfig,
    state: Mapping[str, Any],
    support: Path,
    query: Path | None,
    to: Path,
    *,
    steps: int | None = None,
) -> Adapted:
    """Adapt a checkpoint to labels never seen."""
    from graphscale import adapting

    return adapting.adapted(config, state, support, query, to, steps=steps)


def predicted(config: GMetaConfig, state: Mapping[str, Any], *, hidden: bool) -> NoReturn:
    """Refuse: without labels there is nothing to predict.

    Raises:
        InputError: always.
    """
    raise InputError(
        "predict knows no labels but those of training, and gmeta is for others. Use graphscale adapt RUN --support"
        " LABELLED.csv --query NODES.csv --to FILE."
    )
