"""Small graphs, episodes and networks, for tests of few-shot learning."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from graphscale.batches.episodes import by_label
from graphscale.batches.subgraphs import Subgraphs
from graphscale.batches.tasks import TaskBatches
from graphscale.data.synthetic import planted
from graphscale.kernels.ego_walk import Rules
from graphscale.loop import train_step
from graphscale.nn.ego import EgoGCN
from graphscale.objectives.meta import How, Meta
from graphscale.run import Run
from graphscale.sync.replicas import Replicas
from graphscale.world import World

FEATURES, WAYS, SHOTS, QUERIES = 6, 3, 2, 4


def graph(nodes=300, seed=0):
    return planted(nodes, degree=5.0, num_features=FEATURES, num_classes=5, seed=seed)


def pools(g, queries=QUERIES, ways=WAYS, shots=SHOTS):
    return by_label(torch.arange(g.num_nodes)[:, None], g.y, range(5), ways=ways, shots=shots, queries=queries)


def batches(g, *, rules=None, tasks=4, per_step=2, world=None, fixed=False, **kind):
    """Task batches; features in float64, so that laws hold to the last digits."""
    maker = Subgraphs(g.adj, g.x.double(), rules or Rules(2, 20, 2, False, False), **kind)
    return TaskBatches(
        maker, pools(g), shots=SHOTS, queries=QUERIES, tasks=tasks, per_step=per_step, fixed=fixed, world=world
    )


def network(layers=2, outputs=WAYS, centres=1, seed=0, hidden=5):
    torch.manual_seed(seed)
    net = EgoGCN(FEATURES, hidden, layers, outputs, centres=centres).double()
    with torch.no_grad():  # biases that are not 0, and not the same: a bias that is lost would show
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def composed(world):
    g = graph()
    net = network()
    meta = Meta(net, How(order="second", rate=0.1), steps=2)
    made = batches(g, tasks=8, per_step=2, world=world)
    return Run(net, made, Replicas(net, torch.optim.Adam(net.parameters(), lr=0.01), meta, world=world), dict, (), "")


def rank_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    run = composed(World.current())
    for step, batch in enumerate(run.batches.epoch(0)):
        train_step(run, batch, step)
    torch.save(run.model.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def dense_rows(adj: np.ndarray, kept: list[int], centres: list[int], *, loops: bool, hidden: bool, weights, x):
    """The oracle: a plain dense GCN on the induced subgraph; rows of the centres.

    Args:
        adj: [N, N] of zeros and ones, row i the sources of i's edges.
        kept: nodes of the subgraph.
        weights: (weight [in, out], bias) of every layer.
    """
    some = sorted(kept)
    a = adj[np.ix_(some, some)].copy()
    place = [some.index(c) for c in centres]
    if hidden and len(place) == 2:
        a[place[0], place[1]] = a[place[1], place[0]] = 0
    if loops:
        np.fill_diagonal(a, 1)
    degree = np.maximum(a.sum(1), 1)
    a = a / np.sqrt(degree[:, None] * degree[None])
    h = x[some]
    for weight, bias in weights:
        h = np.maximum(a @ h @ weight + bias, 0)
    return h[place]
