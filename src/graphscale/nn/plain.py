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


def plain(model: nn.Module, feed: Feed | None = None, *, bf16: bool = False) -> Apply:
    """``apply(params, batch)`` for a module: logits, no table writes, and the buffers it would update.

    Args:
        model: a module of the house (called with the block's ``Csr``), or any other with its ``feed``.
        bf16: run the forward pass under autocast to bfloat16; logits come back in float32.
    """
    call = Call(model, feed)

    def apply(params: Params, batch: Batch) -> Forward:
        # Modules update buffers in place: they get copies, and the loop commits those.
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        state = {f"model.{name}": value for name, value in params.items() if not name.startswith(ROWS)}
        state |= {f"model.{name}": value for name, value in buffers.items()}
        with torch.autocast(batch.n_id.device.type, torch.bfloat16, enabled=bf16):
            logits: Tensor = functional_call(call, state, (batch.x, batch.adj, batch.edge_attr))
        return Forward(logits.float() if bf16 else logits, {}, buffers if model.training else {})

    return apply
