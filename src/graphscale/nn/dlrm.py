"""Networks that score records from rows of ids and dense numbers, under weights shared by all tasks or a slice a task.

T tasks, n records a task, F fields, d numbers of a row, D dense numbers. Weights: ``nn.affine``.

| network   | in the paper                                                                     |
|-----------|----------------------------------------------------------------------------------|
| dlrm      | bottom MLP, dot products of all pairs, top MLP (Naumov et al. 2019, figure 1)      |
| melu      | concatenated rows, decision-making layers (Lee et al., KDD 2019, equations 3 to 5) |
| wide_deep | a number an id, and an MLP of the rows (Cheng et al. 2016, equation 3)             |
| bias      | the wide part alone: a number an id, and an offset                                 |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from graphscale.kernels.pairs import pair_products
from graphscale.nn.affine import Tape, affine
from graphscale.step import Params
from graphscale.tasks import Layout

Kind = Literal["dlrm", "melu", "wide_deep", "bias"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a network.

    Args:
        dim: numbers of a row.
        bottom: widths of DLRM's bottom MLP, before the last one, which is ``dim``.
        top: widths of the hidden layers above the rows.
    """

    kind: Kind = "dlrm"
    dim: int = 16
    bottom: tuple[int, ...] = ()
    top: tuple[int, ...] = (64, 64)


class RatingNet(nn.Module):
    """Scores [T, n] of records.

    Args:
        shape: sizes.
        layout: of the records.
        offset: what is answered before training.

    ``row_dim`` numbers a row are asked of the table. ``head`` names the last layer, ``decision`` the layers above
    rows (MeLU's decision-making layers), in the parameters' names.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shape: Shape, layout: Layout, *, offset: float = 0.0) -> None:
        super().__init__()
        self.shape, self.wide = shape, shape.kind in ("wide_deep", "bias")
        self.deep = shape.kind != "bias"
        self.row_dim = (shape.dim if self.deep else 0) + self.wide
        fields, dense = len(layout.fields), len(layout.dense)
        self.register_buffer("shift", torch.zeros(dense))
        self.register_buffer("scale", torch.ones(dense))
        widths = [_width(shape, fields, dense), *(shape.top if self.deep else ()), 1]
        self.bottom = _layers([dense, *shape.bottom, shape.dim]) if shape.kind == "dlrm" and dense else nn.ModuleList()
        self.top = _layers(widths)
        self.decision = tuple(f"top.{i}." for i in range(len(self.top)))
        self.head = self.decision[-1]
        with torch.no_grad():
            last = self.top[-1]
            assert isinstance(last, nn.Linear)
            last.bias.fill_(offset)
            if not self.deep:
                last.weight.zero_()

    def measured(self, mean: Tensor, deviation: Tensor) -> None:
        """Standardise dense numbers by those of the training records."""
        self.shift.copy_(mean)
        self.scale.copy_(1 / deviation.clamp(min=1e-12))

    def score(self, params: Params, rows: Tensor, dense: Tensor, tape: Tape | None = None) -> Tensor:
        """[T, n] scores.

        Args:
            params: by the names of this module's parameters; [...] or [T, ...].
            rows: [T, n, F, row_dim] of a record's fields, mean rows of bags.
            dense: [T, n, D].
            tape: where what layers are fed and give is left.
        """
        dense = (dense.to(rows.dtype) - self.shift) * self.scale
        vectors = rows[..., self.wide :]
        if self.shape.kind == "dlrm":
            x = self._interactions(params, vectors, dense, tape)
        elif self.deep:
            x = torch.cat([vectors.flatten(2), dense], dim=-1)
        else:
            x = dense
        for i in range(len(self.top)):
            x = affine(params, f"top.{i}", torch.relu(x) if i else x, tape)
        score = x.squeeze(-1)
        return score + rows[..., 0].sum(-1) if self.wide else score

    def _interactions(self, params: Params, vectors: Tensor, dense: Tensor, tape: Tape | None) -> Tensor:
        """[T, n, d + pairs] the dense numbers' vector, and dot products of all pairs of vectors."""
        if len(self.bottom):
            x = dense
            for i in range(len(self.bottom)):
                x = torch.relu(affine(params, f"bottom.{i}", x, tape))
            vectors = torch.cat([x[..., None, :], vectors], dim=-2)
        tasks, n, count, dim = vectors.shape
        pairs = pair_products(vectors.reshape(tasks * n, count, dim)).view(tasks, n, -1)
        # Without dense numbers the first vector would be left out of all but its products.
        first = vectors[..., 0, :] if len(self.bottom) else vectors.flatten(2)
        return torch.cat([first, pairs], dim=-1)


def _width(shape: Shape, fields: int, dense: int) -> int:
    """Inputs of the top MLP."""
    if shape.kind == "bias":
        return dense
    if shape.kind != "dlrm":
        return fields * shape.dim + dense
    vectors = fields + (dense > 0)
    return (shape.dim if dense else fields * shape.dim) + vectors * (vectors - 1) // 2


def _layers(widths: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(widths)])


def pooled(table: Tensor, ids: Tensor, layout: Layout, *, whole: bool) -> Tensor:
    """[T, n, F, d]: rows of the fields; the mean of a bag's rows, zeros of a field without an id.

    Args:
        table: [u, d], or [T, v, d] where every task has its own.
        ids: [T, n, K] places in the table, -1 empty.
        whole: no field is a bag, and every record has an id in every slot.
    """
    place = ids.clamp(min=0).long()
    if table.dim() == 3:
        place = place + torch.arange(table.shape[0], device=ids.device)[:, None, None] * table.shape[1]
    rows = torch.nn.functional.embedding(place, table.reshape(-1, table.shape[-1]))  # [T, n, K, d]
    if whole:
        return rows
    there = (ids >= 0).to(rows.dtype)
    rows = rows * there[..., None]
    if layout.singles == len(layout.fields):
        return rows
    parts = [rows[..., : layout.singles, :]]
    for field, first in zip(layout.fields, layout.starts, strict=False):
        if field.bag:
            slots = slice(first, first + field.width)
            count = there[..., slots].sum(-1, keepdim=True).clamp(min=1)
            parts.append((rows[..., slots, :].sum(-2) / count)[..., None, :])
    return torch.cat(parts, dim=-2)
