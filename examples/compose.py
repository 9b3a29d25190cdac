"""The parts of a run by hand: graph, clusters, objective, replicas, loop."""

import torch

import graphscale
from graphscale.evaluation import Exact
from graphscale.metrics import names
from graphscale.nn.plain import plain
from graphscale.nn.static import ClusterGCN
from graphscale.objectives.node import node_loss
from graphscale.sync.replicas import Replicas


def main() -> float:
    torch.manual_seed(0)
    graph = graphscale.load_graph("planted:2000")
    clusters = graphscale.partition(graph, 20).apply(graph)
    model = ClusterGCN(graph.num_features, 64, graph.num_classes, num_layers=3)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    run = graphscale.Run(
        model=model,
        batches=graphscale.ClusterBatches(clusters, parts_per_batch=2),
        sync=Replicas(model, optimiser, node_loss(plain(model))),
        evaluate=Exact(model, None, graph, torch.device("cpu")),
        metrics=names(graph.num_classes, multilabel=False),
        monitor="accuracy",
    )
    log = graphscale.fit(run, epochs=20)
    accuracy = log.best["test"]["accuracy"]
    print(f"test accuracy {accuracy:.2f} at epoch {log.best_epoch} of {log.epochs}")
    return accuracy


if __name__ == "__main__":
    main()
