"""Which axis of which tensor is which hidden dimension.

A model is given as ``build(dims)``, dims naming the widths of its hidden dimensions: ``{"h1": 256, "h2": 256}``.
Doubling one width at a time on meta tensors tells which axes follow it and how often (as muP's base shapes do).
An axis may hold a dimension several times, ``[outer, dim, inner]`` flattened: GraphSAGE's concatenation is outer,
the channels of attention heads are inner; or several dimensions one after the other, as jumping knowledge does.
Where sizes leave that open, the exchangeability of units decides (``width.inference``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from graphscale.errors import InputError, told

Dims = Mapping[str, int]
MOMENTS, COUNT = ("exp_avg", "exp_avg_sq"), "steps"  # Adam's state of a parameter, and its steps
_PARTS = 7  # of an axis of several dimensions: 5,040 orders are tried
Build = Callable[[dict[str, int]], nn.Module]


@dataclass(frozen=True, slots=True)
class Seg:
    """A stretch of an axis: ``[outer, dim, inner]`` flattened, or ``size`` numbers that follow no dimension."""

    dim: str | None
    outer: int = 1
    inner: int = 1
    size: int = 0  # of a stretch without a dimension

    def length(self, dims: Dims) -> int:
        """Numbers in the stretch."""
        return self.size if self.dim is None else self.outer * dims[self.dim] * self.inner

    def places(self, dims: Dims, chosen: Mapping[str, Tensor]) -> Tensor:
        """Positions within the stretch of the chosen elements of its dimension; all, where none are named."""
        if self.dim is None or self.dim not in chosen:
            return torch.arange(self.length(dims))
        width, at = dims[self.dim], chosen[self.dim]
        grid = torch.arange(self.outer)[:, None, None] * width + at[None, :, None]
        return (grid * self.inner + torch.arange(self.inner)).flatten()


Axis = tuple[Seg, ...]


@dataclass(frozen=True)
class Entry:
    """A tensor of the model's state."""

    shape: tuple[int, ...]  # at full width
    dtype: torch.dtype
    axes: tuple[Axis, ...]

    @property
    def shared(self) -> bool:
        """Whether no dimension is in it: every sub-network has the whole tensor."""
        return all(seg.dim is None for axis in self.axes for seg in axis)

    def places(self, dims: Dims, chosen: Mapping[str, Tensor]) -> list[Tensor]:
        """For every axis the positions that a sub-network of the chosen elements holds, in its order."""
        found = []
        for axis in self.axes:
            starts = itertools.accumulate((seg.length(dims) for seg in axis), initial=0)
            found.append(torch.cat([seg.places(dims, chosen) + s for seg, s in zip(axis, starts, strict=False)]))
        return found

    def size(self, dims: Dims) -> int:
        """Numbers in the tensor of a model of these widths."""
        return math.prod(sum(seg.length(dims) for seg in axis) for axis in self.axes)


@dataclass(frozen=True)
class Spec:
    """The state of a model at full width, tensor by tensor."""

    dims: dict[str, int]
    entries: dict[str, Entry]

    def split(self) -> dict[str, Entry]:
        """Tensors that are cut, in the model's order."""
        return {name: entry for name, entry in self.entries.items() if not entry.shared}

    def shared(self) -> dict[str, Entry]:
        """Tensors that every sub-network has whole."""
        return {name: entry for name, entry in self.entries.items() if entry.shared}


def on_meta(build: Build, dims: Dims) -> nn.Module:
    """The model without memory.

    Raises:
        InputError: where it cannot be built, or has lazy parameters.
    """
    try:
        with torch.device("meta"):
            module = build(dict(dims))
    except Exception as error:  # whatever the user's code raises is theirs to mend
        raise InputError(
            f"build({dict(dims)}) failed: {told(error)}. It must make a module of any widths; tie those that must be"
            " equal by one name."
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(
            f"build({dict(dims)}) returned {type(module).__name__}, not a torch.nn.Module. Return the model."
        )
    lazy = [name for name, p in module.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise InputError(f"{lazy[0]} is lazy: its shape is not known. Give the number of input features to the layer.")
    return module


def _state(build: Build, dims: Dims) -> dict[str, Tensor]:
    return on_meta(build, dims).state_dict()


def _slopes(
    build: Build, dims: Dims, given: Collection[tuple[str, int]]
) -> tuple[dict[str, Tensor], dict[str, list[dict[str, int]]]]:
    """(the state on meta, for every tensor and axis how many numbers an element of each dimension has there)."""
    base = _state(build, dims)
    slopes: dict[str, list[dict[str, int]]] = {name: [{} for _ in t.shape] for name, t in base.items()}
    for dim, width in dims.items():
        wider = _state(build, {**dims, dim: 2 * width})
        if list(wider) != list(base):
            odd = sorted(set(wider) ^ set(base)) or ["their order"]
            raise InputError(
                f"the model's tensors change with {dim}: {', '.join(odd[:3])}. Widths may change shapes only."
            )
        for name, tensor in base.items():
            if wider[name].dim() != tensor.dim():
                raise InputError(
                    f"{name} has another number of axes where {dim} is wider. Widths may change shapes only."
                )
            for axis, (small, large) in enumerate(zip(tensor.shape, wider[name].shape, strict=True)):
                if (name, axis) in given:
                    continue
                if (large - small) % width:
                    raise InputError(
                        f"axis {axis} of {name} grows from {small} to {large} as {dim} doubles from {width}: it is no"
                        f" multiple of {dim}. Give its layout: layouts={{'{name}': {{{axis}: (...)}}}}."
                    )
                if large != small:
                    slopes[name][axis][dim] = (large - small) // width
    return base, slopes


def layouts_of(slopes: Mapping[str, int], size: int, dims: Dims) -> Iterator[Axis]:
    """Every layout of an axis that fits its sizes, the likeliest first: concatenations, in the order of the names."""
    rest = size - sum(k * dims[dim] for dim, k in slopes.items())
    if not slopes:
        yield (Seg(None, size=size),)
        return
    parts: list[list[Seg]] = [[Seg(dim, outer=k // c, inner=c) for c in _divisors(k)] for dim, k in slopes.items()]
    if rest:
        parts.insert(0, [Seg(None, size=rest)])
    for order in itertools.permutations(parts):
        yield from itertools.product(*order)
    if len(parts) > 1 and any(len(ways) > 1 for ways in parts):  # a dimension that comes back, others between
        apart = [seg for ways in parts for seg in (ways[:1] * ways[0].outer if ways[0].dim else ways)]
        singles = [replace(seg, outer=1) for seg in apart]
        together = set(itertools.permutations(singles))
        yield from sorted(together, key=lambda order: [seg.dim or "" for seg in order])


def _divisors(k: int) -> list[int]:
    return [c for c in range(1, k + 1) if k % c == 0]


def open_axes(
    build: Build, dims: Dims, given: Collection[tuple[str, int]] = ()
) -> tuple[dict[str, Tensor], dict[tuple[str, int], list[Axis]]]:
    """(the state on meta, every axis with the layouts that its sizes allow, the likeliest first).

    Args:
        given: axes of tensors whose layout is known, of which sizes are not asked.

    Raises:
        InputError: where sizes follow the widths in no way that slices could.
    """
    if not dims:
        raise InputError("no hidden dimension is named: there is nothing to cut. Give dims such as {'h1': 256}.")
    base, slopes = _slopes(build, dims, given)
    found: dict[tuple[str, int], list[Axis]] = {}
    for name, tensor in base.items():
        for axis, size in enumerate(tensor.shape):
            if size < sum(k * dims[dim] for dim, k in slopes[name][axis].items()):
                raise InputError(
                    f"axis {axis} of {name} has {size} numbers, fewer than its widths add up to. Give its layout:"
                    f" layouts={{'{name}': {{{axis}: (...)}}}}."
                )
            follows = slopes[name][axis]
            if sum(follows.values()) > _PARTS:
                followed = ", ".join(f"{dim} {k} times" for dim, k in follows.items())
                if len(follows) > 1:
                    raise InputError(
                        f"axis {axis} of {name} holds {followed}: too many orders to try. Give its layout:"
                        f" layouts={{'{name}': {{{axis}: (...)}}}}."
                    )
            found[name, axis] = list(dict.fromkeys(layouts_of(follows, size, dims)))
    named = {dim for axes in slopes.values() for axis in axes for dim in axis}
    if given:
        named |= set(dims)
    if unused := sorted(set(dims) - named):
        raise InputError(
            f"no tensor of the model follows {', '.join(unused)}. Use it in build, or leave it out of dims."
        )
    return base, found


def spec_of(base: Mapping[str, Tensor], chosen: Mapping[tuple[str, int], Axis], dims: Dims) -> Spec:
    """The specification in which every axis has one layout."""
    entries = {
        name: Entry(tuple(t.shape), t.dtype, tuple(chosen[name, axis] for axis in range(t.dim())))
        for name, t in base.items()
    }
    return Spec(dict(dims), entries)
