"""The released code's order of work in plain PyTorch and PyG: what episodes a second are compared with.

A task after the other; its subgraphs are batched whole, their feature rows gathered from a dense matrix; after every
inner step the queries are passed too, though only the last pass is learned from; inner gradients are constants, and
prototypes one step stale. Two mercies: subgraphs are found beforehand and free of charge, and of the queries' passes
only the last one keeps its graph.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch_geometric.nn import GCNConv

from graphscale.batches.tasks import TaskBatch
from graphscale.csr import Csr
from graphscale.graph import Graph
from graphscale.kernels.ego_walk import Rules, Scratch
from graphscale.kernels.ego_whole import induced

Side = tuple[Tensor, Tensor, Tensor]  # nodes [n], edges [2, e], centres [p]


class Net(nn.Module):
    """Two graph convolutions and a head."""

    def __init__(self, inputs: int, hidden: int, ways: int) -> None:
        super().__init__()
        self.first = GCNConv(inputs, hidden, add_self_loops=False)
        self.second = GCNConv(hidden, hidden, add_self_loops=False)
        self.head = nn.Linear(hidden, ways)

    def forward(self, x: Tensor, edge_index: Tensor, centre: Tensor) -> Tensor:
        """[p, ways]."""
        h = self.second(self.first(x, edge_index).relu(), edge_index).relu()
        out: Tensor = self.head(h[centre])
        return out


def sides(graph: Graph, batch: TaskBatch, cap: int) -> list[list[Side]]:
    """Support and query of every task as whole subgraphs."""
    scratch = Scratch(graph.num_nodes)
    arrays = graph.adj.indptr.numpy(), graph.adj.indices.numpy()
    out = []
    for points in batch.points:
        tasks = []
        for task in points:
            node, count, edge, _ = induced(
                *arrays, task.numpy(), np.zeros(len(task), np.uint64), Rules(2, cap, 2, False, False), scratch
            )
            centre = np.r_[0, count.cumsum()[:-1]]
            tasks.append((torch.from_numpy(node), torch.from_numpy(edge), torch.from_numpy(centre)))
        out.append(tasks)
    return out


def step(
    net: Net, optimiser: torch.optim.Optimizer, x: Tensor | Csr, found: list[list[Side]], batch: TaskBatch, *,
    steps: int, rate: float, tasks: int | None = None,
) -> None:  # fmt: skip
    """A meta-step on the first ``tasks`` of a batch."""
    ways, losses = batch.ways, []
    dense = x.dense() if isinstance(x, Csr) else x
    for t in range(tasks or batch.count):
        (s_node, s_edge, s_centre), (q_node, q_edge, q_centre) = found[0][t], found[1][t]
        s_x, q_x = dense[s_node], dense[q_node]
        y, asked = batch.support_y[t], batch.query_y[t]
        fast = dict(net.named_parameters())
        loss = torch.zeros(())
        for k in range(steps):
            z = functional_call(net, fast, (s_x, s_edge, s_centre))
            p = torch.stack([z[y == w].mean(0) for w in range(ways)])
            inner = F.cross_entropy(-((z[:, None] - p) ** 2).sum(-1), y)
            grads = torch.autograd.grad(inner, list(fast.values()), retain_graph=True)
            fast = {n: v - rate * g for (n, v), g in zip(fast.items(), grads, strict=True)}
            with torch.set_grad_enabled(k == steps - 1):
                q = functional_call(net, fast, (q_x, q_edge, q_centre))
                loss = F.cross_entropy(-((q[:, None] - p) ** 2).sum(-1), asked)
        losses.append(loss)
    optimiser.zero_grad()
    torch.stack(losses).mean().backward()
    optimiser.step()
