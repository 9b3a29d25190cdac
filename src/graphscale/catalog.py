"""Names of everything there is to train, with a line each. Imports neither torch nor PyG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphscale.errors import InputError


@dataclass(frozen=True)
class Preset:
    """Settings for one data set, with the number they should give and where that number is from."""

    name: str
    data: str
    settings: Mapping[str, Any]
    expected: str


RECIPES = {
    "cluster_gcn": "Cluster-GCN (KDD 2019): METIS clusters as batches; memory by batch, not by graph",
    "gas": "GAS, GNNAutoScale (ICML 2021): clusters that keep every edge; what they lack is read from histories",
}

DATA = {
    "digits": "built in: scikit-learn's 1,797 handwritten digits, joined to their 8 nearest; 10 classes",
    "planted[:NODES]": "built in: generated communities of any size, 8 classes, noisy features",
    "PATH.npz": "edge_index, num_nodes, x (or x_indptr, ...), y, train_mask, val_mask, test_mask",
    "Class:Name": "a PyG data set, such as Planetoid:Cora; downloaded where there is a network",
    "NAME": "NAME/graph.npz or NAME.npz in the folder that GRAPHSCALE_DATA names",
}

MODELS = {
    "cluster_gcn": "the paper's deep network: norms (1) (9) (10) (11), concatenated root, LayerNorm",
    "gcn": "torch_geometric.nn.GCN",
    "sage": "torch_geometric.nn.GraphSAGE",
    "gat": "torch_geometric.nn.GAT",
    "gin": "torch_geometric.nn.GIN",
    "pna": "torch_geometric.nn.PNA",
    "module:callable": "your own: callable(in_channels, out_channels) -> nn.Module(x, edge_index)",
}

_DIGITS = {"num_parts": 20, "parts_per_batch": 2, "layers": 3, "dropout": 0.5, "lr": 0.005, "epochs": 60}

_CITATION = {
    "model": "cluster_gcn", "norm": "sym", "concat": False, "layer_norm": False, "layers": 2, "hidden": 64,
    "dropout": 0.5, "lr": 0.01, "weight_decay": 5e-4, "epochs": 200, "scaling": "row",
    "num_parts": 10, "parts_per_batch": 1,
}  # fmt: skip

_FACEBOOK = {
    "hidden": 128, "layers": 3, "dropout": 0.5, "lr": 0.005, "epochs": 100, "num_parts": 50, "parts_per_batch": 10,
}  # fmt: skip

PRESETS: Mapping[str, tuple[Preset, ...]] = {
    "cluster_gcn": (
        Preset("digits", "digits", _DIGITS, "94.4 +- 0.6 over 20 seeds; full batch 94.4 +- 0.4"),
        Preset(
            "cora",
            "cora",
            _CITATION,
            "82.3 +- 0.6 over 10 seeds; paper, table 2: 82.5, random parts 78.4 (its own split)",
        ),
        Preset(
            "facebook",
            "facebook",
            _FACEBOOK,
            "94.6 +- 0.2 over 5 seeds; full batch 94.8 +- 0.2; no figure in the paper",
        ),
        Preset(
            "citeseer",
            "citeseer",
            _CITATION,
            "71.5 +- 1.0 over 10 seeds; full batch 71.7 +- 0.8; GCN 70.3 (Kipf and Welling 2017)",
        ),
    ),
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
