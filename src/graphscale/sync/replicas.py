"""Every rank trains the whole model: gradients are summed and divided by the reduced count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from graphscale.batch import Batch
from graphscale.step import Objective, Slot
from graphscale.sync.buckets import Buckets
from graphscale.world import World


class Replicas:
    """One slot a rank; after ``reduce`` every rank holds the gradient of the mean over all examples.

    Args:
        clip: largest norm of the gradient, after the reduction; None leaves it.
        per_step: examples that a step has in the mean. Sums are divided by it in place of the reduced count: then
            an epoch's gradients add up to those of the full batch, however unevenly examples are spread.
        bucket: bytes of gradients that are summed at a time.
    """

    def __init__(
        self,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        objective: Objective[Batch],
        *,
        world: World | None = None,
        clip: float | None = None,
        per_step: float | None = None,
        bucket: int = 1 << 22,
    ) -> None:
        self.slot, self.world, self.clip = Slot(module, optimiser, objective), world or World(), clip
        self.per_step = per_step
        trained = [p for p in module.parameters() if p.requires_grad]
        self._buckets = Buckets(trained, self.world, size=bucket) if self.world.size > 1 else None

    def slots(self) -> Sequence[Slot]:
        """The one slot."""
        return (self.slot,)

    def reduce(self, slot: Slot, count: int) -> int:
        """End the sums that the backward pass began, divide by the reduced count, clip."""
        if self._buckets is not None:
            self._buckets.finish()
        total = self.world.total(count)
        parameters = list(slot.params().values())
        gradients = [p.grad for p in parameters if p.grad is not None]
        if total > 0 and gradients:
            torch._foreach_div_(gradients, self.per_step or float(total))
            if self.clip is not None:
                nn.utils.clip_grad_norm_(parameters, self.clip)
        return total

    def finish(self, step: int) -> None:
        """Buffers, such as BatchNorm's statistics, are those of the first rank's batches."""
        if self.world.size > 1:
            for _, buffer in self.slot.module.named_buffers():
                self.world.first(buffer)

    def state(self) -> list[Any]:
        """The one slot's."""
        return [{"module": self.slot.module.state_dict(), "optimiser": self.slot.optimiser.state_dict()}]

    def restore(self, state: list[Any]) -> None:
        """The reverse of ``state``."""
        (kept,) = state
        self.slot.module.load_state_dict(kept["module"])
        self.slot.optimiser.load_state_dict(kept["optimiser"])
