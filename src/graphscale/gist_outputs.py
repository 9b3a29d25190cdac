"""What sub-networks come to, the full width: put together or by columns, while they train and from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from graphscale import metrics, nodes
from graphscale.evaluation import Exact
from graphscale.graph import Graph
from graphscale.nn import exact
from graphscale.nn.exact import Outputs
from graphscale.nn.stock import Feed
from graphscale.run import Scores, device_of
from graphscale.sync.subnets import Subnets
from graphscale.width import store
from graphscale.width.calibrate import calibrate
from graphscale.width.columns import Columns
from graphscale.width.spec import Build, on_meta

if TYPE_CHECKING:
    from graphscale.data.transform import Views
    from graphscale.recipes.gist import GISTConfig

Builder = Callable[["GISTConfig", Graph], Build]
Ends = Callable[[bool], dict[str, float]]


def fed(config: GISTConfig, module: nn.Module, views: Views) -> tuple[Feed, list[str]]:
    """How a module is called, and what is to be said of that."""
    return Feed.of(module, views.whole, bf16=config.precision == "bf16", faster=config.accelerate)


def whole(
    config: GISTConfig, sync: Subnets, model: nn.Module, feed: Feed, views: Views
) -> tuple[Callable[[], Scores], Ends]:
    """(The scores, the end of an epoch) of a model that the first rank puts together."""
    device = device_of(config.device)
    # Statistics of BatchNorm are those of narrow networks, but for one sub-network or copies of the whole.
    narrow = config.num_subnets > 1 and not config.local_sgd and sync.world.leads
    again = partial(calibrate, model, feed, views.seen, device) if narrow else None
    ends = partial(_gather, sync, model.state_dict(), again)
    return Exact(_scaled(config, model), feed, views.whole, device), ends


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


class ByColumns:
    """The end of an epoch where no rank holds the model: logits by columns, where it is scored."""

    def __init__(self, config: GISTConfig, sync: Subnets, make: Build, views: Views) -> None:
        measured = views.seen if config.num_subnets > 1 else None
        self.columns = Columns(make, sync.shards, views.whole, measured=measured)
        self.sync, self.graph, self.scale = sync, views.whole, _scale(config)
        self._logits: Tensor

    def __call__(self, scored: bool) -> dict[str, float]:
        """Score the full width as it is, where ``scored``; collective."""
        if scored:
            self.sync.merge()
            self._logits = self.columns.outputs().logits * self.scale
        return self.sync.measures()

    def scores(self) -> Scores:
        """Metrics by split of the last logits."""
        return _scores(self._logits, self.graph)


def _scores(logits: Tensor, graph: Graph) -> Scores:
    return {split: metrics.score(logits[graph.masks[split]], graph.y[graph.masks[split]]) for split in ("val", "test")}


def _scale(config: GISTConfig) -> float:
    return 1.0 / config.num_subnets if config.logit_scale == "1/m" else 1.0


def _scaled(config: GISTConfig, model: nn.Module) -> nn.Module:
    """The same model, whose logits are divided by m where that is asked for."""
    if config.logit_scale == "1/m":
        model.register_forward_hook(partial(_divided, _scale(config)))
    return model


def _divided(scale: float, model: nn.Module, arguments: Any, logits: Tensor) -> Tensor:
    return logits * scale


def scores(config: GISTConfig, state: Mapping[str, Any], builder: Builder) -> Scores:
    """Exact scores of a checkpoint on ``config.data``, by columns where it was trained so."""
    found, graph = predicted(config, state, builder, hidden=False)
    return _scores(found.logits, graph)


def predicted(
    config: GISTConfig, state: Mapping[str, Any], builder: Builder, *, hidden: bool
) -> tuple[Outputs, Graph]:  # fmt: skip
    """(What a checkpoint says of every node, the graph), by columns where it was trained so.

    Raises:
        InputError: as ``restored``.
    """
    model, feed, views = restored(config, state, builder)
    if config.evaluate == "whole":
        device = device_of(config.device)
        return exact.outputs(model.to(device), feed, views.whole, device, hidden=hidden), views.whole
    shards = store.uncut(model.state_dict(), config.widths())
    found = Columns(builder(config, views.whole), shards, views.whole).outputs(hidden=hidden)
    return found._replace(logits=found.logits * _scale(config)), views.whole


def restored(config: GISTConfig, state: Mapping[str, Any], builder: Builder) -> tuple[nn.Module, Feed, Views]:
    """The full-width model of a checkpoint, how it is fed, and the data as it sees it.

    Weights that no process held while it trained are pages of files here, which the system may drop.

    Raises:
        InputError: where the checkpoint does not hold the whole model, or one that fits.
    """
    views = nodes.read(config, state)
    make, apart = builder(config, views.whole), config.evaluate == "columns"
    model = on_meta(make, config.widths()) if apart else make(config.widths())
    nodes.load(model, store.weights(state), config, assign=apart)
    feed, _ = fed(config, model, views)
    return _scaled(config, model), feed, views
