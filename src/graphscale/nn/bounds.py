"""How far stale rows can carry: the recursion behind theorem 2 of GAS (Fey et al., ICML 2021).

With messages k1-Lipschitz, updates k2-Lipschitz and |N| the sum of a row's weights, an error delta of a layer's
input and an error eps of its histories give

    delta(l + 1) = delta(l) k2 (1 + k1 |N|) + eps(l) k1 k2 |N|,    delta(1) = 0.

The paper prints the sum of eps(l) (k1 k2 |N|)^(L - l), which leaves out a node's own path.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphscale.csr import Csr
from graphscale.nn.splice import spliced
from graphscale.nn.stock import Feed
from graphscale.nn.zoo import APPNPNet


def deltas(errors: Sequence[float], gains: Sequence[float], neighbours: float = 1.0) -> list[float]:
    """Delta after every layer with a history: the last one bounds the outputs.

    Args:
        errors: eps(l), the largest distance of a history's row from the exact one, l = 1, 2, ...
        gains: k2 of what follows each history.
        neighbours: k1 |N|; 1 for means, about 1 for GCN's norm, the degree for sums.
    """
    found, delta = [], 0.0
    for eps, gain in zip(errors, gains, strict=True):
        delta = delta * gain * (1 + neighbours) + eps * gain * neighbours
        found.append(delta)
    return found


def gains(model: nn.Module, feed: Feed, x: Tensor, adj: Csr, attr: Tensor | None) -> list[float] | None:
    """k2 between every propagation and the next, the last one's of the logits; None where the recursion does not hold.

    It holds for chains of means or of weights of GCN: ``known``. One linear layer's k2 is its largest singular
    value; of several, serial or side by side, the product of (1 + value) is one. Activations are 1-Lipschitz.
    """
    if not known(model):
        return None
    linear = [m for m in model.modules() if _matrix(m) is not None]
    ran: list[list[nn.Module]] = [[]]
    handles = [m.register_forward_hook(lambda module, *_: ran[-1].append(module)) for m in linear]

    def visit(number: int, out: Tensor) -> Tensor:
        ran.append([])
        return out

    training = model.training
    model.eval()
    try:
        with spliced(model, visit), torch.enable_grad():
            feed(model, x, adj, attr)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return [_gain(modules) for modules in ran[1:]]


def known(model: nn.Module) -> bool:
    """Whether every layer is one that the recursion is about: no norm, no skip, no sum, maximum or attention."""
    from torch_geometric.nn import APPNP, GCNConv, MessagePassing, SAGEConv, SGConv
    from torch_geometric.nn.models.basic_gnn import BasicGNN

    kinds = (nn.Linear, nn.Dropout, nn.Identity, nn.ReLU, nn.ELU, nn.ModuleList, BasicGNN, APPNPNet)
    for module in model.modules():
        if isinstance(module, BasicGNN) and (module.norm is not None or module.jk_mode is not None):
            return False
        if isinstance(module, MessagePassing):
            mean = isinstance(module, SAGEConv) and module.aggr == "mean" and not (module.normalize or module.project)
            if not (mean or isinstance(module, GCNConv | SGConv | APPNP)):
                return False
        elif not isinstance(module, kinds) and type(module).__name__ not in (
            "Linear",
            "MeanAggregation",
            "SumAggregation",
            "TrimToLayer",
        ):
            return False
    return True


def _matrix(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.dim() == 2 else None


def _weight(module: nn.Module) -> Tensor:
    weight = _matrix(module)
    assert weight is not None
    return weight.detach().double()


def _gain(modules: Sequence[nn.Module]) -> float:
    norms = [float(torch.linalg.matrix_norm(_weight(m), ord=2)) for m in modules]
    if len(norms) == 1:
        return norms[0]
    return float(torch.tensor([1 + n for n in norms]).prod()) if norms else 1.0
