"""Few-shot runs by method, and what is made of their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphscale import fewshot_baselines, fewshot_parts, rng
from graphscale.batches.tasks import TaskBatches
from graphscale.data.transform import Scaler
from graphscale.errors import InputError
from graphscale.fewshot_views import FewShotViews, known, read
from graphscale.run import Run, Scores, device_of
from graphscale.world import World

if TYPE_CHECKING:
    from graphscale.recipes.gmeta import GMetaConfig


def build(config: GMetaConfig, views: FewShotViews, seed: int) -> Run:
    """The composed run of one seed."""
    world, device = World.current(), device_of(config.device)
    if not config.meta:
        return fewshot_baselines.build(config, views, seed)
    with rng.isolated(rng.derive(rng.INIT, seed)):
        net = fewshot_parts.network(config, views).to(device)
    meta = fewshot_parts.objective(config, net)
    made = fewshot_parts.maker(config, views, seed)
    batches = TaskBatches(
        made, views.pools["train"], shots=config.shots, queries=config.queries, tasks=config.tasks,
        per_step=config.tasks_per_step, fixed=config.fixed, seed=seed, world=world,
    )  # fmt: skip
    return fewshot_parts.composed(config, views, seed, net, meta, batches, fewshot_parts.answering(config, net))


def restored(config: GMetaConfig, state: Mapping[str, Any], *, episodes: bool = True) -> tuple[Any, FewShotViews]:
    """The network of a checkpoint, and the graphs.

    Args:
        episodes: whether splits and episodes are made of them.

    Raises:
        InputError: where the data's features are not those of training.
    """
    scaler = Scaler.from_state(config.scaling, state["scaler"])
    views = read(config, scaler) if episodes else known(config, state)
    net: Any = fewshot_parts.network(config, views) if config.meta else fewshot_baselines.network(config, views)
    try:
        net.load_state_dict(state["model"])
    except RuntimeError as error:
        raise InputError(
            f"{config.data} does not fit the run's network ({str(error).splitlines()[-1].strip()}). Give data of the"
            " same features."
        ) from error
    return net.to(device_of(config.device)).eval(), views


def scores(config: GMetaConfig, state: Mapping[str, Any]) -> Scores:
    """The scores of a checkpoint on its seed's episodes."""
    net, views = restored(config, state)
    seed = int(state["seed"])
    said = fewshot_parts.answering(config, net) if config.meta else fewshot_baselines.answering(config, views, net)
    return fewshot_parts.scorer(config, views, seed, said, device_of(config.device))()
