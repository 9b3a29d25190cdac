"""The layout of every tensor, inferred: sizes leave few to choose from, and hidden units that may be exchanged decide.

Renumbering the units of a hidden dimension in every tensor leaves what a model computes as it was. A layout that is
wrong (the heads of attention taken for concatenated parts, say) breaks that, and so do units that only look
alike: those of GroupNorm, or of two dimensions that a residual ties. It is what makes a slice of hidden units a
network of its own, so a model that fails it is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from graphscale import rng
from graphscale.errors import InputError, told
from graphscale.width.spec import Axis, Build, Dims, Seg, Spec, layouts_of, on_meta, open_axes, spec_of

Layouts = Mapping[str, Mapping[int, Axis]]
Call = Callable[[nn.Module], Tensor]
_SMALL, _MOST = 6, 3000


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
    base, axes = open_axes(build, dims)
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
        chosen |= trial.decide(base, chosen, {p: f for p, f in unclear.items() if _names(f[0]) & group}, group)
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


def small_dims(build: Build, dims: Dims) -> dict[str, int]:
    """Small widths at which the model can be built."""
    for most in (_SMALL, 4 * _SMALL):
        small = {dim: min(width, most) for dim, width in dims.items()}
        try:
            on_meta(build, small)
        except InputError:
            continue
        return small
    return dict(dims)


class _Trial:
    """A small model in float64 with random state, and what it gives."""

    def __init__(self, build: Build, dims: Dims, call: Call) -> None:
        self.dims = small_dims(build, dims)
        with rng.isolated(0):
            self.model = build(self.dims).double().eval()
            self.state = {name: _random(t) for name, t in self.model.state_dict().items()}
        self.call = call
        self.expected = self._outputs(self.state)

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
        self, base: Mapping[str, Tensor], chosen: Mapping[tuple[str, int], Axis],
        unclear: Mapping[tuple[str, int], list[Axis]], group: set[str],
    ) -> dict[tuple[str, int], Axis]:  # fmt: skip
        """Layouts under which the units of the group's dimensions may be exchanged."""
        shapes = self.model.state_dict()
        for layouts in _ways(unclear):
            trial = {**chosen, **layouts}
            if self._exchangeable(shapes, trial, group):
                return layouts
        names = ", ".join(sorted({name for name, _ in unclear})[:3])
        among = f", in any layout of {names}" if unclear else ""
        raise InputError(
            f"renumbering the units of {', '.join(sorted(group))} changes what the model computes{among}: a slice of"
            " them is no network of its own. Give dimensions that are added together one name; layers that treat"
            " units by their position (GroupNorm, convolutions over them) cannot be cut."
        )

    def _exchangeable(
        self, shapes: Mapping[str, Tensor], layouts: Mapping[tuple[str, int], Axis], group: set[str]
    ) -> bool:
        draw = torch.Generator().manual_seed(0)
        order = {dim: torch.randperm(self.dims[dim], generator=draw) for dim in sorted(group)}
        moved = {}
        for name, tensor in self.state.items():
            for axis, size in enumerate(tensor.shape):
                layout = self._at_small_widths(layouts[name, axis], size)
                if layout is None:
                    return False
                if _names(layout) & group:
                    starts = itertools.accumulate((seg.length(self.dims) for seg in layout), initial=0)
                    places = [seg.places(self.dims, order) + s for seg, s in zip(layout, starts, strict=False)]
                    tensor = tensor.index_select(axis, torch.cat(places))
            moved[name] = tensor
        found = self._outputs(moved)
        scale = float(self.expected.abs().max()) or 1.0
        return bool(torch.allclose(found, self.expected, rtol=1e-7, atol=1e-9 * scale))

    def _at_small_widths(self, layout: Axis, size: int) -> Axis | None:
        return layout if sum(seg.length(self.dims) for seg in layout) == size else None


def _ways(unclear: Mapping[tuple[str, int], list[Axis]]) -> itertools.chain[dict[tuple[str, int], Axis]]:
    """Choices of a layout for every axis: the same kind everywhere first."""
    longest = max((len(found) for found in unclear.values()), default=1)
    alike = ({p: found[min(k, len(found) - 1)] for p, found in unclear.items()} for k in range(longest))
    last = ({p: found[-1 - min(k, len(found) - 1)] for p, found in unclear.items()} for k in range(longest))
    every = (dict(zip(unclear, way, strict=True)) for way in itertools.product(*unclear.values()))
    return itertools.chain(alike, last, itertools.islice(every, _MOST))


def _random(tensor: Tensor) -> Tensor:
    """Values that leave nothing hidden, as zeros and ones of a fresh model would; positive, as variances are."""
    return torch.rand_like(tensor) + 0.5 if tensor.is_floating_point() else tensor.clone()


__all__ = ["Call", "Layouts", "Seg", "infer", "layouts_of"]
