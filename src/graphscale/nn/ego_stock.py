"""Any PyG model over whole subgraphs, a task after the other: what ``nn.ego`` does for its own layers at once.

The model gives every node of a subgraph H numbers; the centre's, side by side for a pair, meet a linear head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from graphscale.batches.tasks import TaskBatch
from graphscale.batches.whole import WholeSide
from graphscale.errors import InputError
from graphscale.nn.ego import Embedded, Layer, Rates, adapting, headed, rates_of
from graphscale.nn.named import STOCK, custom
from graphscale.step import Params


class WholeBase(NamedTuple):
    """A side; nothing of it is common to all steps."""

    side: WholeSide


def demand_apart(model: nn.Module, inputs: int, hidden: int) -> None:
    """Refuse a model in which one subgraph feels another, by a trial on two small graphs side by side and alone.

    Raises:
        InputError: where rows of one graph depend on the other, or are not ``hidden`` wide.
    """
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(7, inputs, generator=draw)
    edges = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 4], [1, 0, 0, 4, 3, 6, 5, 6]])  # nodes 0..2, nodes 3..6
    was, name = model.training, type(model).__name__
    model.eval()
    with torch.no_grad():
        both, alone = model(x, edges), model(x[:3], edges[:, :3])
    model.train(was)
    if both.shape != (7, hidden):
        raise InputError(
            f"{name} gives {list(both.shape)} for 7 nodes; [7, {hidden}] is needed: out_channels numbers a node."
        )
    if not torch.allclose(both[:3], alone, rtol=1e-4, atol=1e-5):
        raise InputError(
            f"{name} mixes graphs that are given side by side, so that queries would feel one another: a norm or a"
            " pooling over all nodes. Use torch.nn.LayerNorm (PyG's with mode='node')."
        )


class StockEgo(nn.Module):
    """A model and a head.

    Args:
        model: module(x, edge_index) -> [n, H].
        hidden: H.
        outputs: width of the head.
        centres: C, 2 for pairs.

    Raises:
        InputError: where the model keeps statistics of a batch: an inner loop would write them.
    """

    rates: Rates | None

    def __init__(self, model: nn.Module, hidden: int, outputs: int, *, centres: int = 1) -> None:
        super().__init__()
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            raise InputError(
                f"{type(model).__name__} has BatchNorm: its statistics would be those of a handful of nodes, and its"
                " running ones be written in every inner step. Use torch.nn.LayerNorm."
            )
        self.rates, self.model, self.head = None, model, Layer(centres * hidden, outputs)
        nn.init.kaiming_normal_(self.head.weight.t())

    @staticmethod
    def of(name: str, inputs: int, hidden: int, outputs: int, layers: int, *, centres: int = 1) -> StockEgo:
        """PyG's model of that name, or what ``module:callable`` returns.

        Raises:
            InputError: on an unknown name, or a callable that cannot be used.
        """
        if ":" in name:
            made = StockEgo(custom(name, inputs, hidden), hidden, outputs, centres=centres)
            demand_apart(made.model, inputs, hidden)
            return made
        from torch_geometric.nn import models

        kinds = {"sage": models.GraphSAGE, "gat": models.GAT, "gin": models.GIN}
        if name not in kinds:
            raise InputError(
                f"no model '{name}' for subgraphs. There are gcn, {', '.join(k for k in STOCK if k in kinds)}, or your"
                " module:callable."
            )
        return StockEgo(kinds[name](inputs, hidden, layers), hidden, outputs, centres=centres)

    def names(self, adapt: str) -> tuple[str, ...]:
        """Names of the weights that adapt: ``all``, ``head`` or ``none``."""
        return adapting(self, adapt)

    def rates_of(self, params: Params) -> dict[str, Tensor] | None:
        """Inner rates by name, where they are learned."""
        return rates_of(self.rates, params)

    def bases(self, params: Params, batch: TaskBatch) -> tuple[WholeBase, WholeBase]:
        """Both sides."""
        assert isinstance(batch.support, WholeSide)
        assert isinstance(batch.query, WholeSide)
        return WholeBase(batch.support), WholeBase(batch.query)

    def begun(self, params: Params, names: Iterable[str], tasks: int, support: WholeBase) -> Params:
        """Fast weights before the first step."""
        return {name: params[name].expand(tasks, *params[name].shape) for name in names}

    def embed(self, params: Params, fast: Params, base: WholeBase) -> Embedded:
        """The points of a side, task by task."""
        side, rows = base.side, []
        for t in range(len(side.nodes) - 1):
            x = side.x[side.nodes[t] : side.nodes[t + 1]]
            edge_index = side.edge_index[:, side.edges[t] : side.edges[t + 1]]
            weights = {
                name.removeprefix("model."): fast[name][t] if name in fast else value
                for name, value in params.items()
                if name.startswith("model.")
            }
            dtype = next(iter(weights.values())).dtype
            out = functional_call(self.model, weights, (x.to(dtype), edge_index))  # [n, H]
            rows.append(out[side.centre[t]].flatten(1))
        return Embedded(torch.stack(rows), {})

    def logits(self, params: Params, fast: Params, hidden: Tensor) -> Tensor:
        """[T, n, outputs]."""
        return headed(params, fast, hidden)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """[N, H] of all nodes of a graph."""
        out: Tensor = self.model(x, edge_index)
        return out
