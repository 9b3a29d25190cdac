"""What one step sees, and in which order a run sees it.

n nodes in the batch, r roots of them (first), e entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.edge_view import BlockEdges


@dataclass(frozen=True)
class Batch:
    """A square block of the graph. Law: roots first, halo after; only roots carry labels in ``y``.

    ``seed`` is a function of (run seed, epoch, position): all randomness of the step (dropout)
    follows from it. A ``padding`` batch makes ranks' steps equal in number; it is never computed.
    """

    n_id: Tensor  # [n] global rows, roots first
    num_roots: int
    adj: Csr  # [n, n]; rows past num_roots may be empty
    x: Tensor | Csr  # [n, F]
    y: Tensor  # [r] or [r, C]
    mask: Tensor  # [r] bool: roots in the loss
    seed: int
    count: int  # examples in the loss
    edge_attr: Tensor | None = None  # [e, D]
    needs: Mapping[str, Tensor] = field(default_factory=dict)  # table name -> ids to fetch
    padding: bool = False
    halo_y: Tensor | None = None  # [n - r] or [n - r, C], for LMC, whose halo has a gradient of its own
    halo_mask: Tensor | None = None  # [n - r] bool

    @property
    def halo(self) -> Tensor:
        """[n - r] global rows past the roots."""
        return self.n_id[self.num_roots :]

    @property
    def edge_index(self) -> Tensor:
        """[2, e] int64 source above target, local ids: PyG's view; accelerated layers find the block's CSR in it."""
        return BlockEdges.of(self.adj, torch.float32, weighted=True)

    @property
    def edge_weight(self) -> Tensor | None:
        """[e] in the order of ``edge_index``, by its name in PyG's ``Data``."""
        return self.adj.values

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.n_id.numel()

    @property
    def train_mask(self) -> Tensor:
        """``mask`` by the name that it has in PyG's ``Data``."""
        return self.mask

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``; ``needs`` stay, since tables lie with the host."""
        if self.n_id.device == device:
            return self
        return replace(
            self,
            n_id=self.n_id.to(device),
            adj=self.adj.to(device),
            x=self.x.to(device),
            y=self.y.to(device),
            mask=self.mask.to(device),
            edge_attr=None if self.edge_attr is None else self.edge_attr.to(device),
            halo_y=None if self.halo_y is None else self.halo_y.to(device),
            halo_mask=None if self.halo_mask is None else self.halo_mask.to(device),
        )


class Batches(Protocol):
    """An order of seeing the data."""

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches ``start``.. of epoch ``index``: a function of (seed, index), nothing else."""
        ...

    def __len__(self) -> int:
        """Batches per epoch, the same on every rank."""
        ...
