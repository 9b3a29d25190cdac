"""The network of Cluster-GCN (Chiang et al., KDD 2019), for training on blocks and exact inference in tiles.

One layer, X' = act(norm(dropout(Z) W)) with Z = A'X or, concatenated, [A'X || X] as in the released
code (the paper's equations show no root term; its figures were made with it). A' is one of the
normalisations of ``nn.propagation``. The order aggregate, dropout, linear, LayerNorm, ReLU is the
released code's; the last layer has neither norm nor activation. n nodes, F inputs, H hidden, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphscale import scratch
from graphscale.csr import Csr
from graphscale.kernels.aggregate import aggregate
from graphscale.kernels.dropout import dropout
from graphscale.nn.propagation import Norm, Propagation

_TILE = 1 << 22  # numbers of an activation at a time


class ClusterGCN(nn.Module):
    """A deep GCN that takes a block's adjacency as it is and normalises it itself.

    Args:
        in_dim: F, width of the input; with ``precomputed``, that of [A'X || X] or A'X.
        hidden: H.
        out_dim: C.
        num_layers: L, weight layers.
        dropout: probability, on Z of every layer (on X where X is sparse: see ``_first``).
        norm: A' by name.
        diag_lambda: lambda of equation (11); used by ``norm="diag"``.
        concat: Z = [A'X || X] instead of A'X.
        layer_norm: LayerNorm after each linear layer but the last.
        residual: equation (8), + X, from the second layer on: the first one's input is of another kind (features,
            sparse or precomputed), whatever its width.
        precomputed: the input is already Z of the first layer (section 6.2: AX over all edges).
    """

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        out_dim: int,
        num_layers: int,
        *,
        dropout: float = 0.2,
        norm: Norm = "diag",
        diag_lambda: float = 1.0,
        concat: bool = True,
        layer_norm: bool = True,
        residual: bool = False,
        precomputed: bool = False,
    ) -> None:
        super().__init__()
        self.dropout, self.norm, self.diag_lambda = dropout, norm, diag_lambda
        self.concat, self.residual, self.precomputed = concat, residual, precomputed
        dims = [in_dim, *[hidden] * (num_layers - 1), out_dim]
        self.linears = nn.ModuleList()
        self.norms = nn.ModuleList()
        for i, (d_in, d_out) in enumerate(pairwise(dims)):
            wide = concat and not (precomputed and i == 0)
            self.linears.append(nn.Linear(2 * d_in if wide else d_in, d_out))
            if i < num_layers - 1:
                self.norms.append(nn.LayerNorm(d_out) if layer_norm else nn.Identity())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot weights, zero biases."""
        for linear in self.linears:
            assert isinstance(linear, nn.Linear)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def propagation(self, adj: Csr) -> Propagation:
        """The block normalised for this model."""
        dtype = next(self.parameters()).dtype
        return Propagation.of(adj, self.norm, self.diag_lambda, dtype)

    def forward(self, x: Tensor | Csr, adj: Csr) -> Tensor:
        """[n, F] features and the block [n, n] -> logits [n, C]."""
        propagate = self.propagation(adj)
        for i, linear in enumerate(self.linears):
            h = self._linear(i, linear, x, propagate)  # [n, H]
            x = self._finish(i, h, x)
        assert isinstance(x, Tensor)
        return x

    def _linear(self, i: int, linear: nn.Module, x: Tensor | Csr, propagate: Propagation) -> Tensor:
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        done = self.precomputed and i == 0
        if isinstance(x, Csr):
            # Dropout on Z would make A'X dense first; on X it has the same expectation, and is Kipf's.
            product = aggregate(self._dropped(x), _stacked(weight) if self.concat and not done else weight.t())
            return (product if done else self._spread(product, propagate)) + bias
        if done:
            return F.linear(dropout(x, self.dropout, self.training), weight, bias)
        fewer = weight.shape[0] < x.shape[1]
        if fewer and (not self.training or self.dropout == 0):  # multiply first: fewer columns to sum
            return self._spread(x @ (_stacked(weight) if self.concat else weight.t()), propagate) + bias
        z = propagate(x)
        z = torch.cat([z, x.to(z.dtype)], dim=1) if self.concat else z
        return F.linear(dropout(z, self.dropout, self.training), weight, bias)

    def _dropped(self, x: Csr) -> Csr:
        if not self.training or self.dropout == 0:
            return x
        values = torch.ones(x.num_entries, device=x.device) if x.values is None else x.values
        return x.with_values(dropout(values, self.dropout))

    def _spread(self, product: Tensor, propagate: Propagation) -> Tensor:
        """A'(X W1) + X W2 from [X W1 || X W2], or A'(X W)."""
        if not self.concat:
            return propagate(product)
        near, own = product.chunk(2, dim=1)
        return propagate(near.contiguous()) + own

    def _finish(self, i: int, h: Tensor, x: Tensor | Csr) -> Tensor:
        """Norm, activation and residual after the i-th linear layer."""
        if i == len(self.linears) - 1:
            return h
        h = F.relu(self.norms[i](h))
        if not self.residual or i == 0:
            return h
        assert isinstance(x, Tensor)
        return h + x

    @torch.no_grad()
    def infer(self, x: Tensor | Csr, adj: Csr, *, tile: int | None = None) -> Tensor:
        """Exact logits [N, C] of a whole graph, layer by layer in tiles of ``tile`` rows.

        On a CPU it holds three scratch arrays [N, H] (input, product, output; one more for ``norm="sym"``, which
        scales the product by source) and temporaries of one tile; equals ``forward`` in evaluation mode.
        """
        for x in self.layers(x, adj, tile=tile):  # noqa: B007, B020 - the last layer is what counts
            pass
        assert isinstance(x, Tensor)
        return x

    @torch.no_grad()
    def layers(self, x: Tensor | Csr, adj: Csr, *, tile: int | None = None) -> Iterator[Tensor]:
        """The output of every layer for all nodes, [N, H] and at last [N, C], computed in tiles.

        Args:
            tile: rows at a time; by default some megabytes of them.
        """
        propagate = self.propagation(adj)
        for i, linear in enumerate(self.linears):
            x = self._infer_layer(i, linear, x, propagate, tile)
            yield x

    def _infer_layer(
        self,
        i: int,
        linear: nn.Module,
        x: Tensor | Csr,
        propagate: Propagation,
        tile: int | None,
    ) -> Tensor:
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        rows, d_out = x.shape[0], weight.shape[0]
        tile = tile or max(1, _TILE // max(weight.shape))
        spans = [(a, min(a + tile, rows)) for a in range(0, rows, tile)]
        done = self.precomputed and i == 0
        out = _empty_like(weight, rows, d_out)
        first = isinstance(x, Csr) or d_out < x.shape[1]  # multiply first
        w_near = weight if done or not self.concat else weight[:, : weight.shape[1] // 2]
        w_own = None if done or not self.concat else weight[:, weight.shape[1] // 2 :]
        if first and not done:
            near = _empty_like(weight, rows, d_out)
            for a, b in spans:
                near[a:b] = _product(x, a, b, w_near)
            source = near
        else:
            source = x  # type: ignore[assignment]
        scaled = source if done else propagate.scaled(source)
        for a, b in spans:
            if done:
                h = _product(x, a, b, w_near)
            else:
                h = propagate.rows(scaled, a, b)  # [tile, d]
                h = h if first else h @ w_near.t()
                h = h if w_own is None else h + _product(x, a, b, w_own)
            own = x[a:b] if isinstance(x, Tensor) else x
            out[a:b] = self._finish(i, h + bias, own)
        return out


def _empty_like(weight: Tensor, rows: int, cols: int) -> Tensor:
    if weight.device.type == "cpu":
        return scratch.empty(rows, cols, dtype=weight.dtype)
    return weight.new_empty(rows, cols)


def _product(x: Tensor | Csr, start: int, stop: int, weight: Tensor) -> Tensor:
    """Rows start:stop of x, times weight [d_out, d_in] transposed."""
    if isinstance(x, Csr):
        return aggregate(x.rows(start, stop), weight.t())
    return x[start:stop] @ weight.t()


def _stacked(weight: Tensor) -> Tensor:
    """[W1^T || W2^T], [F, 2H], from weight [H, 2F]: one product serves neighbours and root."""
    near, own = weight.chunk(2, dim=1)
    return torch.cat([near.t(), own.t()], dim=1)


def precompute(x: Tensor | Csr, adj: Csr, norm: Norm, diag_lambda: float, *, concat: bool) -> Tensor:
    """Z of the first layer over all edges of ``adj`` (section 6.2), dense: [N, F] or [N, 2F].

    The released code multiplies by the un-normalised A here; the paper's equation and this function
    use the A' of the layer, so that q = p changes nothing.
    """
    own = x.dense() if isinstance(x, Csr) else x
    width = own.shape[1]
    propagate = Propagation.of(adj, norm, diag_lambda, own.dtype)
    source = propagate.scaled(own)
    z = scratch.empty(len(own), 2 * width if concat else width, dtype=own.dtype)
    for some in scratch.blocks(*own.shape):
        z[some, :width] = propagate.rows(source, some.start, some.stop)
        if concat:
            z[some, width:] = own[some]
    return z
