"""A plain PyG training loop that trains on clusters: the lines marked + are all that is new."""

import torch
from torch_geometric.nn import GCN

from graphscale import clusters, load_graph, to_pyg  # +


def main() -> float:
    torch.manual_seed(0)
    data = to_pyg(load_graph("digits"))  # take your own Data
    model = GCN(data.num_features, 64, num_layers=2, out_channels=10, dropout=0.5)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)

    batches = clusters(data, num_parts=20, parts_per_batch=2)  # +
    for epoch in range(40):
        for batch in batches.epoch(epoch):  # was: for batch in [data]:
            optimiser.zero_grad()
            out = model(batch.x, batch.edge_index)
            loss = torch.nn.functional.cross_entropy(out[batch.train_mask], batch.y[batch.train_mask])
            loss.backward()
            optimiser.step()

    model.eval()
    predicted = model(data.x, data.edge_index).argmax(1)
    accuracy = float((predicted == data.y)[data.test_mask].double().mean())
    print(f"test accuracy {accuracy:.2f}")
    return accuracy


if __name__ == "__main__":
    main()
