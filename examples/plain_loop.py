"""A plain PyG training loop that trains on clusters: the lines marked + are all that is new."""

import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphscale import clusters, load_graph  # +


def digits() -> Data:
    """The built-in graph as PyG's Data; take your own."""
    graph = load_graph("digits")
    edge_index = torch.stack([graph.adj.indices.long(), graph.adj.row_of])
    masks = {f"{name}_mask": mask for name, mask in graph.masks.items()}
    return Data(x=graph.x, edge_index=edge_index, y=graph.y, **masks)


def main() -> float:
    torch.manual_seed(0)
    data = digits()
    model = GCN(data.num_features, 64, num_layers=2, out_channels=10, dropout=0.5)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)

    def step(data: Data) -> None:
        optimiser.zero_grad()
        out = model(data.x, data.edge_index)
        loss = torch.nn.functional.cross_entropy(out[data.train_mask], data.y[data.train_mask])
        loss.backward()
        optimiser.step()

    batches = clusters(data, num_parts=20, parts_per_batch=2)  # +
    for epoch in range(40):
        for batch in batches.epoch(epoch):  # +
            step(batch)  # was: step(data)

    model.eval()
    predicted = model(data.x, data.edge_index).argmax(1)
    accuracy = float((predicted == data.y)[data.test_mask].double().mean())
    print(f"test accuracy {accuracy:.2f}")
    return accuracy


if __name__ == "__main__":
    main()
