"""Three engines with one interface: what computes the functions over a CSR matrix, by the device of its tensors.

| engine     | runs on                      | made of                                    |
|------------|------------------------------|--------------------------------------------|
| `loops`    | CPU                          | ``embedding_bag``, numba (``kernels.loops``) |
| `programs` | CUDA, where Triton imports   | Triton (``kernels.programs``)              |
| `torch`    | any device                   | sparse products, gathers and scatters      |

The environment variable GRAPHSCALE_KERNELS names one and overrides the choice. Engines know nothing of gradients:
``kernels.aggregate``, ``kernels.entries`` and ``kernels.maximum`` make theirs of the same functions.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Protocol

from torch import Tensor

from graphscale.csr import Csr
from graphscale.errors import InputError, first_sentence

VARIABLE = "GRAPHSCALE_KERNELS"
NAMES = ("loops", "programs", "torch")


class Engine(Protocol):
    """Functions of a matrix of R rows, C columns, E entries; H heads, D numbers a head. No gradients.

    Results have the type of x, a, values, scores or grad, whichever comes first; sums are kept in float32 at least.
    """

    def gather_sum(
        self, adj: Csr, x: Tensor, pre: Tensor | None = None, post: Tensor | None = None, diag: Tensor | None = None
    ) -> Tensor:
        """[R, D]: ``post * (adj @ (pre * x)) + diag * x`` of contiguous x [C, D]; scales [R or C, 1] of x's type.

        ``diag`` needs R = C.
        """

    def weighted_sum(self, adj: Csr, values: Tensor, x: Tensor) -> Tensor:
        """[R, H, D]: sums of the columns' x [C, H, D], weighted by values [E, H]."""

    def dot(self, adj: Csr, a: Tensor, b: Tensor) -> Tensor:
        """[E, H]: <a [R, H, D] at an entry's row, b [C, H, D] at its column>."""

    def row_sum(self, adj: Csr, values: Tensor, order: Tensor | None = None) -> Tensor:
        """[R, H]: sums of values [E, H] over every row's entries e, of values[order[e]] where there is an order."""

    def softmax(self, adj: Csr, scores: Tensor) -> Tensor:
        """[E, H]: softmax of scores [E, H] over the entries of every row."""

    def additive(self, adj: Csr, a: Tensor, b: Tensor, att: Tensor, slope: float) -> Tensor:
        """[E, H]: <att [H, D], leaky_relu(a [R, H, D] at an entry's row + b [C, H, D] at its column)>."""

    def additive_back(
        self, adj: Csr, grad: Tensor, a: Tensor, b: Tensor, att: Tensor, slope: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[R, H, D], [C, H, D], [H, D]: the gradients of ``additive`` to a, b and att, from grad [E, H]."""

    def maximum(self, adj: Csr, x: Tensor) -> tuple[Tensor, Tensor]:
        """[R, D] the largest of every row's columns of x [C, D], and [R, D] that column, the first of equal ones.

        0 and -1 for a row without entries.
        """

    def from_chosen(self, adj: Csr, chosen: Tensor, grad: Tensor) -> Tensor:
        """[C, D]: sums of grad [R, D] over the rows whose chosen [R, D] is the column; -1 chose none."""

    def pick(self, chosen: Tensor, x: Tensor) -> Tensor:
        """[R, D]: x[chosen[r, d], d] of x [C, D], 0 where nothing was chosen (-1)."""


def engine_of(x: Tensor) -> Engine:
    """The engine for tensors of x's device.

    Raises:
        InputError: where GRAPHSCALE_KERNELS names no engine, or one that cannot work on x.
    """
    return _engine(os.environ.get(VARIABLE, ""), x.device.type)


@cache
def _engine(asked: str, device: str) -> Engine:
    if asked not in ("", *NAMES):
        raise InputError(
            f"{VARIABLE} is {asked!r}, which names no engine of the kernels. Set it to one of {', '.join(NAMES)}, or"
            " leave it unset for the device's own."
        )
    if asked == "loops" and device != "cpu":
        raise InputError(
            f"{VARIABLE} is 'loops', which run on CPU tensors alone; these are on {device}. Leave it unset, set it to"
            " 'torch', or train with --device cpu."
        )
    if asked == "programs" or (asked == "" and device == "cuda"):
        return _programs(asked, device)
    if asked == "torch" or device != "cpu":
        from graphscale.kernels import torch_engine

        return torch_engine
    from graphscale.kernels import cpu_engine

    return cpu_engine


def _programs(asked: str, device: str) -> Engine:
    """Triton's engine; where it was not asked for by name, torch's where Triton cannot be imported."""
    try:
        from graphscale.kernels import triton_engine
    except ImportError as error:
        if not asked:
            return _engine("torch", device)
        raise InputError(
            f"{VARIABLE} is 'programs', which need Triton, and it cannot be imported ({first_sentence(error)})."
            " Install it with `pip install 'graphscale[gpu]'` (Linux), or set the variable to 'torch'."
        ) from None
    if device == "cuda" or triton_engine.INTERPRETED:
        return triton_engine
    raise InputError(
        f"{VARIABLE} is 'programs', which run on CUDA tensors; these are on {device}. Leave it unset, or start Python"
        " with TRITON_INTERPRET=1 to run them, very slowly, in Triton's interpreter."
    )
