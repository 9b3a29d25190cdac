"""The normalised adjacencies of Cluster-GCN as one diagonal form: ``post * (A (pre * x)) + diag * x``.

With d the (weighted) in-degrees inside the block, A without self loops:

| name     | paper                           | pre      | post     | diag                      |
|----------|---------------------------------|----------|----------|---------------------------|
| row      | (1): D^-1 A                     | 1        | 1/d      | 0                         |
| row+I    | (9): D^-1 A + I                 | 1        | 1/d      | 1                         |
| self     | (10): (D+I)^-1 (A+I)            | 1        | 1/(d+1)  | 1/(d+1)                   |
| self+I   | (10)+(9)                        | 1        | 1/(d+1)  | 1/(d+1) + 1               |
| diag     | (10)+(11): lambda diag(.) added | 1        | 1/(d+1)  | (1 + lambda)/(d+1)        |
| sym      | Kipf and Welling 2017           | (d+1)^-½ | (d+1)^-½ | 1/(d+1)                   |

So no entry ever carries a normalised weight: a block is re-normalised in O(n), and an unweighted
graph is summed unweighted. The paper's loops are the ``diag`` column; loops of the data are left
out (the released code drops them before METIS and keeps them in A).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from graphscale import scratch
from graphscale.csr import Csr
from graphscale.kernels.aggregate import gather_sum, normalised

Norm = Literal["row", "row+I", "self", "self+I", "diag", "sym"]


@dataclass(frozen=True, eq=False)
class Propagation:
    """A block with its normalisation, ready to be applied."""

    adj: Csr  # [n, n] without self loops
    pre: Tensor | None  # [n, 1]
    post: Tensor  # [n, 1]
    diag: Tensor | None  # [n, 1]

    @staticmethod
    def of(adj: Csr, norm: Norm, diag_lambda: float, dtype: torch.dtype) -> Propagation:
        """Normalise a block from the degrees inside it."""
        degree = adj.degree()[:, None]
        if norm in ("row", "row+I"):
            inverse = 1 / torch.where(degree > 0, degree, 1.0)
            return Propagation(
                adj,
                None,
                inverse.to(dtype),
                torch.ones_like(inverse, dtype=dtype) if norm == "row+I" else None,
            )
        inverse = 1 / (degree + 1)
        if norm == "sym":
            root = inverse.sqrt().to(dtype)
            return Propagation(adj, root, root, inverse.to(dtype))
        diag = {"self": inverse, "self+I": inverse + 1, "diag": (1 + diag_lambda) * inverse}[norm]
        return Propagation(adj, None, inverse.to(dtype), diag.to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """[n, d] -> [n, d], differentiable in x."""
        pre, post, diag = (None if v is None else v.to(x.dtype) for v in (self.pre, self.post, self.diag))
        return normalised(self.adj, x, pre=pre, post=post, diag=diag)

    def scaled(self, x: Tensor) -> Tensor:
        """[n, d] ``pre * x``, without gradients; on a CPU in scratch."""
        if self.pre is None:
            return x
        if x.device.type != "cpu":
            return x * self.pre
        out = scratch.empty(*x.shape, dtype=x.dtype)
        for some in scratch.blocks(*x.shape):
            torch.mul(x[some], self.pre[some], out=out[some])
        return out

    def rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Rows start:stop of the product, without gradients; ``x`` is already multiplied by ``pre``."""
        sums = gather_sum(self.adj.rows(start, stop), x)  # [stop - start, d]
        own = x[start:stop] if self.pre is None else x[start:stop] / self.pre[start:stop]
        return self._finish(sums, own, self.post[start:stop], None if self.diag is None else self.diag[start:stop])

    @staticmethod
    def _finish(sums: Tensor, own: Tensor, post: Tensor, diag: Tensor | None) -> Tensor:
        sums = sums * post.to(sums.dtype)
        return sums if diag is None else torch.addcmul(sums, own, diag.to(sums.dtype))
