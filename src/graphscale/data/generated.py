"""Graphs like the large ones of the papers, of any size, made in blocks on disk.

Edges and features of every block follow from (seed, block) alone (``data.communities``), so a stream of
them can be run through twice and memory stays proportional to the number of nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.data.communities import Like, Plan
from graphscale.data.compress import Chunk, compress
from graphscale.graph import Graph, described
from graphscale.kernels.external import thin
from graphscale.mapped import mapped

_BLOCK = 1 << 20  # edges, or numbers of features, a block


def generated(like: Like, work: Path) -> Graph:
    """The graph, its edges and features in files in ``work``; 60 % train, 20 % validation, 20 % test nodes.

    Raises:
        InputError: where so many different edges do not fit among so many nodes.
    """
    plan = Plan.of(like)
    adj = _adjacency(plan, work)
    kind = plan.generator(3).random(like.nodes)
    masks = {
        "train": torch.from_numpy(kind < 0.6),
        "val": torch.from_numpy((kind >= 0.6) & (kind < 0.8)),
        "test": torch.from_numpy(kind >= 0.8),
    }
    y = torch.from_numpy(plan.label)
    return described(adj, x=_features(plan, work / "x.npy"), y=y, masks=masks)


def _adjacency(plan: Plan, work: Path) -> Csr:
    """Exactly the edges asked for: somewhat more are drawn, and what is over is left out at random."""
    like = plan.like
    margin = 6 * math.sqrt(like.edges) + 0.003 * like.edges  # of chance, and of the estimate
    while True:
        draws = plan.draws(like.edges + margin)

        def entries(draws: int = draws) -> Iterator[Chunk]:
            for block in range(-(-draws // _BLOCK)):
                source, target = plan.edges(block, min(_BLOCK, draws - block * _BLOCK))
                yield source, target, None
                yield target, source, None

        adj, _ = compress(entries, like.nodes, False, work)
        if adj.num_entries >= 2 * like.edges:
            break
        margin *= 2
    left = int(thin(adj.indptr.numpy(), adj.indices.numpy(), like.edges, np.uint64(like.seed)))
    # Both directions of every edge were placed, and went together: no need to look.
    return replace(adj, indices=adj.indices[:left], symmetric=True)


def _features(plan: Plan, file: Path) -> Tensor:
    """[N, F] means of classes, at a mean distance of 1, under noise; written in blocks."""
    like = plan.like
    means = plan.generator(2).standard_normal((like.classes, like.features), dtype=np.float32)
    means /= np.sqrt(np.float32(2 * like.features))
    step = max(1, _BLOCK // like.features)
    with open(file, "wb") as out:
        header = {"descr": "<f4", "fortran_order": False, "shape": (like.nodes, like.features)}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, like.nodes, step):
            label = plan.label[start : start + step]
            noise = plan.generator(2, start).standard_normal((len(label), like.features), dtype=np.float32)
            out.write((means[label] + np.float32(like.noise) * noise).astype("<f4", copy=False).data)
    return mapped(file)
