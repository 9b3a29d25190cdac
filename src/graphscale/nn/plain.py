"""A module as a pure function of (parameters, batch): nothing of it is written while it runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from graphscale.batch import Batch
from graphscale.csr import Csr
from graphscale.nn.stock import Feed
from graphscale.step import ROWS, Apply, Forward, Params


class Call(nn.Module):
    """Gives ``functional_call`` one forward for every kind of model."""

    def __init__(self, model: nn.Module, feed: Feed | None) -> None:
        super().__init__()
        self.model, self.feed = model, feed

    def forward(self, x: Tensor | Csr, adj: Csr, edge_attr: Tensor | None) -> Tensor:
        """Logits [n, C]."""
        if self.feed is None:
            logits: Tensor = self.model(x, adj)
            return logits
        return self.feed(self.model, x, adj, edge_attr)

    def state(self, params: Params) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(weights, copies of the buffers): modules update buffers in place, and the loop commits the copies."""
        weights = {name: value for name, value in params.items() if not name.startswith(ROWS)}
        return weights, {name: value.clone() for name, value in self.model.named_buffers()}

    def logits(self, weights: Params, buffers: Params, batch: Batch, *, bf16: bool) -> Tensor:
        """[n, C] in float32 where the pass runs under autocast to bfloat16, else in the model's type."""
        state = {f"model.{name}": value for name, value in {**weights, **buffers}.items()}
        with torch.autocast(batch.n_id.device.type, torch.bfloat16, enabled=bf16):
            out: Tensor = functional_call(self, state, (batch.x, batch.adj, batch.edge_attr))
        return out.float() if bf16 else out


def plain(model: nn.Module, feed: Feed | None = None, *, bf16: bool = False) -> Apply:
    """``apply(params, batch)`` for a module: logits, no table writes, and the buffers it would update.

    Args:
        model: a module of the house (called with the block's ``Csr``), or any other with its ``feed``.
        bf16: run the forward pass under autocast to bfloat16; logits come back in float32.
    """
    call = Call(model, feed)

    def apply(params: Params, batch: Batch) -> Forward:
        weights, buffers = call.state(params)
        return Forward(call.logits(weights, buffers, batch, bf16=bf16), {}, buffers if model.training else {})

    return apply
