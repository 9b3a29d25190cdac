"""Blocks of any roots with all sources of their edges: the halo, whose own edges are left out.

Layers that divide by the degree of an edge's source need it though its row is cut off: a block carries the
degrees of the whole graph (``Csr.degrees``). Code that counts entries itself needs rows of the right length
instead: they are filled on request. n nodes of a block, roots first; e entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphscale.csr import Csr
from graphscale.kernels.layout import count_among, fill_among, loop_entries
from graphscale.kernels.sampling import sample_block


class Reach:
    """What the whole graph says of every node, and the scratch that makes blocks of it. Not for two threads at once."""

    def __init__(self, adj: Csr) -> None:
        self.adj = adj
        self.place = torch.full((adj.num_rows,), -1, dtype=torch.int32)
        self.weight = None if adj.values is None else adj.degree()  # [N] sums of a row's values
        # [N] the entry of every node's loop or -1; None where there are none
        self.loop = torch.from_numpy(loop_entries(adj.indptr.numpy(), adj.indices.numpy())) if adj.has_loops() else None

    def block(self, roots: Tensor, *, filled: bool = False, inner: bool = False) -> tuple[Tensor, Csr, Tensor]:
        """(n_id [n], the square block, [e] the place in the graph of every entry).

        Args:
            roots: distinct nodes.
            filled: rows of the halo are as long and as heavy as in the graph, though their columns mean
                nothing; else they hold their loop, if they have one, and nothing more.
            inner: rows of the halo hold their entries within the block.
        """
        adj = self.adj
        n_id, indptr, indices, entry = (
            torch.from_numpy(a)
            for a in sample_block(adj.indptr.numpy(), adj.indices.numpy(), roots.numpy(), (-1,), 0, self.place.numpy())
        )
        halo, first = n_id[roots.numel() :], roots.numel()
        if inner:
            indptr, indices, entry = self._inside(n_id)
        elif halo.numel() and (filled or self.loop is not None):
            more, ptr = adj.entries_of(halo) if filled else self._loops_of(halo)
            local = torch.repeat_interleave(torch.arange(first, n_id.numel()), ptr.diff())
            # A loop stays a loop: layers that add loops count those that are there.
            column = torch.where(adj.indices[more] == n_id[local], local, 0).to(indices.dtype)
            indptr = torch.cat([indptr[:first], (ptr + indices.numel()).to(indptr.dtype)])
            indices, entry = torch.cat([indices, column]), torch.cat([entry, more])
        values = None if adj.values is None else adj.values[entry]
        return n_id, Csr(indptr, indices, values, n_id.numel(), inner and adj.symmetric, self._degrees(n_id)), entry

    def _degrees(self, nodes: Tensor) -> Tensor:
        """[n, 2] entries, and sum of values, of whole rows."""
        counts = (self.adj.indptr[nodes + 1] - self.adj.indptr[nodes]).double()
        return torch.stack([counts, counts if self.weight is None else self.weight[nodes]], dim=1)

    def _inside(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Entries among ``nodes``: indptr, local columns, places in the graph."""
        adj = self.adj
        self.place[nodes] = torch.arange(nodes.numel(), dtype=torch.int32)
        arrays = (adj.indptr.numpy(), adj.indices.numpy(), nodes.numpy(), self.place.numpy(), True)
        indptr = torch.from_numpy(count_among(*arrays))
        indices = torch.empty(int(indptr[-1]), dtype=adj.indices.dtype)
        entry = torch.empty(indices.numel(), dtype=torch.int64)
        fill_among(*arrays, indices.numpy(), entry.numpy())
        self.place[nodes] = -1
        return indptr.to(adj.indptr.dtype), indices, entry

    def _loops_of(self, halo: Tensor) -> tuple[Tensor, Tensor]:
        """Entries of the loops of ``halo``, and the indptr of their rows."""
        assert self.loop is not None
        entry = self.loop[halo]
        there = entry >= 0
        return entry[there], torch.nn.functional.pad(there.cumsum(0), (1, 0))
