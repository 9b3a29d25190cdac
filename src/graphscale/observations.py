"""What a user of a run gives as nodes, moments and events, checked and in the kind of the run's stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphscale.errors import InputError
from graphscale.events import Events, signed, stream

Nodes = Tensor | np.ndarray | list[int]


def events_like(
    known: Events, src: Any, dst: Any, t: Any, feat: Any = None, label: Any = None, *, nodes: int | None = None
) -> Events:  # fmt: skip
    """Events of the kind of a known stream.

    Raises:
        InputError: where they are none.
    """
    ends = [numbers(end, name).reshape(-1) for end, name in ((src, "src"), (dst, "dst"))]
    if label is None and known.label is not None:
        label = torch.zeros(len(ends[0]), dtype=torch.int64)  # links are foretold without
    moments = moments_like(known, t).reshape(-1)
    if moments.numel() == 1:
        moments = moments.expand(ends[0].numel())
    largest = max((int(end.max()) for end in ends if end.numel()), default=0)
    return stream(
        ends[0], ends[1], moments.to(known.t.dtype), num_nodes=nodes or max(known.num_nodes, largest + 1),
        feat=None if feat is None else numbers(feat, "feat").float(),
        label=None if label is None else numbers(label, "label"),
        num_src=known.num_src, directed=known.directed,
    )  # fmt: skip


def moments_like(known: Events, t: Any) -> Tensor:
    """Moments of the kind of a stream's: numbers of Python are float64, which tells seconds of a year.

    Raises:
        InputError: where they are of another kind.
    """
    try:
        found = t if isinstance(t, Tensor) else torch.from_numpy(np.array(t))
    except TypeError as error:
        raise InputError(f"t = {t!r} are no moments. Give numbers in the unit of the stream.") from error
    if known.t.is_floating_point():
        if found.is_floating_point() and found.dtype != torch.float64:
            raise InputError(f"t is {found.dtype}, which cannot tell moments of a long stream apart. Give float64.")
        if not bool(found.isfinite().all()):
            raise InputError(f"t = {t!r} holds moments that are not finite. Give the moment of each.")
    elif found.is_floating_point():
        raise InputError(f"t is {found.dtype}, and the stream counts whole numbers. Give whole numbers.")
    return found.to(known.t.dtype)


def numbers(values: Any, name: str) -> Tensor:
    """A tensor of what is given.

    Raises:
        InputError: where it is no numbers.
    """
    try:
        return signed(torch.as_tensor(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} = {values!r} are no numbers. Give a list, an array or a tensor of numbers."
        ) from error


def ids_of(ids: Nodes, name: str, nodes: int) -> Tensor:
    """Int64 ids of known nodes.

    Raises:
        InputError: where one is no node of the stream.
    """
    found = numbers(ids, name)
    if not found.numel():
        return found.long()
    if found.is_floating_point() or found.dtype == torch.bool:
        raise InputError(f"{name} is {found.dtype}: nodes are whole numbers.")
    if not (int(found.min()) >= 0 and int(found.max()) < nodes):
        raise InputError(f"{name} names a node outside 0 .. {nodes - 1}. A node must be observed before it is scored.")
    return found.long()
