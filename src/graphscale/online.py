"""A trained network over a stream, in use: what happens is observed, what may happen is scored.

What it knows is its memory and the events so far. Observing costs what the events touch, whatever the length of the
stream and the number of nodes; scoring changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphscale import checkpoint, stream_runs
from graphscale.batches.stream import Sampler
from graphscale.errors import InputError
from graphscale.events import Events
from graphscale.growing import Growing
from graphscale.nn.memories import Mails
from graphscale.nn.temporal import TemporalNet
from graphscale.objectives.link import scored
from graphscale.observations import Nodes, events_like, ids_of, moments_like, numbers
from graphscale.places import stored
from graphscale.recipes.pres import PRESConfig
from graphscale.run import device_of
from graphscale.store import folder
from graphscale.tables.memory import Memory

_FORMAT = ("graphscale.live", 2)
_COLUMNS = ("src", "dst", "t", "feat", "label")


class Live:
    """Made by ``live``.

    ``num_events`` counts what was observed, the run's own training events among it.
    """

    def __init__(
        self, run: Path, net: TemporalNet, table: Memory | None, sampler: Sampler, growing: Growing, *, batch: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._run, self._net, self._table, self._sampler, self._growing = run, net.eval(), table, sampler, growing
        self._batch, self._device, self._trained = batch, device, growing.events.num_events

    @property
    def num_events(self) -> int:
        """Events so far."""
        return self._growing.events.num_events

    @property
    def now(self) -> float | int:
        """Moment of the latest event."""
        return self._growing.events.t[-1].item()

    def observe(
        self, src: Nodes, dst: Nodes, t: Any, *, feat: Tensor | None = None, label: Tensor | None = None
    ) -> None:
        """Take note of events that happened.

        Memories lag by a batch as in training: events of one call see none of each other, up to the run's
        ``eval_batch`` of them; longer calls are parted.

        Args:
            src, dst: [b] nodes; ids that were not met yet are new nodes.
            t: [b] moments in order, none before ``now``.
            feat: [b, F], where the stream has features.
            label: [b], where it has labels; links need none.

        Raises:
            InputError: where they are no continuation of the stream.
        """
        before, src, dst = self._growing.events, numbers(src, "src"), numbers(dst, "dst")
        if src.numel() == dst.numel() == 0:
            return
        later = events_like(before, src, dst, t, feat, label)
        if later.num_nodes > 2 * before.num_nodes + 1_000_000:  # before anything has grown
            raise InputError(
                f"node {later.num_nodes - 1:,} among {before.num_nodes:,}: every number up to the largest is a node"
                " with a memory. Give new nodes the next numbers."
            )
        events = self._growing.append(later)
        self._follow(events)
        for start in range(before.num_events, events.num_events, self._batch):
            self._take_in(torch.arange(start, min(start + self._batch, events.num_events)))

    def _follow(self, events: Events) -> None:
        self._sampler.follow(events, self._growing.csrs["seen"])
        if self._table is not None:
            self._table.follow(events, self._growing.csrs["lived"])

    @torch.no_grad()
    def _take_in(self, numbers: Tensor) -> None:
        """The ends take in what was pending, and have these events pending now."""
        if self._table is None:
            return
        events = self._growing.events
        ends = torch.cat([events.src[numbers], events.dst[numbers]]).long()
        ids, which = ends.unique(return_inverse=True)
        newest = torch.zeros_like(ids).scatter_reduce_(0, which, numbers.repeat(2), "amax", include_self=False)
        memory = self._net.remembered(self._table.parts(ids), events.t[numbers[0]].to(self._device))
        self._table.write(ids, memory.kept, newest)

    @torch.no_grad()
    def score(self, src: Nodes, dst: Nodes, t: Any = None) -> Tensor:
        """Logits of meetings: the sigmoid is the probability of a meeting against that of a random destination.

        Args:
            src: [b] nodes.
            dst: [b], or [b, K] for K candidates each.
            t: a moment or [b], none before ``now``; by default ``now``.

        Returns:
            [b], or [b, K] as ``dst``.

        Raises:
            InputError: on nodes that are not there, or moments that are past.
        """
        events = self._growing.events
        source, other = ids_of(src, "src", events.num_nodes), ids_of(dst, "dst", events.num_nodes)
        moment = events.t[-1] if t is None else moments_like(events, t)
        if source.dim() != 1 or other.dim() not in (1, 2) or len(other) != len(source):
            raise InputError(f"src {list(source.shape)} and dst {list(other.shape)} do not match. Give [b] and [b, K].")
        if moment.dim() > 1 or moment.numel() not in (1, len(source)):
            raise InputError(f"t has {moment.numel()} moments for {len(source)} pairs. Give one, or one a pair.")
        if not bool((moment >= events.t[-1]).all()):
            raise InputError(
                f"t = {moment.min().item()} is before the latest event ({self.now}). Scores are of what may come."
            )
        if not len(source):
            return torch.empty(other.shape)
        pairs = other if other.dim() == 2 else other[:, None]
        if moment.numel() == 1 or not isinstance(self._net.update, Mails):
            return self._scored(source, pairs, moment.reshape(()) if moment.numel() == 1 else moment).view(other.shape)
        found = torch.empty(pairs.shape)
        for now in moment.unique():  # mails are read at the moment of the pair
            these = (moment == now).nonzero()[:, 0]
            found[these] = self._scored(source[these], pairs[these], now)
        return found.view(other.shape)

    def _scored(self, source: Tensor, pairs: Tensor, moment: Tensor) -> Tensor:
        """[b, K] logits."""
        batch = self._sampler.asked(source, pairs, moment)
        parts = {} if self._table is None else self._table.parts(batch.n_id)
        moved = batch.to(self._device)
        _, logits = scored(self._net, self._net(parts, moved).roots, moved, states=False)
        return logits.float().cpu()

    def save(self, to: str | Path, *, overwrite: bool = False) -> None:
        """Write the memory and what was observed since training, for ``live(run, state=to)``.

        Raises:
            InputError: where ``to`` is in use.
        """
        events = self._growing.events
        later = events.select(torch.arange(self._trained, events.num_events))
        with folder.created(Path(to), overwrite=overwrite) as aside:
            for name in _COLUMNS:
                if (column := getattr(later, name)) is not None:
                    np.save(aside / f"{name}.npy", column.numpy())
            columns = {} if self._table is None else self._table.state_dict()
            save_file({name: column.contiguous() for name, column in columns.items()}, aside / "memory.safetensors")
            said = {
                "format": _FORMAT[0], "version": _FORMAT[1], "nodes": events.num_nodes, "trained": self._trained,
                "weights": _hash(self._net),
            }  # fmt: skip
            (aside / folder.MANIFEST).write_text(json.dumps(folder.sealed(said)), encoding="utf-8")


def live(
    run: str | Path, *, state: str | Path | None = None, until: str = "now", data: str | None = None
) -> Live:  # fmt: skip
    """A trained run of ``pres``, in use.

    Args:
        run: folder of a run of one seed, for links.
        state: what ``Live.save`` wrote, to go on from.
        until: ``now`` observes the stream's events after training first, as evaluation does: those of validation, then
            those of the test; ``training`` begins where training ended, with them unknown.
        data: the run's stream, where it lies elsewhere now.

    Raises:
        InputError: where the run, its stream or the state cannot be used.
    """
    run = Path(run)
    _, config = stored(run)
    if not isinstance(config, PRESConfig) or config.task != "links":
        raise InputError(f"{run} is no run of pres for links, and only those can be observed and scored.")
    if until not in ("now", "training"):
        raise InputError(f"until = {until!r}: it is now or training.")
    saved = checkpoint.load(run / "checkpoints" / "best.pt", needs=("epoch", "model"))
    found, table, views = stream_runs.restored(stream_runs.elsewhere(config, data), saved)
    events = views.events
    past = events.select(torch.arange(views.val))
    plain = views.numbers.numel() == views.val and not past.directed
    # What a node takes in leaves out training's hidden events (--new); neighbours are sampled of all, as in evaluation.
    lived = (past.csr if plain else views.alone(views.numbers, directed=False), False)
    csrs = {"seen": (past.csr, past.directed) if config.fanouts() else lived, "lived": lived}
    growing = Growing(past, csrs, merged=config.neighbors == "uniform")
    sampler = stream_runs.sampler(config, past, csrs["seen"][0])
    made = Live(run, found, table, sampler, growing, batch=config.eval_batch, device=device_of(config.device))
    made._follow(past)
    if state is not None:
        _restore(made, Path(state))
    elif until == "now":
        for first, end in views.splits.values():  # evaluation begins a batch where a split begins
            some = events.select(torch.arange(first, end))
            made.observe(some.src, some.dst, some.t, feat=some.feat, label=some.label)
    return made


def _restore(made: Live, path: Path) -> None:
    said = folder.manifest_of(path, *_FORMAT)
    growing = made._growing
    fits = said["trained"] == made._trained and said["nodes"] >= growing.events.num_nodes
    if not fits or said["weights"] != _hash(made._net):
        raise InputError(f"{path} was saved by another run. Give the run that saved it.")
    try:
        columns = {
            name: torch.from_numpy(np.load(file, allow_pickle=False))
            for name in _COLUMNS
            if (file := path / f"{name}.npy").is_file()
        }
        memory = load_file(path / "memory.safetensors")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}). Save it again.") from error
    if columns["src"].numel():
        src, dst, t, feat, label = (columns.get(name) for name in _COLUMNS)
        later = events_like(growing.events, src, dst, t, feat, label, nodes=said["nodes"])
        made._follow(growing.append(later))
    if made._table is not None:
        try:
            made._table.load_state_dict(memory)
        except ValueError as error:
            raise InputError(f"{path} was saved by another run: {error}") from error


def _hash(net: TemporalNet) -> str:
    """Of the weights: what a saved state belongs to."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).data)
    return digest.hexdigest()
