"""Node classification: cross entropy over the labelled roots of a batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from graphscale.batch import Batch
from graphscale.rng import isolated
from graphscale.step import Apply, Objective, Outcome, Params


def node_loss_sum(logits: Tensor, y: Tensor) -> Tensor:
    """Sum over nodes: cross entropy for classes [k]; for labels [k, C] the mean over C of binary ones."""
    if y.dim() == 2:
        return F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none").mean(1).sum()
    return F.cross_entropy(logits, y, reduction="sum")


def node_loss(apply: Apply) -> Objective[Batch]:
    """The loss of equation (2) of Cluster-GCN, as a sum over the batch's labelled roots.

    Args:
        apply: (params, batch) -> logits [n, C]; rows past the roots count where the batch has the halo's labels.
    """

    def objective(params: Params, batch: Batch) -> Outcome:
        with isolated(batch.seed, batch.n_id.device):
            forward = apply(params, batch)
        roots = forward.logits[: batch.num_roots][batch.mask]  # [count, C]
        labels = batch.y[batch.mask]
        loss = node_loss_sum(roots, labels)
        if batch.halo_y is not None:
            halo = node_loss_sum(forward.logits[batch.num_roots :][batch.halo_mask], batch.halo_y[batch.halo_mask])
            loss = loss + (halo - halo.detach())  # its gradient, not its value: it is counted where they are roots
        if forward.penalty is not None:
            loss = loss + batch.count * forward.penalty
        return Outcome(
            loss_sum=loss,
            count=batch.count,
            writes=forward.writes,
            buffers=forward.buffers,
            taps=forward.taps,
            scores={"logits": roots.detach(), "labels": labels},
        )

    return objective
