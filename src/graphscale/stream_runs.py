"""Composing runs over a stream of events: the memory, the network, the scores."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphscale import rng
from graphscale.batches.negatives import Negatives
from graphscale.batches.schedule import scheduled
from graphscale.batches.stream import MEMORY, Sampler, StreamBatches
from graphscale.errors import InputError
from graphscale.events import Events
from graphscale.kernels.temporal import TemporalCsr
from graphscale.nn.memories import Correction
from graphscale.nn.temporal import TemporalNet
from graphscale.objectives.link import stream_loss
from graphscale.run import Run, Scores, device_of
from graphscale.stream_baselines import EdgeBank, PopTrack, baseline
from graphscale.stream_coherence import SAMPLE, Coherence, Probe
from graphscale.stream_monitors import Monitors
from graphscale.stream_scores import StreamScores
from graphscale.stream_views import StreamViews, read
from graphscale.sync.replicas import Replicas
from graphscale.tables.mailbox import Mailbox, PredictiveMailbox
from graphscale.tables.memory import Memory
from graphscale.tables.predictive import Prediction, Predictive
from graphscale.world import World

if TYPE_CHECKING:
    from graphscale.recipes.pres import PRESConfig


def build(config: PRESConfig, views: StreamViews, seed: int) -> Run:
    """The composed run of one seed."""
    world, device, events = World.current(), device_of(config.device), views.events
    with rng.isolated(rng.derive(rng.INIT, seed)):
        net = network(config, events, views.gaps).to(device)
    table = memory(config, views, world, device)
    numbers, starts = schedule(config, views)
    batches = StreamBatches(
        sampler(config, events, views.trained), numbers, starts,
        learning(config, views, seed),
        seed=seed, world=world,
    )  # fmt: skip
    evaluate = scorer(config, views, net, table, device)
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    objective = stream_loss(
        net, beta=config.beta, states=config.task == "states", bf16=config.precision == "bf16"
    )  # fmt: skip
    coherence = None
    if config.mu_every and table is not None:
        probe = coherence_probe(config, views, net, table, device, seed)
        coherence = functools.partial(coherence_after, views, probe, batches)
    monitors = Monitors(net, batches, coherence, every=config.mu_every, epochs=config.epochs, leads=world.leads)
    return Run(
        model=net,
        batches=batches,  # type: ignore[arg-type]
        sync=Replicas(net, optimiser, objective, world=world, clip=config.clip),  # type: ignore[arg-type]
        evaluate=evaluate,
        metrics=evaluate.names,
        monitor=config.monitor
        or ("ap" if config.task == "links" else "auc" if "auc" in evaluate.names else "accuracy"),
        tables={} if table is None else {MEMORY: table},
        world=world,
        device=device,
        begins=None if table is None else table.reset,
        ends=monitors,
        keeps={"graph": events.identity()},
        notes=(*events.notes, *_said(config, views, batches, device)),
        prefetch=_ahead(config.prefetch, device),
    )


def schedule(config: PRESConfig, views: StreamViews) -> tuple[Tensor, Tensor]:
    """Numbers of the training events in their order, and where batches begin among them."""
    return scheduled(
        views.events, views.numbers, cut=config.cut, size=config.batch_size, window=config.window, share=config.pending
    )  # fmt: skip


def _ahead(asked: int, device: torch.device) -> int:
    """Batches made ahead: none where every core computes.

    A batch takes a twentieth of its step to make. A thread that makes it takes a core from a step whose loops wait for
    their slowest thread: on two cores a step of 200 events then took 25 ms in place of 15.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if device.type == "cpu" and torch.get_num_threads() >= cores else asked


def network(config: PRESConfig, events: Events, gaps: tuple[float, float]) -> TemporalNet:
    """The network of a configuration."""
    update, embed, layers = config.shape()
    correction = None
    if config.predicts():
        correction = Correction(config.weight(), embeds=config.embed_from, writes=config.write_back)
    return TemporalNet(
        config.dim, events.num_features, update=update, embed=embed, layers=layers, time_dim=config.time_dim,
        heads=config.heads, dropout=config.dropout, correction=correction, gaps=gaps, states=_states(config, events),
        learned_times=config.frequencies == "learned",
    )  # fmt: skip


def sampler(config: PRESConfig, events: Events, csr: TemporalCsr) -> Sampler:
    """What makes batches of what ``csr`` holds of the stream."""
    remembers = config.shape()[0] != "none"
    return Sampler(
        events, csr, config.fanouts(), see=config.see, how=config.neighbors, remembers=remembers
    )  # fmt: skip


def _states(config: PRESConfig, events: Events) -> int:
    """Classes of the sources' states; 0 where links are foretold.

    Raises:
        InputError: where the stream has no states to foretell.
    """
    if config.task == "links":
        return 0
    classes = 0 if events.label is None else int(events.label.max()) + 1
    if classes < 2 or (events.label is not None and int(events.label.min()) < 0):
        raise InputError(
            f"--task states: {config.data} has no labels 0, 1, ... of its sources' states. Give a column label, or"
            " train with --task links."
        )
    assert events.label is not None
    if classes > max(100, 2 * int(events.label.unique().numel())):
        raise InputError(
            f"--task states: {config.data} has a label {classes - 1:,}, and classes are 0, 1, ... without gaps. Number"
            " the labels anew."
        )
    return classes


def scorer(
    config: PRESConfig, views: StreamViews, net: TemporalNet, table: Memory | None, device: torch.device
) -> StreamScores:
    """What scores validation and test."""
    events = views.events
    return StreamScores(
        net, table, sampler(config, events, views.seen(neighbours=bool(config.fanouts()))),
        ranked(config, views),
        views.splits, views.known, batch=config.eval_batch, device=device, states=_states(config, events),
    )  # fmt: skip


def learning(config: PRESConfig, views: StreamViews, seed: int) -> Negatives:
    """What training tells events from: its own destinations, none that is kept from it or yet to come."""
    return Negatives.of(
        views.events, "random", 1, seed=seed, train_end=views.val, among=views.numbers, exclude=config.exclude
    )


def ranked(config: PRESConfig, views: StreamViews) -> dict[str, Negatives]:
    """Beside what an event of each split is ranked: destinations of the stream up to the split's end.

    Raises:
        InputError: where there is but one.
    """
    found = {
        split: Negatives.of(
            views.events, config.negatives, config.ranked, seed=0, train_end=views.val, among=end, exclude=True
        )
        for split, (_, end) in views.splits.items()
    }
    if config.task == "links" and min(drawn.candidates.numel() for drawn in found.values()) < 2:
        raise InputError(
            f"{config.data} has one destination up to the end of validation: there is nothing to rank it beside. Give a"
            " stream of more, or --task states."
        )
    return found


def scores(config: PRESConfig, state: Mapping[str, Any]) -> Scores:
    """The scores of a checkpoint: its weights, and the memory as training left it.

    Raises:
        InputError: where the checkpoint is of another stream.
    """
    net, table, views = restored(config, state)
    return scorer(config, views, net, table, device_of(config.device))()


def baselines(config: PRESConfig) -> dict[str, Scores]:
    """EdgeBank and PopTrack of the events that a run is scored on, beside the same negatives.

    Raises:
        InputError: where states are foretold.
    """
    if config.task != "links":
        raise InputError("EdgeBank and PopTrack foretell links, and the run foretells states.")
    views = read(config)
    drawn = ranked(config, views)
    return {
        name: baseline(method, views.events, views.splits, drawn, views.known, batch=config.eval_batch)
        for name, method in (("edgebank", EdgeBank()), ("poptrack", PopTrack()))
    }


def restored(config: PRESConfig, state: Mapping[str, Any]) -> tuple[TemporalNet, Memory | None, StreamViews]:
    """The network of a checkpoint, its memory at the end of training, and the stream.

    Raises:
        InputError: where the checkpoint is of another stream.
    """
    views, device = read(config), device_of(config.device)
    if state.get("graph") != views.events.identity():
        raise InputError(
            f"{config.data} is not the stream that the run was trained on, and its memory is of that one. Bring the"
            " data back as it was."
        )
    net = network(config, views.events, views.gaps)
    net.load_state_dict(state["model"])
    table = memory(config, views, World(), device)
    if table is not None:
        table.load_state_dict(state["tables"][MEMORY])
    return net.to(device).eval(), table, views


def memory(config: PRESConfig, views: StreamViews, world: World, device: torch.device) -> Memory | None:
    """The memory of a configuration, if it has one."""
    update, _, _ = config.shape()
    if update == "none":
        return None
    events = views.events
    csr = views.lived()
    usual: dict[str, Any] = {"disk": config.memory == "disk", "world": world, "device": device}
    if update == "mail":
        usual |= {"combine": config.aggregate or "mean", "slots": config.mails, "neighbours": config.mailed}
    else:
        usual |= {"when": config.messages, "of": config.aggregate or "last"}
    if not config.predicts():
        return (Mailbox if update == "mail" else Memory)(events, csr, config.dim, **usual)
    gap = views.update_gap(*schedule(config, views)) if config.form == "rate" else 1.0
    how = Prediction(config.form, config.components, config.anchors, config.spread, gap)
    kind = PredictiveMailbox if update == "mail" else Predictive
    return kind(events, csr, config.dim, prediction=how, **usual)


def elsewhere(config: PRESConfig, data: str | None) -> PRESConfig:
    """The configuration with its stream in another place."""
    return config if data is None else replace(config, data=data)


def _said(config: PRESConfig, views: StreamViews, batches: StreamBatches, device: torch.device) -> list[str]:
    events, sizes = views.events, batches.starts.diff()
    met = ~(views.known[events.src[views.test :].long()] & views.known[events.dst[views.test :].long()])
    return [
        f"{views.numbers.numel():,} events of {events.num_nodes:,} nodes to train on in {len(batches):,} batches of"
        f" {int(sizes.min())}..{int(sizes.max())}; {100 * float(met.float().mean()):.1f} % of test events have a node"
        " that training does not see",
        *([] if config.task == "states" or config.ranked >= 10 else [
            f"hits@10 is 1 whatever is foretold: an event is ranked beside {config.ranked} others (--ranked)"
        ]),
        *([] if _ahead(config.prefetch, device) == config.prefetch or config.prefetch == type(config).prefetch else [
            f"no batch is made ahead (--prefetch {config.prefetch}): every core trains. --threads leaves one free"
        ]),
    ]  # fmt: skip


def coherence_probe(
    config: PRESConfig, views: StreamViews, net: TemporalNet, table: Memory, device: torch.device, seed: int
) -> Probe:
    """What measures the coherence of a memory, on any events of the stream."""
    events, fanouts = views.events, config.fanouts()
    apart = Sampler(events, views.seen(neighbours=bool(fanouts)), fanouts, see="apart", how=config.neighbors)
    return Probe(net, table, apart, learning(config, views, seed), device, config.task == "states", seed)


def coherence_after(views: StreamViews, probe: Probe, batches: StreamBatches) -> Coherence:
    """The coherence of what training left, in batches of its mean size, on the first validation events.

    Of an epoch's memory nothing is left but its end, and it knows the events of training; the next ones are the first
    that it does not. As many whole batches as ``SAMPLE`` holds, and one at least.
    """
    size = max(1, round(batches.numbers.numel() / len(batches)))
    end = min(views.test, views.val + max(1, SAMPLE // size) * size)
    with probe.table.alone():
        return probe(torch.arange(views.val, end), [size])[size]
