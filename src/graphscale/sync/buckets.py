"""Gradients in flat buckets whose sums over ranks overlap the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphscale.world import World


class _Bucket:
    """Some parameters' gradients in one flat buffer, with a flag each that says whether it was computed."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.sizes = [p.numel() for p in parameters]
        first = parameters[0]
        self.flat = torch.zeros(sum(self.sizes) + len(parameters), dtype=first.dtype, device=first.device)
        *self.views, self.used = self.flat.split([*self.sizes, len(parameters)])
        self.pending = len(parameters)
        self.work: Any = None

    def take(self, place: int) -> None:
        gradient = self.parameters[place].grad
        if gradient is not None:
            self.views[place].copy_(gradient.reshape(-1))
            self.used[place] = 1.0

    def give(self) -> None:
        """Hand the sums back; a parameter that no rank used keeps no gradient, as in one process."""
        for p, view, used in zip(self.parameters, self.views, self.used.tolist(), strict=True):
            p.grad = view.view_as(p).clone() if used else None
        self.flat.zero_()
        self.pending, self.work = len(self.parameters), None


class Buckets:
    """Sums parameters' gradients over ranks, bucket by bucket as the backward pass completes them.

    Buckets are always begun in the same order on every rank, whether a rank had a backward pass or not.

    Args:
        parameters: in the model's order; gradients of the last are ready first.
        size: bytes a bucket.
    """

    def __init__(self, parameters: list[nn.Parameter], world: World, *, size: int = 1 << 22) -> None:
        self.world = world
        self.buckets: list[_Bucket] = []
        self._begun = 0
        self.sent = 0  # bytes to other ranks, so far
        group: list[nn.Parameter] = []
        for p in reversed(parameters):
            full = sum(q.numel() * q.element_size() for q in group) >= size
            if group and (full or group[0].dtype != p.dtype or group[0].device != p.device):
                self.buckets.append(_Bucket(group))
                group = []
            group.append(p)
        if group:
            self.buckets.append(_Bucket(group))
        for bucket in self.buckets:
            for place, p in enumerate(bucket.parameters):
                p.register_post_accumulate_grad_hook(self._hook(bucket, place))

    def _hook(self, bucket: _Bucket, place: int) -> Any:
        def ready(_: Tensor) -> None:
            if bucket.work is not None or float(bucket.used[place]):
                raise RuntimeError("two backward passes before one reduction: add the losses up, then go back once.")
            bucket.take(place)
            bucket.pending -= 1
            self._begin(all_of_them=False)

        return ready

    def _begin(self, *, all_of_them: bool) -> None:
        while self._begun < len(self.buckets):
            bucket = self.buckets[self._begun]
            if bucket.pending and not all_of_them:
                return
            bucket.work = self.world.begin_sum(bucket.flat)
            self.sent += 2 * bucket.flat.nbytes * (self.world.size - 1) // self.world.size  # as in a ring
            self._begun += 1

    def finish(self) -> None:
        """Begin what the backward pass did not reach, wait for all sums, hand them back as ``grad``."""
        self._begin(all_of_them=True)
        for bucket in self.buckets:
            bucket.work.wait()
            bucket.give()
        self._begun = 0
