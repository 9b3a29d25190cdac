"""Where the full width comes from: a whole model that is cut up, or rows drawn one chunk after the other.

A model that no rank can hold is never built: on meta, what fills each tensor is noted (uniform in a range, normal,
a constant), and every rank draws its own rows so. Chunks have their own random numbers, so a model does not depend
on how many ranks drew it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from graphscale import rng, sharding
from graphscale.errors import InputError, first_sentence
from graphscale.width.inference import small_dims
from graphscale.width.shards import Shards
from graphscale.width.spec import COUNT, MOMENTS, Build, Entry, Seg, Spec, on_meta
from graphscale.world import World

_CHUNK = 64  # rows drawn together
Rule = tuple[str, float, float]


def with_moments(spec: Spec, model: nn.Module) -> Spec:
    """The specification with Adam's moments beside every parameter that trains."""
    entries = dict(spec.entries)
    for name, p in model.named_parameters():
        if p.requires_grad:
            entries |= {f"{key}.{name}": replace(spec.entries[name]) for key in MOMENTS}
    return replace(spec, entries={**entries, COUNT: Entry((), torch.float32, ())})


def cut(spec: Spec, world: World, whole: Mapping[str, Tensor], device: torch.device | None = None) -> Shards:
    """The shards of a model that this rank holds whole; moments are zero."""

    def rows(name: str, first: int, end: int) -> Tensor:
        entry = spec.entries[name]
        if name not in whole:
            return torch.zeros((end - first, *entry.shape[1:]) if not entry.shared else entry.shape, dtype=entry.dtype)
        return whole[name].detach().cpu().clone() if entry.shared else whole[name].detach().cpu()[first:end].clone()

    return Shards(spec, world, rows, device)


def drawn(spec: Spec, world: World, build: Build, seed: int, device: torch.device | None = None) -> Shards:
    """The shards of a model that nobody holds whole.

    Raises:
        InputError: where a tensor is filled in a way that rows cannot be drawn by.
    """
    rules = rules_of(build, spec)

    def rows(name: str, first: int, end: int) -> Tensor:
        entry = spec.entries[name]
        kind, a, b = rules.get(name, ("fill", 0.0, 0.0))  # moments begin at zero
        if kind == "fill":
            shape = entry.shape if entry.shared else (end - first, *entry.shape[1:])
            return torch.full(shape, a, dtype=entry.dtype)
        out = torch.empty((end - first, *entry.shape[1:]), dtype=entry.dtype)
        for chunk in range(first // _CHUNK, -(-end // _CHUNK)):
            lo, hi = chunk * _CHUNK, min((chunk + 1) * _CHUNK, entry.shape[0])
            draw = rng.generator(rng.INIT, seed, zlib.crc32(name.encode()), chunk)
            part = torch.empty((hi - lo, *entry.shape[1:]), dtype=entry.dtype)
            part = part.uniform_(a, b, generator=draw) if kind == "uniform" else part.normal_(a, b, generator=draw)
            out[max(lo, first) - first : min(hi, end) - first] = part[max(lo, first) - lo : min(hi, end) - lo]
        return out

    return Shards(spec, world, rows, device)


def weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The full width of a checkpoint (``folder.best``); of shards, pages of files where a tensor is large.

    Raises:
        InputError: where it has none, or they cannot be read.
    """
    folder, whole = state.get("beside"), dict(state["model"])
    if folder is None and not whole:
        raise InputError(
            "the run was trained with --evaluate columns by an earlier version, which kept no weights of the best"
            " epoch: there is nothing to score, predict or export by. Its scores are in result.json; train it again."
        )
    if folder is None:
        return whole
    try:
        shards = sharding.read(folder, "model.", leaves=(*(f"{key}." for key in MOMENTS), COUNT))
    except RuntimeError as error:
        raise InputError(
            f"the weights of the best epoch cannot be read ({first_sentence(error)}). Bring {folder} back, or train the"
            " run again."
        ) from error
    return {**shards, **whole}  # the file has the norms as they were scored: statistics of the full width


def uncut(weights: Mapping[str, Tensor], dims: Mapping[str, int]) -> Shards:
    """The shards of one rank, which has all of a model: no tensor is cut, and none is copied."""
    entries = {
        name: Entry(tuple(t.shape), t.dtype, tuple((Seg(None, size=n),) for n in t.shape))
        for name, t in weights.items()
    }
    return Shards(Spec(dict(dims), entries), World(), lambda name, first, end: weights[name])


def rules_of(build: Build, spec: Spec) -> dict[str, Rule]:
    """How the model fills each of its tensors.

    Raises:
        InputError: naming a tensor that is filled in another way than with equal or independent numbers.
    """
    with _Fills() as fills, torch.device("meta"):
        found = fills.of(build(dict(spec.dims)))
    with _Fills() as fills:  # of some initialisers nothing is seen on meta: a small model shows them
        small = fills.of(build(_buildable(build, spec)))
    for name, rule in found.items():
        if rule is None or small[name] is None or small[name][0] != rule[0]:
            raise InputError(
                f"{name} is not filled by uniform, normal or equal numbers, so its rows cannot be drawn apart. Leave"
                " out --evaluate columns and build the model whole, or change how it is initialised."
            )
    return {name: rule for name, rule in found.items() if rule is not None}


def _buildable(build: Build, spec: Spec) -> dict[str, int]:
    """Small widths at which the model can be built."""
    for small in small_dims(spec.dims):
        with suppress(InputError):
            on_meta(build, small)
            return small
    return spec.dims


class _Fills(TorchDispatchMode):
    """Notes what was last written to every storage."""

    _MADE: ClassVar[dict[str, float]] = {
        "zeros": 0.0,
        "ones": 1.0,
        "zeros_like": 0.0,
        "ones_like": 1.0,
        "new_zeros": 0.0,
        "new_ones": 1.0,
    }

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rules: dict[int, Rule | None] = {}
        self._alive: list[Any] = []  # a storage's address is its name as long as it lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name, given = func._schema.name.partition("::")[2], {**dict(enumerate(args)), **(kwargs or {})}
        if name in self._MADE and isinstance(out, Tensor):
            self._note(out, ("fill", self._MADE[name], 0.0))
        elif name in ("full", "new_full"):
            self._note(out, ("fill", float(given[2 if name == "new_full" else 1]), 0.0))
        elif name in ("empty", "new_empty"):
            self._note(out, None)
        elif func._schema.is_mutable and args and isinstance(args[0], Tensor):
            self._note(args[0], self._written(name, given))
        return out

    def _written(self, name: str, given: Mapping[Any, Any]) -> Rule | None:
        if name == "uniform_":
            return "uniform", float(given.get(1, given.get("from", 0.0))), float(given.get(2, given.get("to", 1.0)))
        if name == "normal_":
            return "normal", float(given.get(1, given.get("mean", 0.0))), float(given.get(2, given.get("std", 1.0)))
        if name == "zero_":
            return "fill", 0.0, 0.0
        if name == "fill_" and not isinstance(given[1], Tensor):
            return "fill", float(given[1]), 0.0
        return None

    def _note(self, tensor: Tensor, rule: Rule | None) -> None:
        storage = tensor.untyped_storage()
        self._alive.append(storage)
        whole = tensor.numel() * tensor.element_size() == storage.nbytes()
        self.rules[storage._cdata] = rule if whole else None  # a part that is filled otherwise, such as a padding row

    def of(self, model: nn.Module) -> dict[str, Rule | None]:
        """What fills every tensor of a model; None where that is not known."""
        return {name: self.rules.get(t.untyped_storage()._cdata) for name, t in model.state_dict().items()}
