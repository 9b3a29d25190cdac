"""Embeddings without labels: Deep Graph Infomax (Velickovic et al., ICLR 2019), by PyG's module of that name.

What TLP (Tan et al., LoG 2022) found to beat episodic meta-learning on citation graphs is of this kind: an encoder that
never saw a label, and a linear probe on the support set.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import DeepGraphInfomax

from graphscale.csr import Csr
from graphscale.kernels.aggregate import normalised
from graphscale.kernels.sparse_linear import sparse_linear


class Encoder(nn.Module):
    """L graph convolutions with self loops over a whole graph.

    Args:
        inputs: F.
        hidden: H.
        layers: L.
    """

    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.lins = nn.ModuleList(nn.Linear(hidden if l else inputs, hidden, bias=False) for l in range(layers))
        self.acts = nn.ModuleList(nn.PReLU(hidden) for _ in range(layers))

    def forward(self, order: Tensor, x: Tensor | Csr, adj: Csr) -> Tensor:
        """[N, H] of a graph whose node i has the features of node ``order[i]``.

        Permuting features before a product is permuting its rows, so sparse ones stay as they are.
        """
        first = dict(self.named_parameters())["lins.0.weight"]
        h = (sparse_linear(x, first) if isinstance(x, Csr) else x @ first.t())[order]
        scale = (adj.indptr.diff().to(h.dtype) + 1).rsqrt()[:, None]
        for l, (lin, act) in enumerate(zip(self.lins, self.acts, strict=True)):
            h = lin(h) if l else h
            h = act(normalised(adj, h, pre=scale, post=scale, diag=scale.square()))
        return h


def infomax(inputs: int, hidden: int, layers: int) -> DeepGraphInfomax:
    """The module; called as ``module(order, x, adj)``, with ``loss(pos, neg, summary)``."""

    def shuffled(order: Tensor, x: Tensor | Csr, adj: Csr) -> tuple[Tensor, Tensor | Csr, Csr]:
        return order[torch.randperm(order.numel(), device=order.device)], x, adj

    def summary(z: Tensor, *_: object) -> Tensor:
        return z.mean(0).sigmoid()

    return DeepGraphInfomax(hidden, Encoder(inputs, hidden, layers), summary, shuffled)
