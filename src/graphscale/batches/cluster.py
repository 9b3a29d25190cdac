"""Stochastic multiple partitions (Chiang et al., KDD 2019, section 3.2 and Algorithm 1).

Each step unites q clusters drawn without replacement; the links among them, between-cluster links
included, form the block, which the model normalises anew from the degrees inside it (section 6.2).
Every cluster is seen once an epoch, as in the released code (the paper's Algorithm 1 draws afresh
each step).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from graphscale import rng
from graphscale.batch import Batch
from graphscale.batches.deal import dealt, demand_features, steps
from graphscale.csr import Csr
from graphscale.errors import InputError
from graphscale.graph import Graph, take_rows
from graphscale.kernels.layout import induced_by_parts
from graphscale.reach import Reach
from graphscale.world import World


class ClusterBatches:
    """q clusters a batch, each cluster once an epoch; a batch is q row ranges of the stored CSR.

    The last batch of an epoch may hold fewer clusters. Over several ranks the same global order is
    dealt out in turn; a rank that runs short gets a padding batch.

    Args:
        graph: in cluster order, with features.
        parts_per_batch: q.
        split: mask of the nodes in the loss.
        halo: names of the tables whose rows the halo needs; with them (or with none of them, but not None) a
            batch has all sources of its roots' edges as a halo.
        filled: whether rows of the halo are filled (``reach``).
        inner: whether the halo's rows have their entries within the block, and its labels are given (LMC).
    """

    def __init__(
        self,
        graph: Graph,
        parts_per_batch: int,
        *,
        seed: int = 0,
        split: str = "train",
        world: World | None = None,
        halo: Sequence[str] | None = None,
        filled: bool = False,
        inner: bool = False,
    ) -> None:
        demand_features(graph)
        # Clusters that hold no node have nothing to be seen.
        self.part_ptr = graph.part_ptr[torch.cat([graph.part_ptr.diff() > 0, torch.tensor([True])])]
        self.num_parts = self.part_ptr.numel() - 1
        if not 1 <= parts_per_batch <= self.num_parts:
            raise InputError(
                f"{parts_per_batch} clusters a batch asked of {self.num_parts}."
                f" Choose --parts-per-batch between 1 and {self.num_parts}."
            )
        self.graph, self.parts_per_batch, self.seed, self.split = graph, parts_per_batch, seed, split
        self.world = world or World()
        self.halo, self.filled, self.inner = halo, filled, inner
        self.reach = None if halo is None else Reach(graph.adj)
        self._part_of: Tensor | None = None

    @property
    def smallest(self) -> int:
        """Nodes of the smallest batch that an epoch can hold."""
        last = self.num_parts % self.parts_per_batch or self.parts_per_batch
        return int(self.part_ptr.diff().sort().values[:last].sum())

    def __len__(self) -> int:
        return steps(-(-self.num_parts // self.parts_per_batch), self.world)

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of epoch ``index`` from the ``start``-th on."""
        order = torch.randperm(self.num_parts, generator=rng.generator(rng.ORDER, self.seed, index))
        groups = order.split(self.parts_per_batch)
        for hand in dealt(len(groups), self.world, self.seed, index, start):
            yield self.block(groups[hand.group], hand.seed, padding=hand.padding)

    def block(self, parts: Tensor, seed: int, *, padding: bool = False) -> Batch:
        """The batch of the given clusters: their nodes, and all links among them."""
        parts = parts.sort().values
        graph = self.graph
        lo, hi = self.part_ptr[parts], self.part_ptr[parts + 1]
        mask = slices(graph.masks[self.split], lo, hi)
        n_id = torch.cat([torch.arange(a, b) for a, b in zip(lo.tolist(), hi.tolist(), strict=True)])
        x = _features(graph, lo, hi)
        if self.reach is None:
            adj, entry = self._induced(parts)
        else:
            n_id, adj, entry = self.reach.block(n_id, filled=self.filled, inner=self.inner)
            x = _joined(x, take_rows(graph.x, n_id[mask.numel() :]))
        halo = n_id[mask.numel() :]
        return Batch(
            n_id=n_id,
            num_roots=mask.numel(),
            adj=adj,
            x=x,
            y=slices(graph.y, lo, hi),
            mask=mask,
            seed=seed,
            count=int(mask.sum()),
            edge_attr=None if graph.edge_attr is None else graph.edge_attr[entry],
            needs=dict.fromkeys(self.halo or (), halo),
            padding=padding,
            halo_y=graph.y[halo] if self.inner else None,
            halo_mask=graph.masks[self.split][halo] if self.inner else None,
        )

    def _induced(self, parts: Tensor) -> tuple[Csr, Tensor]:
        adj = self.graph.adj
        if parts.numel() == self.num_parts:
            return adj, torch.arange(adj.num_entries) if self.graph.edge_attr is not None else parts
        want_entry = adj.values is not None or self.graph.edge_attr is not None
        if self._part_of is None:  # [N], which blocks with a halo do without
            numbers = torch.arange(self.num_parts, dtype=torch.int32)
            self._part_of = torch.repeat_interleave(numbers, self.part_ptr.diff())
        arrays = induced_by_parts(
            adj.indptr.numpy(), adj.indices.numpy(), self.part_ptr.numpy(), self._part_of.numpy(), parts.numpy(),
            want_entry,
        )  # fmt: skip
        indptr, indices, entry = (torch.from_numpy(a) for a in arrays)
        values = None if adj.values is None else adj.values[entry]
        return Csr(indptr, indices, values, indptr.numel() - 1, adj.symmetric), entry


def slices(rows: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """Row ranges lo[i]:hi[i], one after the other: block copies."""
    return torch.cat([rows[a:b] for a, b in zip(lo.tolist(), hi.tolist(), strict=True)])


def _joined(x: Tensor | Csr, halo: Tensor | Csr | None) -> Tensor | Csr:
    """Rows of the roots, then those of the halo."""
    if isinstance(x, Tensor):
        assert isinstance(halo, Tensor)
        return torch.cat([x, halo])
    assert isinstance(halo, Csr)
    values = None
    if x.values is not None and halo.values is not None:
        values = torch.cat([x.values, halo.values])
    indptr = torch.cat([x.indptr, halo.indptr[1:] + x.indptr[-1]])
    return Csr(indptr, torch.cat([x.indices, halo.indices]), values, x.num_cols)


def _features(graph: Graph, lo: Tensor, hi: Tensor) -> Tensor | Csr:
    if isinstance(graph.x, Tensor):
        return slices(graph.x, lo, hi)
    assert graph.x is not None
    rows = torch.cat([torch.arange(a, b) for a, b in zip(lo.tolist(), hi.tolist(), strict=True)])
    return graph.x.take(rows)
