"""What cannot be a graph is refused here, before any work: a fact, a reason, a next step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.errors import InputError


def check_arrays(
    edge_index: Tensor,
    num_nodes: int,
    x: Tensor | Csr | None,
    y: Tensor,
    masks: Mapping[str, Tensor],
    weight: Tensor | None,
    edge_attr: Tensor | None,
    name: str,
) -> None:
    """Refuse what cannot be a graph, saying what, why and what to do."""
    if num_nodes < 1:
        raise InputError(f"{name} has no nodes. There is nothing to train on: check the file.")
    integers = not (edge_index.is_floating_point() or edge_index.is_complex() or edge_index.dtype == torch.bool)
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or not integers:
        raise InputError(
            f"edge_index of {name} is {edge_index.dtype} {list(edge_index.shape)}; integers [2, E] are needed,"
            " sources above targets. Transpose or convert it."
        )
    if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < num_nodes:
        raise InputError(
            f"edge_index of {name} names nodes {int(edge_index.min())}..{int(edge_index.max())}, but its"
            f" {num_nodes} nodes are 0..{num_nodes - 1}. Renumber the ids or correct num_nodes."
        )
    rows = {"x": x, "y": y, **masks}
    for key, value in rows.items():
        length = num_nodes if value is None else value.shape[0] if len(value.shape) else 0
        if length != num_nodes:
            raise InputError(
                f"{key} of {name} has {length} rows for {num_nodes} nodes. Give one row a node, in the order of ids."
            )
    if isinstance(x, Tensor) and x.dim() != 2:
        raise InputError(f"x of {name} has shape {list(x.shape)}; [N, F] is needed. Reshape the features.")
    for key, edge_value, dims in (("edge_weight", weight, (1,)), ("edge_attr", edge_attr, (1, 2))):
        if edge_value is not None and edge_value.dim() not in dims:
            raise InputError(
                f"{key} of {name} has shape {list(edge_value.shape)}; {'[E]' if dims == (1,) else '[E] or [E, D]'} is"
                " needed. Reshape it, or store vectors of an edge as edge_attr."
            )
        if edge_value is not None and edge_value.shape[0] != edge_index.shape[1]:
            raise InputError(
                f"{key} of {name} has {edge_value.shape[0]} rows for {edge_index.shape[1]} edges. Give one row an edge."
            )
    finite = {"x": x.values if isinstance(x, Csr) else x, "edge_weight": weight, "edge_attr": edge_attr}
    if y.is_floating_point():
        finite["y"] = y
    for key, numbers in finite.items():
        if numbers is not None and numbers.is_floating_point() and not bool(torch.isfinite(numbers).all()):
            bad = int((~torch.isfinite(numbers)).sum())
            raise InputError(
                f"{key} of {name} has {bad} values that are NaN or infinite; training would spread them to every"
                " node. Replace them (for instance with the column's mean) and try again."
            )
    check_labels(y, masks, name)


def check_classes(y: Tensor, name: str) -> None:
    """Classes [N] are 0, 1, ..., no more than there are nodes, or -1."""
    if int(y.min()) < -1:
        raise InputError(
            f"y of {name} has values {int(y.min())}..{int(y.max())}; classes are 0, 1, ... and -1 means unlabelled."
        )
    if int(y.max()) >= max(2, y.numel()):
        raise InputError(
            f"y of {name} names class {int(y.max())}, and there are {y.numel()} nodes: a model would need an output for"
            " every number up to it. Renumber the classes 0, 1, ..."
        )


def check_labels(y: Tensor, masks: Mapping[str, Tensor], name: str) -> None:
    """Labels inside the classes, splits of booleans that hold labelled nodes and do not overlap; without, no labels."""
    if y.dim() == 1 and y.is_floating_point():
        raise InputError(
            f"y of {name} is {y.dtype} [N]; classes are integers from 0. For several labels a node give [N, C]."
        )
    if y.dim() == 1:
        if masks and int(y.max()) < 0:
            raise InputError(
                f"y of {name} holds no class, only {int(y.max())}; classes are 0, 1, ... and -1 means unlabelled."
            )
        check_classes(y, name)
    if y.dim() == 2 and not bool(((y == 0) | (y == 1)).all()):
        raise InputError(f"y of {name} is [N, C], so every value must be 0 or 1. Encode the labels so.")
    if y.dim() > 2:
        raise InputError(
            f"y of {name} has shape {list(y.shape)}; [N] classes or [N, C] labels are needed. Reshape them."
        )
    seen = torch.zeros(y.shape[0], dtype=torch.int32)
    for split, mask in masks.items():
        if mask.dtype != torch.bool or mask.dim() != 1:
            raise InputError(
                f"the {split} mask of {name} is {mask.dtype} {list(mask.shape)}; [N] booleans are needed."
                " Several splits are stored as [N, S] and chosen with --split."
            )
        if not bool((mask if y.dim() == 2 else mask & (y >= 0)).any()):
            raise InputError(
                f"the {split} split of {name} has no labelled node. Choose another split or mend the mask."
            )
        seen += mask
    if int(seen.max()) > 1:
        raise InputError(
            f"{int((seen > 1).sum())} nodes of {name} lie in more than one of {', '.join(masks)}: scores on them"
            " would be meaningless. Make the splits disjoint."
        )
