"""Your own PyG model in the recipe: ``graphscale train cluster_gcn --model own_model:build``, or as below."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, SAGEConv

import graphscale


class Mixed(nn.Module):
    """Attention below, mean aggregation above; nothing in it knows of clusters."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.attend = GATv2Conv(in_channels, 16, heads=4)
        self.classify = SAGEConv(64, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = torch.nn.functional.elu(self.attend(x, edge_index))
        x = torch.nn.functional.dropout(x, 0.5, self.training)
        out: Tensor = self.classify(x, edge_index)
        return out


def build(in_channels: int, out_channels: int) -> nn.Module:
    return Mixed(in_channels, out_channels)


def main() -> float:
    with TemporaryDirectory() as folder:
        config = graphscale.ClusterGCNConfig(
            data="digits",
            model=f"{Path(__file__).stem}:build",
            num_parts=20,
            parts_per_batch=2,
            epochs=30,
            out=Path(folder) / "run",
        )
        result = graphscale.train("cluster_gcn", config)
    print(f"test accuracy {result['test']['accuracy']:.2f}")
    return float(result["test"]["accuracy"])


if __name__ == "__main__":
    main()
