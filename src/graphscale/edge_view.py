"""A block's ``edge_index`` that is only made when somebody looks at it.

Layers that run on the block's CSR (``nn.fast``) find it here; any other code sees PyG's [2, E].
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphscale.csr import Csr


class BlockEdges(Tensor):
    """[2, E] int64, sources above targets, of a block: a tensor to all code that takes one.

    The first operation on it makes the numbers and works on them. ``adj`` is the block as it lies in
    memory, ``weight`` its entries' weights as the model is given them.
    """

    adj: Csr
    weight: Tensor | None

    @staticmethod
    def __new__(cls, adj: Csr, weight: Tensor | None = None) -> BlockEdges:
        """The edges of a block."""
        self: BlockEdges = torch.Tensor._make_wrapper_subclass(
            cls, (2, adj.num_entries), dtype=torch.int64, device=adj.device
        )
        self.adj, self.weight = adj, weight
        return self

    @staticmethod
    def of(adj: Csr, dtype: torch.dtype, *, weighted: bool) -> BlockEdges:
        """The edges of a block, made once: what layers derive from a block serves all its passes.

        Args:
            dtype: of the weights.
            weighted: whether the model takes the block's values as weights.
        """
        made: dict[Any, BlockEdges] = adj.__dict__.setdefault("_edges", {})
        key = (dtype, weighted and adj.values is not None)
        if key not in made:
            # A twin, on the same memory: adj keeps its edges, and a circle of the two would live until the
            # garbage collector comes by, many batches later.
            twin = replace(adj)
            twin.__dict__.update({name: value for name, value in adj.__dict__.items() if name != "_edges"})
            made[key] = BlockEdges(twin, adj.values.to(dtype) if key[1] and adj.values is not None else None)
        return made[key]

    @cached_property
    def whole(self) -> Tensor:
        """The plain tensor."""
        return torch.stack([self.adj.indices.long(), self.adj.row_of])

    @cached_property
    def pattern(self) -> Csr:
        """[n, n] every entry 1."""
        return self.adj if self.adj.values is None else self.adj.with_values(None)

    @cached_property
    def weighted(self) -> Csr:
        """[n, n] with ``weight`` as values."""
        if self.weight is None:
            return self.pattern
        return replace(self.pattern.with_values(self.weight), degrees=self.adj.degrees)

    @cached_property
    def loopless(self) -> Csr:
        """[n, n] the pattern without its diagonal."""
        return self.pattern.without_loops()

    @cached_property
    def looped(self) -> Csr:
        """[n, n] the pattern with its diagonal, but of rows whose entries the block has cut off.

        What such a row gives is not used; a halo's would make two thirds of the rows of an attention of GAS.
        """
        if self.adj.degrees is None:
            return self.pattern.with_diagonal()
        here, there = self.adj.indptr.diff(), self.adj.degrees[:, 0]
        return self.pattern.with_diagonal((here > 0) | (there == 0))

    @cached_property
    def degree(self) -> Tensor:
        """[n, 1] float32: entries of every row."""
        return self.adj.indptr.diff().float()[:, None]

    @cached_property
    def divisor(self) -> Tensor:
        """[n, 1] float32 of a mean: entries of every row in the graph, where that is known, at least 1."""
        return self.pattern.degree().clamp(min=1).float()[:, None]

    @cached_property
    def roots(self) -> dict[tuple[bool, float, torch.dtype], tuple[Tensor, Tensor | None]]:
        """What ``nn.fast.gcn`` keeps of its normalisation: by (weighted, weight of the loops it adds, type)."""
        return {}

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Any operation works on the plain tensor."""
        args, kwargs = pytree.tree_map_only(BlockEdges, lambda edges: edges.whole, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"BlockEdges({self.adj.num_entries} entries, {self.adj.num_rows} nodes)"
