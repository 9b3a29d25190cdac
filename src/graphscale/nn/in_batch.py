"""Weights that learn from the first rows of a block alone, while gradients of rows flow through all of them.

LMC (Shi, Liang, Wang; ICLR 2023, section 4) sums the weights' gradients over a batch's own nodes: those of
the halo are summed where they are roots. Their authors write ``W.detach()`` for the halo's half of every
product, in rewritten models; here torch's functions are watched while a model runs, whoever calls them.
n rows of the block, r of them roots.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from graphscale.feature_view import SparseRows

_PRODUCTS = {torch.matmul, torch.mm, Tensor.matmul, Tensor.__matmul__, Tensor.mm}


class UnsplitError(RuntimeError):
    """Weights act where nobody knows which part belongs to the batch."""


class InBatchWeights(TorchFunctionMode):
    """While it is entered, what meets weights and rows learns from the first ``roots`` of ``rows`` rows.

    A function of weights alone gives weights. Rows are tensors of ``rows`` first-dimension entries that are
    neither weights nor among ``others``. Functions that do not treat rows apart are not handled: a trial shows
    whether a model has such (``nn.compensation``).
    """

    entered = 0

    def __init__(self, weights: Iterable[Tensor], others: Iterable[Tensor], *, rows: int, roots: int) -> None:
        super().__init__()
        self.weights = {id(w): w for w in weights if w.requires_grad}  # kept, so that no id is used twice
        self.others = {id(t): t for t in others}
        self.rows, self.roots = rows, roots

    def __enter__(self) -> Any:
        InBatchWeights.entered += 1
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        InBatchWeights.entered -= 1
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Split what needs to be; any other call is torch's."""
        kwargs = kwargs or {}
        if func is F.linear and args and isinstance(args[0], SparseRows):
            rows, weight = args[0], args[1]
            if rows.sparse and not rows.requires_grad and weight.dtype == rows.dtype:
                return self._sparse_linear(*args, **kwargs)
            args = (rows.whole, *args[1:])
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if not any(id(t) in self.weights for t in tensors):
            return func(*args, **kwargs)
        if any(self._is_rows(t) for t in tensors):
            return self._split(func, args, kwargs)
        out = func(*args, **kwargs)
        if not any(self._is_part(t) for t in tensors):
            known = self.weights.keys() | self.others.keys()
            if any(t.dim() > 0 and id(t) not in known for t in tensors):
                raise UnsplitError(
                    "weights meet what is neither rows of the block nor weights, such as rows of its edges"
                )
            for made in pytree.tree_leaves(out):
                if isinstance(made, Tensor) and made.requires_grad:
                    self.weights[id(made)] = made
        return out

    def _is_rows(self, t: Tensor) -> bool:
        return t.dim() > 0 and t.shape[0] == self.rows and id(t) not in self.weights and id(t) not in self.others

    def _is_part(self, t: Tensor) -> bool:
        """Roots or halo alone, as ``nn.roots`` makes them: what they meet is no weight."""
        apart = (self.roots, self.rows - self.roots)
        return t.dim() > 0 and t.shape[0] in apart and id(t) not in self.weights and id(t) not in self.others

    def _split(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self.roots == self.rows:
            return func(*args, **kwargs)
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if func in _PRODUCTS and not kwargs and self._is_rows(args[0]) and args[0].dim() == args[1].dim() == 2:
            return self._linear(args[0], args[1].t())

        def part(here: slice, learns: bool) -> Any:
            def of(t: Any) -> Any:
                if not isinstance(t, Tensor):
                    return t
                if id(t) in self.weights:
                    return t if learns else t.detach()
                return t[here] if self._is_rows(t) else t

            return pytree.tree_map(of, (args, kwargs))

        halves = []
        for here, learns in ((slice(None, self.roots), True), (slice(self.roots, None), False)):
            some, named = part(here, learns)
            halves.append(func(*some, **named))
        return torch.cat(halves)

    def _sparse_linear(self, input: SparseRows, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A product of features alone: the batch's rows, from which the weights learn, and the halo's."""
        if self.roots == self.rows or id(weight) not in self.weights:
            return input.linear(weight, bias)
        own, halo = input.part(0, self.roots), input.part(self.roots, self.rows)
        fixed = weight.detach(), None if bias is None else bias.detach()
        return torch.cat([own.linear(weight, bias), halo.linear(*fixed)])

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = F.linear(input, weight.detach(), None if bias is None else bias.detach())
        made: Tensor = _Learns.apply(out, input.detach()[: self.roots], weight, bias)  # type: ignore[no-untyped-call]
        return made


class _Learns(torch.autograd.Function):
    """The identity, whose backward pass gives the weights of a product what its first rows say."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.types = (weight.dtype, None if bias is None else bias.dtype)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor | None, Tensor | None]:
        (x,) = ctx.saved_tensors
        own = grad[: x.shape[0]]
        to_weight = to_bias = None
        if ctx.needs_input_grad[2]:
            to_weight = (own.flatten(0, -2).t() @ x.to(grad.dtype).flatten(0, -2)).to(ctx.types[0])
        if ctx.needs_input_grad[3]:
            to_bias = own.flatten(0, -2).sum(0, dtype=ctx.types[1])
        return grad, None, to_weight, to_bias
