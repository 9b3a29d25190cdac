"""G-Meta's network over ego subgraphs, for many tasks at once (Huang, Zitnik; NeurIPS 2020, section 4).

    h_l = ReLU(D^-1/2 A D^-1/2 h_(l-1) W_l + b_l),  l = 1..L, on the last layer too
    h_c = h_L[centre], both centres' side by side for a pair;  z = W_o h_c + b_o

D and A are those of the subgraph. Weights that adapt come stacked [T, ...], a slice a task; others as they are. The
first layer's may come as coefficients C of the support's rows in place of a slice (``batches.tasks``): then what the
loss is differentiated by is the layer's output, for the gradient of W_1 is X_1^T of that.

T tasks, n points a task, C centres a point, H hidden units, R_l rows of level l.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from graphscale.batches.subgraphs import Side
from graphscale.batches.tasks import TaskBatch
from graphscale.csr import Csr
from graphscale.kernels.aggregate import aggregate
from graphscale.kernels.sparse_linear import sparse_linear
from graphscale.kernels.stacked import Ptr, lifted_linear, stacked_linear
from graphscale.step import Params

FIRST = "convs.0.weight"


class Base(NamedTuple):
    """A side with what the inner loop does not change of its first layer."""

    side: Side
    lifted: Tensor | None  # [R_1, H] A_1 X W_1 under the weights that do not adapt
    support: Ptr  # level 1 rows of the support, by task


class Embedded(NamedTuple):
    """Points as a network sees them."""

    hidden: Tensor  # [T, n, C H]
    along: Mapping[str, Tensor]  # see ``objectives.adapt.Inner``


class EgoNet(Protocol):
    """A network over subgraphs, as ``objectives.meta`` uses it."""

    def names(self, adapt: str) -> tuple[str, ...]:
        """Names of the weights that adapt: ``all``, ``head`` or ``none``."""
        ...

    def rates_of(self, params: Params) -> dict[str, Tensor] | None:
        """Inner rates by name, where they are learned."""
        ...

    def bases(self, params: Params, batch: TaskBatch) -> tuple[Any, Any]:
        """(support, query) with what is common to all tasks and inner steps."""
        ...

    def begun(self, params: Params, names: Iterable[str], tasks: int, support: Any) -> Params:
        """Fast weights before the first step."""
        ...

    def embed(self, params: Params, fast: Params, base: Any) -> Embedded:
        """The points of a side, under weights of which ``fast`` have adapted."""
        ...

    def logits(self, params: Params, fast: Params, hidden: Tensor) -> Tensor:
        """[T, n, outputs] of points [T, n, C H]."""
        ...


class Rates(nn.Module):
    """Learned inner rates, one a weight; their logarithms, so that they stay above 0 (Meta-SGD; MAML++ by layer)."""

    def __init__(self, names: tuple[str, ...], rate: float) -> None:
        super().__init__()
        self.names = names
        self.log = nn.Parameter(torch.full((len(names),), rate).log())


def rates_of(rates: Rates | None, params: Params) -> dict[str, Tensor] | None:
    """Inner rates by name."""
    if rates is None:
        return None
    return dict(zip(rates.names, params["rates.log"].exp().unbind(), strict=True))


def adapting(module: nn.Module, adapt: str) -> tuple[str, ...]:
    """Names of a module's weights that adapt: ``all``, those of the ``head``, or ``none``."""
    named = [name for name, p in module.named_parameters() if p.requires_grad and not name.startswith("rates.")]
    return tuple(name for name in named if adapt == "all" or (adapt == "head" and name.startswith("head.")))


class Layer(nn.Module):
    """A weight [in, out] and a bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))


class EgoGCN(nn.Module):
    """L graph convolutions and a linear head.

    Args:
        inputs: F.
        hidden: H.
        layers: L.
        outputs: width of the head, the space of prototypes where it is logit space.
        centres: C, 2 for pairs.
    """

    rates: Rates | None

    def __init__(self, inputs: int, hidden: int, layers: int, outputs: int, *, centres: int = 1) -> None:
        super().__init__()
        self.rates = None
        self.convs = nn.ModuleList(Layer(hidden if l else inputs, hidden) for l in range(layers))
        self.head = Layer(centres * hidden, outputs)
        for conv in self.convs:
            assert isinstance(conv, Layer)
            nn.init.xavier_uniform_(conv.weight)
        nn.init.kaiming_normal_(self.head.weight.t())

    def names(self, adapt: str) -> tuple[str, ...]:
        """Names of the weights that adapt: ``all``, ``head`` or ``none``."""
        return adapting(self, adapt)

    def rates_of(self, params: Params) -> dict[str, Tensor] | None:
        """Inner rates by name, where they are learned."""
        return rates_of(self.rates, params)

    def bases(self, params: Params, batch: TaskBatch) -> tuple[Base, Base]:
        """(support, query) with the part of their first layer that is common to all tasks and steps."""
        assert isinstance(batch.support, Side)
        assert isinstance(batch.query, Side)
        own, x = batch.support.ptr[0], batch.inputs.x
        if x is None:
            return Base(batch.support, None, own), Base(batch.query, None, own)
        weight = params[FIRST]
        product = sparse_linear(x, weight.t()) if isinstance(x, Csr) else x.to(weight.dtype) @ weight
        first, second = (
            aggregate(side.lift, product) for side in (batch.support, batch.query) if side.lift is not None
        )
        return Base(batch.support, first, own), Base(batch.query, second, own)

    def begun(self, params: Params, names: Iterable[str], tasks: int, support: Base) -> Params:
        """Fast weights before the first step."""
        fast = {name: params[name].expand(tasks, *params[name].shape) for name in names}
        if FIRST in fast and support.lifted is not None:
            fast[FIRST] = torch.zeros_like(support.lifted)  # C, of the support's rows
        return fast

    def embed(self, params: Params, fast: Params, base: Base) -> Embedded:
        """The points of a side.

        Args:
            params: of the network.
            fast: those that have adapted, in their place.
        """
        side, weights = base.side, {**params, **fast}
        bias = [weights[f"convs.{l}.bias"] for l in range(len(self.convs))]
        along: dict[str, Tensor] = {}
        if base.lifted is None:
            assert side.rows is not None
            h = stacked_linear(side.rows.to(weights[FIRST].dtype), weights[FIRST], bias[0], side.ptr[0])
        else:
            gram = [block.to(base.lifted.dtype) for block in side.gram]
            h = lifted_linear(base.lifted, gram, fast.get(FIRST), bias[0], side.ptr[0], base.support)
            along = {FIRST: h} if FIRST in fast else {}
        for l, hop in enumerate(side.hops, start=1):
            h = stacked_linear(aggregate(hop, torch.relu(h)), weights[f"convs.{l}.weight"], bias[l], side.ptr[l])
        h = torch.relu(h)
        tasks = len(side.ptr[0]) - 1
        return Embedded(h.view(tasks, -1, side.centres * h.shape[1]), along)

    def logits(self, params: Params, fast: Params, hidden: Tensor) -> Tensor:
        """[T, n, outputs]."""
        return headed(params, fast, hidden)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """[N, H] of all nodes of a whole graph (C = 1): what ``embed`` gives where the subgraph is the graph."""
        degree = torch.bincount(edge_index[1], minlength=x.shape[0]).clamp(min=1).to(x.dtype)
        weight = (degree[edge_index[0]] * degree[edge_index[1]]).rsqrt()
        for conv in self.convs:
            assert isinstance(conv, Layer)
            h = x @ conv.weight
            x = torch.relu(
                torch.zeros_like(h).index_add(0, edge_index[1], weight[:, None] * h[edge_index[0]]) + conv.bias
            )
        return x


def headed(params: Params, fast: Params, hidden: Tensor) -> Tensor:
    """[T, n, outputs] of a linear head on points [T, n, D]."""
    weight, bias = ({**params, **fast}[f"head.{name}"] for name in ("weight", "bias"))
    return hidden @ weight + (bias[:, None] if bias.dim() == 2 else bias)
