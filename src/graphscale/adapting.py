"""Labels never seen: a trained few-shot network adapts to a table of labelled points and foretells another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphscale import adapt_tables, fewshot_baselines, fewshot_parts, fewshot_runs
from graphscale.batches.tasks import Maker, TaskBatch
from graphscale.data.link_split import without
from graphscale.errors import InputError
from graphscale.objectives.meta import Answers, Meta
from graphscale.run import device_of

if TYPE_CHECKING:
    import pyarrow as pa

    from graphscale.recipes.gmeta import GMetaConfig

_CHUNK = 4096  # queries at a time; each adapts anew, to the same


@dataclass(frozen=True)
class Adapted:
    """What came of an adaptation."""

    labels: tuple[str, ...]  # of the support, ascending
    rows: int  # queries
    curve: tuple[Mapping[str, float], ...]  # by step: support_loss before it; accuracy, where queries have labels
    to: Path


def adapted(
    config: GMetaConfig,
    state: Mapping[str, Any],
    support: Path,
    query: Path | None,
    to: Path,
    *,
    steps: int | None = None,
) -> Adapted:
    """Adapt a checkpoint to ``support`` and write a row for every row of ``query``.

    Args:
        config: of the run; its ``data`` is the graph that the tables speak of.
        state: its best checkpoint.
        support, query: tables (``adapt_tables``).
        to: .csv or .parquet: the query's columns, ``predicted``, and ``p_LABEL`` for every label.
        steps: inner steps; by default the run's ``test_steps``.

    Raises:
        InputError: where a table is missing columns, names what is not there, or has fewer than two labels.
    """
    if query is None:
        raise InputError("adapt needs the points to foretell. Give a table of them with --query.")
    if to.suffix not in (".csv", ".parquet"):
        raise InputError(f"--to {to}: write .csv or .parquet.")
    _demand_steps(config, steps)
    adapt_tables.demand_place(to)
    net, views = fewshot_runs.restored(config, state, episodes=False)
    known, asked = adapt_tables.read(support), adapt_tables.read(query)
    near, far = (
        adapt_tables.points(t, views.collection, views.centres, f) for t, f in ((known, support), (asked, query))
    )
    labels = adapt_tables.classes(known, support)
    _check(config, views.ways, labels.names, asked, support, query)
    truth = labels.of(asked, query)
    if views.centres == 2 and config.method == "tlp":  # it embeds the whole graph, so no pair has a subgraph of its own
        graph = replace(views.graph, adj=without(views.graph.adj, far)[0])
        views = replace(views, collection=replace(views.collection, graph=graph))
    made = fewshot_parts.maker(config, views, int(state["seed"]), hide=True)
    judged, parts = int((truth >= 0).sum()), []
    sums: dict[int, tuple[float, float]] = {}  # step -> mean loss of the support, right answers
    for some in torch.arange(far.shape[0]).split(_CHUNK):
        batch = _batch(made, near, labels.y, far[some], truth[some], len(labels.names)).to(device_of(config.device))
        for answer in _answers(config, views, net, batch, config.test_steps if steps is None else steps):
            logits = answer.logits[0, :, : len(labels.names)]  # maml's head may have more outputs than there are labels
            loss = float("nan") if answer.support_loss is None else float(answer.support_loss[0])
            right = float(((logits.argmax(-1) == batch.query_y[0]) & batch.mask[0]).sum())
            before = sums.get(answer.step, (0.0, 0.0))
            sums[answer.step] = (before[0] + loss * len(some) / far.shape[0], before[1] + right)
        parts.append(torch.softmax(logits, -1).cpu())
    adapt_tables.write(asked, labels.names, torch.cat(parts), to)
    curve = (
        {"step": step, "support_loss": loss, **({"accuracy": right / judged} if judged else {})}
        for step, (loss, right) in sums.items()
    )
    return Adapted(labels.names, far.shape[0], tuple(curve), to)


def _demand_steps(config: GMetaConfig, steps: int | None) -> None:
    if steps is None:
        return
    if steps < 0:
        raise InputError(f"--steps {steps}: 0 or more are needed.")
    if config.method in ("protonet", "knn", "tlp"):
        raise InputError(f"--steps {steps}: {config.method} descends on no support. Leave it out.")


def _check(
    config: GMetaConfig, ways: int, labels: tuple[str, ...], asked: pa.Table, support: Path, query: Path
) -> None:
    taken = {"predicted", *(f"p_{label}" for label in labels)} & set(asked.column_names)
    if taken:
        raise InputError(f"{query} has a column {min(taken)} already, which is to be written. Drop it, or rename it.")
    if config.method == "maml" and len(labels) > ways:
        raise InputError(
            f"maml learned to tell {ways} labels apart, and {support} has {len(labels)}. Give fewer, or train"
            " --method gmeta, whose prototypes may be any number."
        )


def _answers(config: GMetaConfig, views: Any, net: Any, batch: TaskBatch, steps: int) -> list[Answers]:
    if not config.meta:
        taken = 0 if config.method in ("knn", "tlp") else steps
        answer = fewshot_baselines.answering(replace(config, test_steps=steps), views, net)
        return [Answers(taken, answer(batch)[1], None)]
    meta = Meta(net, fewshot_parts.how(config), steps=steps)
    return list(meta.answers(dict(net.named_parameters()), batch, steps=steps, at=range(steps + 1)))


def _batch(made: Maker, near: Tensor, y: Tensor, far: Tensor, truth: Tensor, ways: int) -> TaskBatch:
    """One task whose classes may have any number of points."""
    points = (near[None], far[None])
    support, query, inputs = made(*points)
    return TaskBatch(support, query, y[None], truth.clamp(min=0)[None], truth[None] >= 0, ways, inputs, 0, points)
