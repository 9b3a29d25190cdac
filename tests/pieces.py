"""Thirty modules as ``build(dims)``, each with how it is called and whether its slices are exact.

Exact: with the other inputs zero, a slice gives what the whole module gives in the slice's columns. Where it is not,
the reason stands beside it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch_geometric import nn as g

from graphscale.csr import from_entries

NODES = 9
DRAW = torch.Generator().manual_seed(0)
EDGES = torch.randint(NODES, (2, 30), generator=DRAW).unique(dim=1)
EDGES = EDGES[:, EDGES[0] != EDGES[1]]
EDGES = EDGES[:, EDGES[1].argsort(stable=True)]  # by target, as lstm aggregation needs them
KINDS_OF_EDGES = torch.randint(2, (EDGES.shape[1],), generator=DRAW)
DEGREES = torch.bincount(from_entries(EDGES[1], EDGES[0], (NODES, NODES))[0].indptr.diff())


def plain(m, x):
    return m(x, EDGES)


def typed(m, x):
    return m(x, EDGES, KINDS_OF_EDGES)


def alone(m, x):
    return m(x)


def twice(m, x):
    return m(x, x, EDGES)


class Joined(nn.Module):
    """Jumping knowledge: what two layers gave, side by side."""

    def __init__(self, i, o):
        super().__init__()
        self.first, self.second = g.GCNConv(i, o), g.SAGEConv(o, o)
        self.last = nn.Linear(2 * o, o)

    def forward(self, x, edges):
        h = self.first(x, edges)
        return self.last(torch.cat([h, self.second(h, edges)], 1))


# name -> (build of input and output width, call, "" where slices are exact or why not)
ONE_IN_ONE_OUT = {
    "GCNConv": (g.GCNConv, plain, ""),
    "SAGEConv": (g.SAGEConv, plain, ""),
    "SAGEConv max": (lambda i, o: g.SAGEConv(i, o, aggr="max"), plain, ""),
    "SAGEConv normalize": (lambda i, o: g.SAGEConv(i, o, normalize=True), plain, "the norm is over all units"),
    "SAGEConv lstm": (lambda i, o: g.SAGEConv(i, o, aggr="lstm"), plain, "the LSTM mixes all inputs"),
    "GraphConv": (g.GraphConv, plain, ""),
    "ChebConv": (lambda i, o: g.ChebConv(i, o, K=3), plain, ""),
    "TAGConv": (g.TAGConv, plain, ""),
    "SGConv": (lambda i, o: g.SGConv(i, o, K=2), plain, ""),
    "SSGConv": (lambda i, o: g.SSGConv(i, o, alpha=0.3, K=2), plain, ""),
    "ClusterGCNConv": (g.ClusterGCNConv, plain, ""),
    "GINConv": (lambda i, o: g.GINConv(nn.Linear(i, o)), plain, ""),
    "GINConv MLP": (
        lambda i, o: g.GINConv(nn.Sequential(nn.Linear(i, o), nn.ReLU(), nn.Linear(o, o))), plain,
        "the outputs are its inner units too",
    ),
    "LEConv": (g.LEConv, plain, ""),
    "ARMAConv": (lambda i, o: g.ARMAConv(i, o), plain, ""),
    "MFConv": (lambda i, o: g.MFConv(i, o, max_degree=4), plain, ""),
    "ResGatedGraphConv": (g.ResGatedGraphConv, plain, ""),
    "RGCNConv": (lambda i, o: g.RGCNConv(i, o, num_relations=2), typed, ""),
    "RGCNConv bases": (lambda i, o: g.RGCNConv(i, o, num_relations=2, num_bases=2), typed, ""),
    "GATConv channels": (lambda i, o: g.GATConv(i, o, heads=2), plain, "attention takes all channels of a head"),
    "GATv2Conv channels": (lambda i, o: g.GATv2Conv(i, o, heads=2), plain, "attention takes all channels of a head"),
    "TransformerConv channels": (
        lambda i, o: g.TransformerConv(i, o, heads=2), plain, "attention takes all channels of a head",
    ),
    "PNAConv": (
        lambda i, o: g.PNAConv(i, o, ["mean", "max", "std"], ["identity", "amplification"], DEGREES), plain,
        "a node's message takes all of its inputs through inner units that are the inputs'",
    ),
    "Linear": (nn.Linear, alone, ""),
    "JumpingKnowledge": (Joined, plain, "the outputs are its inner units too"),
}  # fmt: skip
HEADS = {
    "GATConv heads": (lambda i, o: g.GATConv(i, 3, heads=o), plain, ""),
    "GATv2Conv heads": (lambda i, o: g.GATv2Conv(i, 3, heads=o), plain, ""),
    "TransformerConv heads": (lambda i, o: g.TransformerConv(i, 3, heads=o), plain, ""),
}
# One width for what comes in and what goes out.
TIED = {
    "GCN2Conv": (lambda o: g.GCN2Conv(o, alpha=0.1, theta=0.5, layer=2), twice, ""),
    "GatedGraphConv": (lambda o: g.GatedGraphConv(o, num_layers=2), plain, "its gates take all units"),
    "BatchNorm": (g.BatchNorm, alone, ""),
    "GraphNorm": (g.GraphNorm, alone, ""),
    "LayerNorm": (lambda o: g.LayerNorm(o, mode="node"), alone, "statistics are over all units"),
    "PReLU": (nn.PReLU, alone, ""),
}
