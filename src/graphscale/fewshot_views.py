"""What few-shot learning sees: graphs, labelled points, and which labels or graphs train, validate and test.

Folds move a window over one fixed order of the labels (or graphs), so five folds of a fifth each test everything once,
and a fold is the same for all seeds and methods. Labels of a split have no point in another (disjoint labels), nor have
its graphs (shared labels, links): there is no leak by names, order or sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphscale import rng
from graphscale.batches.episodes import Pools, by_group, by_label
from graphscale.csr import Csr
from graphscale.data import collections
from graphscale.data.collections import Collection
from graphscale.data.link_split import split_links
from graphscale.data.transform import Scaler
from graphscale.errors import InputError
from graphscale.graph import SPLITS, Graph

if TYPE_CHECKING:
    from graphscale.recipes.gmeta import GMetaConfig


@dataclass(frozen=True)
class FewShotViews:
    """Graphs with what episodes are drawn from."""

    collection: Collection  # its adjacency is the message graph
    setup: str  # disjoint, shared or links
    x: Tensor | Csr | None  # [N, F] scaled; None where degrees within subgraphs are fed
    pools: Mapping[str, Pools]  # train, val, test
    parts: Mapping[str, tuple[int, ...]]  # labels or graphs of every split
    classes: int  # of training, for what learns them all at once
    ways: int  # W
    scaler: Scaler
    notes: tuple[str, ...] = ()

    @property
    def graph(self) -> Graph:
        """The union."""
        return self.collection.graph

    @property
    def centres(self) -> int:
        """C: nodes a point."""
        return 2 if self.setup == "links" else 1


def read(config: GMetaConfig, scaler: Scaler | None = None) -> FewShotViews:
    """Read, split and scale.

    Args:
        scaler: of a checkpoint, to see other data as it saw its own.

    Raises:
        InputError: where the data do not allow the setup.
    """
    collection = collections.load(config.data, seed=0, undirected=config.undirected)
    setup = _setup(config, collection)
    if setup == "links":
        if collection.pairs is None:
            collection = split_links(collection, share=config.support_share, seed=0)
        pools, parts, classes = _links(config, collection)
    elif setup == "shared":
        pools, parts, classes = _shared(config, collection)
    else:
        pools, parts, classes = _disjoint(config, collection)
    x, scaler = _features(config, collection, setup, parts["train"], scaler)
    _demand_used(config, setup)
    notes: tuple[str, ...] = ()
    if collection.graph.masks and not _named(collection, setup):
        what = "labels" if setup == "disjoint" else "graphs"
        notes = (f"the data's own splits share {what}: which {what} train, validate and test is drawn (--fold)",)
    return FewShotViews(collection, setup, x, pools, parts, classes, pools["train"].ways, scaler, notes)


def known(config: GMetaConfig, state: Mapping[str, Any]) -> FewShotViews:
    """Graphs for a checkpoint to adapt on: whole, without splits or episodes, and with or without labels.

    Raises:
        InputError: where the data cannot be read, or lack the features.
    """
    collection = collections.load(config.data, seed=0, undirected=config.undirected)
    scaler = Scaler.from_state(config.scaling, state["scaler"])
    x, scaler = _features(config, collection, "disjoint", (), scaler)
    return FewShotViews(collection, state["setup"], x, {}, {}, state["classes"], state["ways"], scaler)


def _setup(config: GMetaConfig, collection: Collection) -> str:
    labelled = not collection.graph.multilabel and bool((collection.graph.y >= 0).any())
    setup: str = config.setup
    if setup == "auto":
        shared = "shared" if labelled and collection.pairs is None else "links"
        setup = "disjoint" if labelled and collection.num_graphs == 1 else shared
    if collection.graph.multilabel and setup != "links":
        raise InputError(f"{config.data} has several labels a node; an episode needs one. Use --setup links.")
    if setup != "links" and not labelled:
        raise InputError(f"{config.data} has no labels. Use --setup links, or give y.")
    if setup != "disjoint" and collection.num_graphs < 3:
        other = ", or --setup disjoint" if labelled else ""
        raise InputError(
            f"--setup {setup} trains, validates and tests on different graphs, and {config.data} has"
            f" {collection.num_graphs}. Give a folder of graphs{other}."
        )
    return setup


def windows(count: int, val: int, test: int, fold: int, what: str) -> dict[str, tuple[int, ...]]:
    """Which of ``count`` labels or graphs are in which split.

    Raises:
        InputError: where nothing is left to train on, or the fold has nothing of its own to test.
    """
    if val + test >= count:
        raise InputError(
            f"{val} {what} for validation and {test} for the test leave none of {count} to train on. Lower them"
            f" (--val-{what}, --test-{what})."
        )
    folds = -(-count // test)
    if fold >= folds:
        raise InputError(f"--fold {fold}: with {test} of {count} {what} a test there are folds 0..{folds - 1}.")
    order = torch.randperm(count, generator=rng.generator(rng.DATA, count)).roll(-fold * test).tolist()
    return {
        "train": tuple(sorted(order[test + val :])),
        "val": tuple(sorted(order[test : test + val])),
        "test": tuple(sorted(order[:test])),
    }


def _apart(masks: Mapping[str, Tensor], of: Tensor) -> dict[str, tuple[int, ...]] | None:
    """Labels or graphs by split; None where splits share one: they are of nodes, not of labels or graphs."""
    parts = {split: tuple(k for k in of[masks[split]].unique().tolist() if k >= 0) for split in SPLITS}
    train, val, test = (set(parts[split]) for split in SPLITS)
    return None if train & val or train & test or val & test else parts


def _named(collection: Collection, setup: str) -> bool:
    """Whether the data's own splits are ones of labels, or of graphs."""
    return _apart(collection.graph.masks, collection.graph.y if setup == "disjoint" else _owner(collection)) is not None


def _owner(collection: Collection) -> Tensor:
    """[N] graph of every node."""
    return torch.repeat_interleave(torch.arange(collection.num_graphs), collection.graph.part_ptr.diff())


def _demand_used(config: GMetaConfig, setup: str) -> None:
    """Refuse settings that this setup has no use for."""
    disjoint = setup == "disjoint"
    for name in ("val_graphs", "test_graphs", "test_graph") if disjoint else ("val_labels", "test_labels"):
        if getattr(config, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')} {getattr(config, name)}: --setup {setup} splits"
                f" {'labels, not graphs' if disjoint else 'graphs, not labels'}. Leave it out."
            )


def declared(config: GMetaConfig, collection: Collection, of: Tensor, what: str) -> dict[str, tuple[int, ...]] | None:
    """The labels or graphs of every split as the data's own tables have them; None where they say nothing of it.

    Args:
        of: [N] label or graph of every node, -1 where it has none.

    Raises:
        InputError: where other splits are asked for than the data have.
    """
    masks = collection.graph.masks
    there = [split for split in SPLITS if split in masks and bool(masks[split].any())]
    if not there:
        return None
    if len(there) < len(SPLITS):
        lacking = next(split for split in SPLITS if split not in there)
        raise InputError(
            f"{config.data} says itself which {what} are of {' and '.join(there)}, but not of {lacking}. Add those, or"
            " take its splits away."
        )
    parts = _apart(masks, of)
    if parts is None:
        return None
    asked = (config.val_labels, config.test_labels, config.val_graphs, config.test_graphs, config.test_graph)
    if config.fold or any(value is not None for value in asked):
        raise InputError(
            f"{config.data} says itself which {what} train, validate and test. Leave out --fold, --val-{what},"
            f" --test-{what} and --test-graph, or take its tables away."
        )
    return parts


def _disjoint(config: GMetaConfig, collection: Collection) -> tuple[dict[str, Pools], dict[str, tuple[int, ...]], int]:
    y = collection.graph.y
    labels = y[y >= 0].unique()
    named = declared(config, collection, y, "labels")
    if named is None:
        usual = max(config.ways, round(labels.numel() / 4))
        parts = windows(labels.numel(), config.val_labels or usual, config.test_labels or usual, config.fold, "labels")
        named = {split: tuple(labels[list(which)].tolist()) for split, which in parts.items()}
    points = torch.arange(y.numel())[:, None]
    pools = {
        split: by_label(points, y, named[split], ways=config.ways, shots=config.shots, queries=config.queries)
        for split in SPLITS
    }
    return pools, named, len(named["train"])


def _graphs(config: GMetaConfig, collection: Collection) -> dict[str, tuple[int, ...]]:
    """Which graphs are in which split."""
    count, names = collection.num_graphs, collection.names
    own = declared(config, collection, _owner(collection), "graphs")
    if own is not None:
        return own
    usual = max(1, round(count / 10))
    if config.test_graph is None:
        return windows(count, config.val_graphs or usual, config.test_graphs or usual, config.fold, "graphs")
    if config.test_graph not in names:
        raise InputError(f"--test-graph {config.test_graph}: the graphs are {', '.join(names[:40])}.")
    kept = names.index(config.test_graph)
    rest = [g for g in range(count) if g != kept]
    first = windows(len(rest), config.val_graphs or usual, 1, config.fold, "graphs")
    train = sorted(rest[i] for i in (*first["train"], *first["test"]))
    return {"train": tuple(train), "val": tuple(rest[i] for i in first["val"]), "test": (kept,)}


def _shared(config: GMetaConfig, collection: Collection) -> tuple[dict[str, Pools], dict[str, tuple[int, ...]], int]:
    graph, parts = collection.graph, _graphs(config, collection)
    points = torch.arange(graph.num_nodes)[:, None]
    owner = _owner(collection)
    pools = {
        split: by_group(
            points,
            graph.y,
            owner,
            parts[split],
            classes=graph.num_classes,
            ways=min(config.ways, graph.num_classes),
            shots=config.shots,
        )
        for split in SPLITS
    }
    return pools, parts, graph.num_classes


def _links(config: GMetaConfig, collection: Collection) -> tuple[dict[str, Pools], dict[str, tuple[int, ...]], int]:
    pairs, parts = collection.pairs, _graphs(config, collection)
    assert pairs is not None
    owner = torch.searchsorted(collection.graph.part_ptr, pairs.pair[:, 0].contiguous(), right=True) - 1
    pools = {
        split: by_group(
            pairs.pair, pairs.label, owner, parts[split], classes=2, ways=2, shots=config.shots, support=pairs.support
        )
        for split in SPLITS
    }
    return pools, parts, 2


def _features(
    config: GMetaConfig, collection: Collection, setup: str, train: Sequence[int], scaler: Scaler | None
) -> tuple[Tensor | Csr | None, Scaler]:
    graph = collection.graph
    if config.features == "own" and graph.x is None:
        raise InputError(f"{config.data} has no features. Use --features degree.")
    if config.features == "degree" or graph.x is None:
        return None, Scaler("none")
    seen = torch.ones(graph.num_nodes, dtype=torch.bool)
    if setup != "disjoint":  # other graphs are not known in training
        seen[:] = False
        for g in train:
            seen[int(graph.part_ptr[g]) : int(graph.part_ptr[g + 1])] = True
    graph = replace(graph, masks={**graph.masks, "train": seen})
    scaler = scaler or Scaler.fit(graph, config.scaling)
    return scaler.apply(graph).x, scaler
