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
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats for m in model.modules()):
            raise InputError(
                f"{type(model).__name__} has BatchNorm: its running statistics would be written in every inner step,"
                " from a handful of nodes. Use LayerNorm or GraphNorm."
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
            return StockEgo(custom(name, inputs, hidden), hidden, outputs, centres=centres)
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
