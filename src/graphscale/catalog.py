"""Names of everything there is to train, with a line each. Imports neither torch nor PyG."""

from __future__ import annotations

from graphscale.errors import InputError
from graphscale.presets import PRESETS, Preset

RECIPES = {
    "cluster_gcn": "Cluster-GCN (KDD 2019): METIS clusters as batches; memory by batch, not by graph",
    "gas": "GAS, GNNAutoScale (ICML 2021): clusters that keep every edge; what they lack is read from histories",
    "gist": "GIST (2021): networks wider than a machine, trained as disjoint narrow ones and put back each round",
    "gmeta": "G-Meta (NeurIPS 2020): new labels, new graphs, new links from a handful of labels, by local subgraphs",
    "pres": "PRES (ICLR 2024): TGN, JODIE and APAN over event streams, in large batches by predicted memories",
    "gmeta_dlrm": "G-Meta for recommenders (CIKM 2023): adapt to each user's records; embedding rows over processes",
}

DATA = {
    "digits": "built in: scikit-learn's 1,797 handwritten digits, joined to their 8 nearest; 10 classes",
    "planted[:NODES]": "built in: generated communities of any size, 8 classes, noisy features",
    "PATH.npz": "edge_index, num_nodes, x (or x_indptr, ...), y, train_mask, val_mask, test_mask",
    "Class:Name": "a PyG data set, such as Planetoid:Cora; downloaded where there is a network",
    "planted-stream[:EVENTS]": "built in, for pres: users who return to favourites, with states to foretell",
    "syn-cycle[:GRAPHS]": "built in, for gmeta: its synthetic cycles with shapes, one graph or several",
    "syn-ba[:GRAPHS]": "built in, for gmeta: its Barabasi-Albert graphs with shapes, one or several",
    "planted-graphs:G:N": "built in, for gmeta: G generated graphs of N nodes that share their classes",
    "FOLDER": "for gmeta: a graph in every .npz; or TUDataset:NAME, a collection of PyG's",
    "EVENTS.parquet": "for pres: columns src, dst, t, optionally label, feat; or JODIE's .csv, or NAME/events.parquet",
    "planted-tasks[:TASKS]": "built in, for gmeta_dlrm: users with tastes who rate items; planted-clicks: who click",
    "ml-100k": "for gmeta_dlrm: MovieLens' folder (100K, 1M), or a store of graphscale prepare-tasks",
    "NAME": "NAME/graph.npz or NAME.npz in the folder that GRAPHSCALE_DATA names",
}

MODELS = {
    "cluster_gcn": "the paper's deep network: norms (1) (9) (10) (11), concatenated root, LayerNorm",
    "gcn": "torch_geometric.nn.GCN",
    "sage": "torch_geometric.nn.GraphSAGE",
    "gat": "torch_geometric.nn.GAT",
    "gin": "torch_geometric.nn.GIN",
    "pna": "torch_geometric.nn.PNA",
    "appnp": "an MLP and K propagations of its logits (Gasteiger 2019), of PyG's layers",
    "gcnii": "deep GCN with initial residuals and identity maps (Chen 2020), of PyG's layers",
    "module:callable": "your own: callable(in_channels, out_channels) -> nn.Module(x, edge_index)",
}


def preset(recipe: str, name: str | None, data: str | None) -> Preset | None:
    """The preset asked for by name, or the one for a data set, if any.

    Raises:
        InputError: on a name that does not exist.
    """
    there = PRESETS.get(recipe, ())
    if name == "none":
        return None
    if name is not None:
        for known in there:
            if known.name == name:
                return known
        raise InputError(f"{recipe} has no preset '{name}'. It has: {', '.join(p.name for p in there)}.")
    return next((p for p in there if p.data == data), None)
