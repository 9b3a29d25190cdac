"""Split masks [N], or [N, S] where a data set holds several splits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from graphscale.errors import InputError


def chosen(masks: Mapping[str, Tensor], split: int, name: str) -> dict[str, Tensor]:
    """One split [N] of masks that may hold several [N, S]; a mask [N] beside them belongs to every split."""
    empty = [key for key, mask in masks.items() if mask.dim() == 2 and mask.shape[1] == 0]
    if empty:
        raise InputError(f"the {empty[0]} mask of {name} is [N, 0]: it holds no split. Give [N] or [N, S] booleans.")
    sizes = {key: mask.shape[1] for key, mask in masks.items() if mask.dim() == 2}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{key} {size}" for key, size in sizes.items())
        raise InputError(f"the masks of {name} hold different numbers of splits: {said}. Give each the same, or one.")
    splits = max(sizes.values(), default=1)
    if not 0 <= split < splits:
        raise InputError(f"split {split} asked, but {name} holds {splits}. Choose --split 0..{splits - 1}.")
    return {key: mask[:, split].contiguous() if mask.dim() == 2 else mask for key, mask in masks.items()}


def all_of(masks: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Masks [N, S] of every split; None where there is one only."""
    splits = max((mask.shape[1] for mask in masks.values() if mask.dim() == 2), default=1)
    if splits == 1:
        return None
    return {key: mask if mask.dim() == 2 else mask[:, None].expand(-1, splits) for key, mask in masks.items()}
