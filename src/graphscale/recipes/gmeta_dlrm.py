"""G-Meta for recommenders (Xiao, Shao, Zhou et al.; CIKM 2023): meta-learned scores over sharded rows.

| in the paper                                            | here                                               |
|---------------------------------------------------------|----------------------------------------------------|
| Meta-IO: records by task, read in order                 | ``store.tasks``, ``task_preparing``                |
| GroupBatch, whole tasks a worker                        | ``batches.task_reader``                            |
| embeddings bucketised by rows over all workers          | ``tables.embedding``                               |
| AlltoAll of rows, support and query prefetched together | ``Embedding.read``, once a step                    |
| inner loop (MAML), local to a worker                    | ``objectives.rating``, ``objectives.adapt``        |
| outer gradients by AllReduce in place of Gather         | ``sync.replicas``: buckets that overlap backward   |
| gradients of rows to their owners                       | ``Embedding.write``                                |
| meta-DLRM (arXiv 2401.04338)                            | ``nn.dlrm``                                        |

No double backward crosses an exchange: second-order terms lie between the fetched rows and the loss, on one rank. The
paper's text was not at hand: what is not in its abstract follows from the algorithm and is proven by tests, not by its
tables. ``--model melu --adapt decision --order first`` is MeLU (Lee et al., KDD 2019); ``--adapt none`` trains jointly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from graphscale.config import CONTINUES, TrainConfig
from graphscale.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from graphscale.adapting import Adapted
    from graphscale.objectives.rating import Meta
    from graphscale.rating_runs import RatingViews
    from graphscale.run import Run, Scores
    from graphscale.tables.embedding import Embedding


@dataclass(frozen=True, kw_only=True)
class GMetaDLRMConfig(TrainConfig):
    """Recommenders that adapt to each user or scene from a few records, their rows over processes."""

    data: str = "planted-tasks:400"
    """A store of prepare-tasks, MovieLens' folder (--split seeds it), planted-tasks:TASKS, planted-clicks:."""
    epochs: int = 20
    """Passes over the training tasks."""
    lr: float = 1e-3
    """Outer learning rate of the dense part, by Adam."""
    model: Literal["dlrm", "melu", "wide_deep", "bias"] = "dlrm"
    """DLRM; MeLU's layers on concatenated rows; Wide & Deep; or a number an id and an offset."""
    dim: int = 16
    """Numbers of a row (Wide & Deep has one more)."""
    bottom: str = ""
    """Widths of DLRM's bottom MLP before the last, such as 64,32."""
    top: str = "64,64"
    """Widths of the hidden layers above the rows."""
    loss: Literal["mse", "bce"] = "mse"
    """Of ratings, or of clicks."""
    adapt: Literal["none", "head", "decision", "dense", "all", "rows"] = "dense"
    """What adapts: nothing (joint training), the last layer, MeLU's layers, all dense ones, rows too, rows alone."""
    order: Literal["first", "second"] = "second"
    """Whether the inner loop's gradients are differentiated."""
    inner_lr: float = 0.01
    """Learning rate of the inner loop."""
    inner_steps: int = 5
    """Steps of the inner loop, in training and in use."""
    rates: Literal["no", "tensor", "number"] = "no"
    """Whether inner rates are learned: one a tensor, or one a number (Meta-SGD); --inner-lr is where they begin."""
    shrink: float = 0.0
    """Records that a support is taken to have besides its own: small ones then move weights less."""
    shots: int | None = None
    """Most records of a support that are shown, the last ones; by default all."""
    redraw: float = 0.0
    """Share of a training task's records drawn as queries anew each epoch; 0 keeps the store's queries."""
    offset_lr: float | None = None
    """Inner learning rate of the last layer's bias, which is a task's offset; by default --inner-lr."""
    tasks_per_step: int = 32
    """Tasks a step, of all processes together."""
    row_optimiser: Literal["adagrad", "sgd", "adam"] = "adagrad"
    """Row-wise Adagrad, SGD, or Adam whose moments rest where a step touches no row."""
    row_lr: float = 0.05
    """Learning rate of rows."""
    row_decay: float = 0.0
    """L2 penalty on the rows that a step touches."""
    row_scale: float = 0.05
    """Rows begin uniform in (-row_scale, row_scale)."""
    rows: Literal["ram", "disk"] = "ram"
    """Where rows lie; on disk they may be larger than RAM."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        if (Path(self.data) / "manifest.json").is_file():  # a run is evaluated from other folders too
            object.__setattr__(self, "data", str(Path(self.data).resolve()))
        self.demand(("dim", "inner_lr", "inner_steps", "tasks_per_step", "row_lr", "shots", "offset_lr"),
                    lambda v: v > 0, "must be above 0")  # fmt: skip
        self.demand(("row_lr", "inner_lr", "row_decay", "row_scale", "shrink"), lambda v: 0 <= v < float("inf"),
                    "must be finite and not negative")  # fmt: skip
        self.demand(("redraw",), lambda v: 0 <= v < 1, "must lie in [0, 1)")
        if self.undirected or self.scaling != "none":
            raise InputError("--undirected and --scaling are of static graphs. Leave them out.")
        if self.precision != "fp32":
            raise InputError("gmeta_dlrm computes in float32. Leave --precision out.")
        if self.adapt == "none" and self.rates != "no":
            raise InputError("--rates are of the inner loop, and --adapt none has none. Leave one out.")
        if self.model == "bias" and self.adapt in ("decision", "dense"):
            object.__setattr__(self, "adapt", "head")  # it has one layer
        self.widths("bottom")
        self.widths("top")

    def widths(self, name: str) -> tuple[int, ...]:
        """``bottom`` or ``top`` as numbers.

        Raises:
            InputError: where it is no list of numbers above 0.
        """
        text = getattr(self, name)
        try:
            numbers = tuple(int(part) for part in text.split(",")) if text else ()
        except ValueError:
            numbers = (0,)
        if min(numbers, default=1) < 1:
            raise InputError(f"--{name} {text}: numbers above 0 are needed, such as 64,64. Change it.")
        return numbers

    @property
    def elastic(self) -> bool:
        """Any number of processes goes on: which tasks a step has does not depend on it."""
        return True

    def continues(self) -> tuple[str, ...]:
        """Rows may move between RAM and disk."""
        return (*CONTINUES, "rows")

    @classmethod
    def refuses(cls) -> dict[str, str]:
        """Sub-networks, with the reason."""
        reason = "gmeta_dlrm shares out rows, not columns: it is not cut into sub-networks. Use --nproc."
        return dict.fromkeys(("num_subnets", "every", "local_sgd"), reason)

    def composition(self) -> str:
        """The run as a sentence of its parts."""
        inner = f"maml({self.loss}, {self.adapt}, {self.inner_steps} steps, {self.order} order)"
        loss = self.loss if self.adapt == "none" else inner
        return (
            f"tasks({self.tasks_per_step}) . {self.model} + embedding({self.row_optimiser}, {self.rows}) . {loss}"
            " . replicas + sharded table"
        )


Config = GMetaDLRMConfig


def read(config: GMetaDLRMConfig) -> RatingViews:
    """The tasks, once for all seeds."""
    from graphscale import rating_runs

    return rating_runs.read(config)


def build(config: GMetaDLRMConfig, views: RatingViews, seed: int) -> Run:
    """The composed run of one seed."""
    from graphscale import rating_runs

    return rating_runs.build(config, views, seed)


def scores(config: GMetaDLRMConfig, state: Mapping[str, Any]) -> Scores:
    """The scores of a checkpoint."""
    from graphscale import rating_runs

    return rating_runs.scores(config, state)


def restored(config: GMetaDLRMConfig, state: Mapping[str, Any]) -> tuple[Meta, Embedding, RatingViews]:
    """The network of a checkpoint, its rows, and the tasks."""
    from graphscale import rating_runs

    objective, table, views = rating_runs.restored(config, state)
    return objective.model, table, views


def weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Dense weights of a checkpoint, and ``embedding.rows`` of all tables, one after the other."""
    from graphscale import rating_runs

    return rating_runs.weights(state)


def adapted(
    config: GMetaDLRMConfig, state: Mapping[str, Any], support: Path, query: Path | None, to: Path, *,
    steps: int | None = None,
) -> Adapted:  # fmt: skip
    """Score records of users that training has not seen, after adaptation to a log of theirs.

    Raises:
        InputError: where a log cannot be used, or steps are asked: the run has its own.
    """
    from graphscale import rating_adapt
    from graphscale.adapting import Adapted

    if steps is not None:
        raise InputError("--steps: gmeta_dlrm adapts by as many steps as in training. Leave it out.")
    return Adapted((), rating_adapt.adapted_predictions(config, state, support, query, to), (), to)


def predicted(config: GMetaDLRMConfig, state: Mapping[str, Any], *, hidden: bool) -> NoReturn:
    """Refuse: there is no prediction of a user without records.

    Raises:
        InputError: always.
    """
    raise InputError(
        "predict writes a row a node, and this run scores records of tasks. Use graphscale.users(RUN) in Python:"
        " observe(...) a support, score(...) what is asked."
    )
