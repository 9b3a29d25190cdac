"""Bytes that aggregation moves, counted while somebody asks (``graphscale train --profile``).

A pass over a matrix of E entries reads its indices, for every entry a row of what it gathers, and once all
that lies in the order of its rows or entries; it writes its result once. Caches are not modelled: ``moved``
counts a gathered row as often as an entry names it, ``least`` once. What a machine moves lies between the two.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from graphscale.csr import Csr

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Meter:
    """Bytes of all passes since it was made."""

    moved: int = 0
    least: int = 0


_current: Meter | None = None


@contextmanager
def metered() -> Iterator[Meter]:
    """A meter of the passes inside the block, in any thread: a backward pass on CUDA has its own."""
    global _current
    before, _current = _current, Meter()
    try:
        yield _current
    finally:
        _current = before


def counting() -> bool:
    """Whether there is a meter, for counts that cost something to make."""
    return _current is not None


def count(adj: Csr, out: Sequence[Tensor], *, gathered: Sequence[Tensor] = (), straight: Sequence[Tensor] = ()) -> None:
    """Add a pass over ``adj`` to the current meter, if there is one.

    Args:
        adj: whose entries are passed over.
        out: results, written once.
        gathered: tensors of which every entry reads a row.
        straight: tensors that are read once, from front to back.
    """
    if _current is None:
        return
    once = sum(tensor.nbytes for tensor in (adj.indptr, adj.indices, *straight, *out))
    _current.moved += once + sum(adj.num_entries * (t.nbytes // max(1, t.shape[0])) for t in gathered)
    _current.least += once + sum(t.nbytes for t in gathered)


def moves(
    *, gathered: str = "", straight: str = "", weighted: bool = False
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Count the calls of a function of a matrix ``adj``; without a meter it costs one test.

    Args:
        gathered: names of the arguments of which every entry reads a row.
        straight: names of the arguments that are read once.
        weighted: whether the matrix's own values are read too.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def counted(*args: P.args, **kwargs: P.kwargs) -> T:
            out = function(*args, **kwargs)
            if _current is not None:
                given = signature.bind(*args, **kwargs).arguments
                adj = given["adj"]
                own = [adj.values] if weighted and adj.values is not None else []
                count(
                    adj,
                    (out,) if isinstance(out, Tensor) else out,  # type: ignore[arg-type]
                    gathered=[given[name] for name in gathered.split()],
                    straight=[*own, *(given[name] for name in straight.split())],
                )
            return out

        return counted

    return decorate
