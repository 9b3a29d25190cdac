"""The layout of every tensor, inferred: sizes leave few to choose from, and hidden units that may be exchanged decide.

Renumbering the units of a hidden dimension in every tensor leaves what a model computes as it was. A layout that is
wrong (the heads of attention taken for concatenated parts, say) breaks that, and so do units that only look
alike: those of GroupNorm, or of two dimensions that a residual ties. It is what makes a slice of hidden units a
network of its own, so a model that fails it is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphscale import rng
from graphscale.errors import InputError, told
from graphscale.width.spec import Axis, Build, Dims, Seg, Spec, layouts_of, on_meta, open_axes, spec_of

Layouts = Mapping[str, Mapping[int, Axis]]
Call = Callable[[nn.Module], Tensor]
_SMALL, _MOST = 5, 4_000  # layouts that are tried: some seconds


def infer(build: Build, dims: Dims, *, call: Call | None = None, layouts: Layouts | None = None) -> Spec:
    """Which axis of which tensor is which hidden dimension.

    Args:
        build: makes the model for any widths of its hidden dimensions.
        dims: the full widths, by name. Dimensions that are added to one another must share a name.
        call: applies a model to some input, for the trial of exchanged units; without it, an axis whose sizes
            allow several layouts is refused.
        layouts: parameter -> axis -> layout, where the user knows better.

    Raises:
        InputError: naming the tensor whose layout is ambiguous, or the dimension whose units cannot be exchanged.
    """
    base, axes = open_axes(build, dims, {(name, axis) for name, given in (layouts or {}).items() for axis in given})
    for name, given in (layouts or {}).items():
        for axis, layout in given.items():
            if (name, axis) not in axes:
                raise InputError(f"layouts names axis {axis} of {name}, which the model does not have. Check the name.")
            length = sum(seg.length(dims) for seg in layout)
            if length != base[name].shape[axis]:
                raise InputError(
                    f"the layout of axis {axis} of {name} has {length} numbers, and the axis {base[name].shape[axis]}."
                    " Check outer, inner and size."
                )
            axes[name, axis] = [layout]
    unclear = {place: found for place, found in axes.items() if len(found) > 1}
    chosen = {place: found[0] for place, found in axes.items()}
    if call is None:
        if unclear:
            (name, axis), found = next(iter(unclear.items()))
            raise InputError(
                f"axis {axis} of {name} may be laid out in {len(found)} ways, of which sizes say nothing. Give a way to"
                f" call the model, or the layout: layouts={{'{name}': {{{axis}: (Seg('{_dim_of(found[0])}', ...),)}}}}."
            )
        return spec_of(base, chosen, dims)
    trial = _Trial(build, dims, call)
    for group in _groups(unclear, dims):
        chosen |= trial.decide(chosen, {p: f for p, f in unclear.items() if _names(f[0]) & group}, group)
    return spec_of(base, chosen, dims)


def _dim_of(axis: Axis) -> str:
    return next(seg.dim for seg in axis if seg.dim is not None)


def _names(axis: Axis) -> set[str]:
    return {seg.dim for seg in axis if seg.dim is not None}


def _groups(unclear: Mapping[tuple[str, int], list[Axis]], dims: Dims) -> list[set[str]]:
    """Dimensions whose layouts must be chosen together, since they share an axis."""
    groups = [{dim} for dim in dims]
    for found in unclear.values():
        together = [g for g in groups if g & _names(found[0])]
        groups = [g for g in groups if g not in together] + [set().union(*together)]
    return groups


def small_dims(dims: Dims) -> list[dict[str, int]]:
    """Small widths to try a model at, the most telling first: all different, all alike, wider, its own."""
    found = [{dim: _SMALL + place for place, dim in enumerate(dims)}]
    return [
        *found,
        *({dim: min(width, most) for dim, width in dims.items()} for most in (_SMALL, 4 * _SMALL)),
        {**dims},
    ]


class _Trial:
    """A small model with random state, and what it gives: in float64, or in float32 where its code allows no other."""

    def __init__(self, build: Build, dims: Dims, call: Call) -> None:
        self.call, first = call, None
        for small, dtype in itertools.product(small_dims(dims), (torch.float64, torch.float32)):
            try:
                self.dims = small
                with rng.isolated(0):
                    self.model = on_meta(build, small) and build(small).to(dtype).eval()
                draw = torch.Generator().manual_seed(0)
                self.state = {name: _random(name, t, draw) for name, t in self.model.state_dict().items()}
                self.expected = self._outputs(self.state)
                break
            except InputError as error:
                first = first or error
        else:
            assert first is not None
            raise first
        self.orders = (
            {dim: torch.arange(k).roll(1) for dim, k in self.dims.items()},
            {dim: torch.randperm(k, generator=draw) for dim, k in self.dims.items()},
        )
        tight = self.expected.dtype == torch.float64
        scale = float(self.expected.abs().max()) or 1.0
        self.rtol, self.atol = (1e-7, 1e-9 * scale) if tight else (1e-4, 1e-5 * scale)

    def _outputs(self, state: Mapping[str, Tensor]) -> Tensor:
        self.model.load_state_dict(state)
        try:
            with torch.no_grad():
                return self.call(self.model)
        except Exception as error:  # whatever the user's code raises is theirs to mend
            raise InputError(
                f"the model of widths {self.dims} failed on a toy input: {told(error)}. It must run at any widths."
            ) from error

    def decide(
        self, chosen: Mapping[tuple[str, int], Axis], unclear: Mapping[tuple[str, int], list[Axis]], group: set[str]
    ) -> dict[tuple[str, int], Axis]:
        """Layouts under which the units of the group's dimensions may be exchanged.

        Raises:
            InputError: where none does, or where two that differ do.
        """
        found: dict[tuple[Any, ...], dict[tuple[str, int], Axis]] = {}
        for layouts in _ways(unclear):
            trial = {**chosen, **layouts}
            moves = tuple(tuple(self._moved(trial[place], group, 0).tolist()) for place in unclear)
            if moves not in found and all(self._exchangeable(trial, group, k) for k in range(len(self.orders))):
                found[moves] = layouts
        if len(found) > 1:
            # Of equals the most uniform: a bias that softmax cancels is laid out as its weight is.
            ranked = sorted(found.values(), key=lambda layouts: len(set(layouts.values())))
            one, other = next(
                ((ranked[0], o) for o in ranked[1:] if any(self._matters(p) for p in unclear if o[p] != ranked[0][p])),
                (ranked[0], None),
            )
            if other is None:
                return one
            name, axis = next(place for place in unclear if one[place] != other[place])
            raise InputError(
                f"axis {axis} of {name} may be laid out as {one[name, axis]} or as {other[name, axis]}: on a toy input"
                " the model does not tell them apart. Give the layout: an attribute layouts ="
                f" {{'{name}': {{{axis}: (Seg(...), ...)}}}} of the callable."
            )
        if found:
            return next(iter(found.values()))
        names = ", ".join(sorted({name for name, _ in unclear})[:3])
        among = f", in any layout of {names}" if unclear else ""
        raise InputError(
            f"renumbering the units of {', '.join(sorted(group))} changes what the model computes{among}: a slice of"
            " them is no network of its own. Give dimensions that are added together one name; layers that treat"
            " units by their position (GroupNorm, convolutions over them) cannot be cut."
        )

    def _matters(self, place: tuple[str, int]) -> bool:
        """Whether the order of an axis matters to the outputs: it does not where a tensor has no effect on them."""
        name, axis = place
        turned = {**self.state, name: self.state[name].roll(1, axis)}
        return not torch.allclose(self._outputs(turned), self.expected, rtol=self.rtol, atol=self.atol)

    def _moved(self, layout: Axis, group: set[str], number: int) -> Tensor:
        """Where the numbers of an axis come from when the group's units are renumbered."""
        order = {dim: self.orders[number][dim] for dim in group}
        starts = itertools.accumulate((seg.length(self.dims) for seg in layout), initial=0)
        return torch.cat([seg.places(self.dims, order) + s for seg, s in zip(layout, starts, strict=False)])

    def _exchangeable(self, layouts: Mapping[tuple[str, int], Axis], group: set[str], number: int) -> bool:
        moved = {}
        for name, tensor in self.state.items():
            for axis, size in enumerate(tensor.shape):
                layout = layouts[name, axis]
                if sum(seg.length(self.dims) for seg in layout) != size:
                    return False
                if _names(layout) & group:
                    tensor = tensor.index_select(axis, self._moved(layout, group, number))
            moved[name] = tensor
        return bool(torch.allclose(self._outputs(moved), self.expected, rtol=self.rtol, atol=self.atol))


def _ways(unclear: Mapping[tuple[str, int], list[Axis]]) -> Iterator[dict[tuple[str, int], Axis]]:
    """Choices of a layout for every axis.

    Raises:
        InputError: where there are too many to try.
    """
    count = math.prod(len(found) for found in unclear.values())
    if count > _MOST:
        name, axis = max(unclear, key=lambda place: len(unclear[place]))
        raise InputError(
            f"{count:,} layouts of {len(unclear)} axes, axis {axis} of {name} first, are too many to try. Give those"
            f" that you know: an attribute layouts = {{'{name}': {{{axis}: (Seg(...), ...)}}}} of the callable."
        )
    return (dict(zip(unclear, way, strict=True)) for way in itertools.product(*unclear.values()))


def _random(name: str, tensor: Tensor, draw: torch.Generator) -> Tensor:
    """Values that leave nothing hidden, as zeros and ones of a fresh model would; small, so that nothing saturates."""
    if not tensor.is_floating_point():
        return tensor.clone()
    if "var" in name.rpartition(".")[2]:
        return (torch.rand(tensor.shape, generator=draw, dtype=torch.float64) + 0.5).to(tensor)
    scale = 1.0 / math.sqrt(tensor.shape[-1]) if tensor.dim() > 1 else 0.5
    return (scale * torch.randn(tensor.shape, generator=draw, dtype=torch.float64)).to(tensor)


__all__ = ["Call", "Layouts", "Seg", "infer", "layouts_of"]
