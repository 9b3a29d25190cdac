"""GIST (Wolfe, Yang, Chowdhury, Dun, Bayer, Segarra, Kyrillidis; arXiv:2102.10424): width beyond a machine.

| in the paper                                     | here                                  |
|--------------------------------------------------|---------------------------------------|
| subGCNs(m): hidden units dealt out, a layer each | ``width.plan``                        |
| a sub-GCN, a real and narrower network           | ``width.spec``, ``width.inference``   |
| subTrain: zeta local steps                       | ``sync.subnets``, ``--every``         |
| subAgg, shared parameters averaged               | ``width.shards``                      |
| Cluster-GCN inside a sub-GCN                     | ``seeing``                            |
| ultra-wide models                                | ``--evaluate columns``, ``width.columns`` |

Neither the input nor the classes are cut: a sub-network that sees a part of the features learns little (that is the
negative control of ``benchmarks/gist.py``), and whole logits leave the loss as it is. A round trains 1/m of every
hidden matrix; what no round has reached is at its random start when the model is scored, so coverage is said
before training. Logits of the full width are the sum of m networks' logits, each trained to be complete: scores
that are no ranking want ``--logit-scale 1/m``. The released code trains each of the m sub-networks for epochs / m.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from graphscale.config import NodeConfig
from graphscale.errors import InputError
from graphscale.node_runs import read as read
from graphscale.seeing import SeenConfig

if TYPE_CHECKING:
    from torch import nn

    from graphscale.data.transform import Views
    from graphscale.graph import Graph
    from graphscale.nn.exact import Outputs
    from graphscale.nn.stock import Feed
    from graphscale.run import Run, Scores


@dataclass(frozen=True, kw_only=True)
class GISTConfig(SeenConfig):
    """GIST: m disjoint sub-networks of a wide network, trained apart for a while, put back, and dealt anew."""

    model: str = "sage"
    """gcn, sage, gat or gin; or your module:callable(in_channels, out_channels, dims), with --dims."""
    dims: str | None = None
    """Hidden dimensions of your own model and their full widths: "h1=256,h2=256"."""
    num_subnets: int = 4
    """m: sub-networks; any number, whatever the number of processes. 1 trains the whole width."""
    every: int = 20
    """zeta: steps that sub-networks train apart."""
    cut: Literal["heads", "channels"] = "heads"
    """gat: deal out whole heads, or channels of every head."""
    carry: bool = False
    """Keep Adam's moments from round to round; else every round begins with fresh ones, as in the released code."""
    local_sgd: bool = False
    """Every process trains the whole network on batches of its own, and all are averaged each round: local SGD."""
    replicas: int = 1
    """Processes that train the same sub-networks, on different batches."""
    logit_scale: Literal["none", "1/m"] = "none"
    """Divide the full width's logits, m networks' summed, by m when it is scored (and the averaged bias with them)."""
    lr_drops: str = ""
    """Shares of the steps after which the learning rate is divided by 10: "0.5,0.75"."""
    evaluate: Literal["whole", "columns"] = "whole"
    """Score the full width on the first process; or a layer's columns on each, so that none ever holds the model."""

    def __post_init__(self) -> None:
        SeenConfig.__post_init__(self)
        self.demand(("num_subnets", "every", "replicas"), lambda v: v > 0, "must be above 0")
        self.drops(1)
        if self.nproc > 1 and self.nproc % self.replicas:  # started by others, processes are counted when they meet
            raise InputError(
                f"--nproc {self.nproc} processes cannot be parted into groups of --replicas {self.replicas}. Make one a"
                " multiple of the other."
            )
        if self.batches == "full" and (self.local_sgd or self.replicas > 1):
            raise InputError(
                "--batches full has one batch an epoch, so that processes which should see others would see none. Leave"
                " out --local-sgd and --replicas, or choose --batches clusters."
            )
        if self.precompute:
            raise InputError("--precompute belongs to cluster_gcn. Leave it out.")
        if (":" in self.model) != (self.dims is not None):
            raise InputError(
                "--dims names the hidden dimensions of your own module:callable, and only those: give both or neither."
            )
        if self.dims is not None:
            self.widths()
        if self.local_sgd and self.evaluate == "columns":
            raise InputError("--local-sgd trains the whole width on every process: score it whole (--evaluate whole).")

    def drops(self, steps: int) -> tuple[int, ...]:
        """The steps at which the learning rate drops, of ``steps`` in all.

        Raises:
            InputError: where ``lr_drops`` is no list of shares.
        """
        try:
            shares = [float(part) for part in self.lr_drops.split(",")] if self.lr_drops else []
        except ValueError:
            shares = [-1.0]
        if any(not 0 < share < 1 for share in shares) or len(set(shares)) < len(shares):
            raise InputError(
                f"--lr-drops {self.lr_drops}: give different shares of the training between 0 and 1, such as 0.5,0.75."
            )
        return tuple(max(1, round(share * steps)) for share in shares)

    def widths(self) -> dict[str, int]:
        """The hidden dimensions of the model and their full widths.

        Raises:
            InputError: where they cannot be read, or the model has none.
        """
        if self.dims is None:
            from graphscale.nn import wide

            return wide.dims_of(
                self.model, hidden=self.hidden, num_layers=self.layers, heads=self.heads, by_heads=self.cut == "heads"
            )
        found = {}
        for item in self.dims.split(","):
            name, _, number = item.partition("=")
            number = number.strip()
            sound = name.strip().isidentifier() and number.isascii() and number.isdigit() and int(number) > 0
            if not sound or name.strip() in found:
                raise InputError(
                    f"--dims {self.dims}: '{item}' is no name=width, or the name is there twice. Give a list such as"
                    " h1=256,h2=256."
                )
            found[name.strip()] = int(number)
        return found

    def steps_a_save(self) -> int | None:
        """Every round where processes may be lost: then no more than a round is."""
        if self.lives() == 0:
            return self.save_steps
        return min(self.every, self.save_steps or self.every)

    @property
    def elastic(self) -> bool:
        """Any number of processes may go on, but with local SGD, which has a network a process."""
        return not self.local_sgd

    def continues(self) -> tuple[str, ...]:
        """Drops of the learning rate are shares of the epochs: with others they would lie elsewhere."""
        names = SeenConfig.continues(self)
        return tuple(name for name in names if name != "epochs") if self.lr_drops else names

    def composition(self) -> str:
        """The run as a sentence of its parts."""
        how = "local SGD" if self.local_sgd else "subnets"
        synced = f"{how}(m={self.num_subnets}, every={self.every}, replicas={self.replicas})"
        return f"{self.seen()} . plain({self.model}) . node_loss . {synced}"


Config = GISTConfig
# What ``graphscale tune`` draws unless it is told.
SEARCH = {"lr": "1e-3..3e-2:log", "every": "10,20,50", "dropout": "0..0.6:0.1"}


def builder(config: GISTConfig, graph: Graph) -> Callable[[dict[str, int]], nn.Module]:
    """``build(dims)`` of the configured model.

    Raises:
        InputError: where a callable cannot be found or gives no module.
    """
    from graphscale.nn import named, wide

    if ":" in config.model:
        make = named.found(config.model)

        def custom(dims: dict[str, int]) -> nn.Module:
            return named.dropping(make(graph.num_features, graph.num_classes, dims), config.input_dropout)

        custom.layouts = getattr(make, "layouts", None)  # type: ignore[attr-defined]
        return custom

    def build(dims: dict[str, int]) -> nn.Module:
        model = wide.stack(
            config.model, dims, graph.num_features, graph.num_classes, hidden=config.hidden, heads=config.heads,
            dropout=config.dropout, layer_norm=config.layer_norm, batch_norm=config.batch_norm,
        )  # fmt: skip
        return named.dropping(model, config.input_dropout)

    return build


def build(config: GISTConfig, views: Views, seed: int) -> Run:
    """The composed run of one seed."""
    from graphscale import gist_runs

    return gist_runs.build(config, views, seed, builder(config, views.seen))


def restored(config: NodeConfig, state: Mapping[str, Any]) -> tuple[nn.Module, Feed | None, Views]:
    """The full-width model of a checkpoint, how it is fed, and ``config.data`` as it sees it."""
    from graphscale import gist_outputs

    assert isinstance(config, GISTConfig)
    return gist_outputs.restored(config, state, builder)


def predicted(config: NodeConfig, state: Mapping[str, Any], *, hidden: bool) -> tuple[Outputs, Graph]:
    """What a checkpoint says of every node of ``config.data``, and that graph."""
    from graphscale import gist_outputs

    assert isinstance(config, GISTConfig)
    return gist_outputs.predicted(config, state, builder, hidden=hidden)


def scores(config: NodeConfig, state: Mapping[str, Any]) -> Scores:
    """Exact scores of a checkpoint on ``config.data``."""
    from graphscale import gist_outputs

    assert isinstance(config, GISTConfig)
    return gist_outputs.scores(config, state, builder)
