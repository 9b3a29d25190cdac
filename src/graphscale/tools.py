"""Commands beside training: stores, predictions, weights. Heavy imports wait until a command runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from graphscale.config import Device
from graphscale.errors import InputError
from graphscale.probe import PeakMemory

if TYPE_CHECKING:
    from graphscale.partitioning import Partition


def prepare(
    source: Annotated[str, tyro.conf.Positional],
    /,
    to: Path,
    num_parts: int | None = None,
    graphs: bool = False,
    partitioner: Literal["metis", "stream", "random"] = "metis",
    weighted: bool = False,
    undirected: bool = False,
    features: Path | None = None,
    labels: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> int:
    """Make a store on disk: nodes in cluster order, memory-mapped, with a manifest.

    Args:
        source: what train takes as --data, ogb:NAME, or an edge list (.parquet, .csv, .npy).
        to: folder of the store.
        num_parts: clusters.
        graphs: the source is a collection of graphs, and each is a cluster.
        partitioner: metis; stream (memory proportional to nodes, not edges); or random.
        weighted: METIS cuts little weight instead of few edges.
        undirected: add the reverse of every edge that lacks one.
        features: float32 [N, F] .npy beside an edge list.
        labels: Parquet or CSV beside an edge list: label, split (train, val, test), optionally node.
        seed: of the clusters, or of generated graphs.
        overwrite: replace a store that lies in --to.
    """
    from graphscale import preparing

    if (num_parts is None) != graphs:
        raise InputError("one of --num-parts and --graphs says what the clusters are: parts of one graph, or graphs.")
    if graphs and (weighted or features is not None or labels is not None or partitioner != "metis"):
        raise InputError("graphs are not cut: --partitioner, --weighted, --features and --labels go with --num-parts.")
    if num_parts is None:
        return _made(
            to,
            lambda: preparing.prepare_graphs(source, to, undirected=undirected, seed=seed, overwrite=overwrite),
        )
    return _made(
        to,
        lambda: preparing.prepare(
            source,
            to,
            num_parts,
            partitioner=partitioner,
            weighted=weighted,
            undirected=undirected,
            features=features,
            labels=labels,
            seed=seed,
            overwrite=overwrite,
        ),
    )


def prepare_events(
    source: Annotated[str, tyro.conf.Positional], /, to: Path, directed: bool = False, overwrite: bool = False
) -> int:
    """Make a store of a stream of events on disk, memory-mapped, with every node's events in the order of time.

    Args:
        source: what train pres takes as --data.
        to: folder of the store.
        directed: a node's neighbours are the sources of its events alone.
        overwrite: replace a store that lies in --to.
    """
    from graphscale import preparing

    began = time.perf_counter()
    with PeakMemory() as memory:
        events = preparing.prepare_events(source, to, directed=directed, overwrite=overwrite)
    peak = "" if memory.peak_mb is None else f", peak anonymous memory {memory.peak_mb:.0f} MB"
    print(
        f"{to}: {events.num_events:,} events of {events.num_nodes:,} nodes; {time.perf_counter() - began:.0f} s{peak}"
    )
    return 0


def generate(
    kind: Annotated[Literal["amazon2m-like"], tyro.conf.Positional],
    /,
    to: Path,
    num_parts: int = 15_000,
    nodes: int = 2_449_029,
    edges: int = 61_859_140,
    features: int = 100,
    classes: int = 47,
    community: int = 400,
    inside: float = 0.8,
    exponent: float = 2.8,
    noise: float = 1.0,
    partitioner: Literal["metis", "stream", "random"] = "stream",
    seed: int = 0,
    overwrite: bool = False,
) -> int:
    """Make a store of a generated graph: communities, power-law degrees, noisy features; any size.

    Args:
        kind: amazon2m-like has the sizes of Amazon2M unless others are given.
        to: folder of the store.
        num_parts: clusters.
        nodes: nodes.
        edges: undirected edges; twice as many entries are stored.
        features: numbers a node.
        classes: classes.
        community: mean nodes of a community.
        inside: probability that an edge stays inside its community.
        exponent: of the power law of expected degrees.
        noise: standard deviation of every feature; class means lie 1 apart.
        partitioner: metis; stream (memory proportional to nodes, not edges); or random.
        seed: of the graph and of the clusters.
        overwrite: replace a store that lies in --to.
    """
    from graphscale import preparing
    from graphscale.data.communities import Like

    like = Like(
        nodes=nodes,
        edges=edges,
        features=features,
        classes=classes,
        community=community,
        inside=inside,
        exponent=exponent,
        noise=noise,
        seed=seed,
    )
    return _made(to, lambda: preparing.generate(like, to, num_parts, partitioner=partitioner, overwrite=overwrite))


def info(store: Annotated[Path, tyro.conf.Positional], /, verify: bool = False, json: bool = False) -> int:
    """Say what a store holds.

    Args:
        store: its folder.
        verify: read every byte and compare the checksums.
        json: print the manifest as one JSON object.
    """
    from graphscale import folder, preparing

    found = preparing.info(store, verify=verify)
    if json:
        print(folder.dumps(found))
        return 0
    counts = ("nodes", "events") if "events" in found else ("nodes", "entries", "features", "classes")
    print(", ".join(f"{found[name]:,} {name}" for name in counts))
    source = found["made"].get("source", "what was in memory")
    print(f"made from {source}{'; ' + _clusters(found['partition']) if 'partition' in found else ''}")
    for note in found["notes"]:
        print(f"note: {note}")
    for name, said in found["arrays"].items():
        print(f"  {name:10} {said['dtype']:5} {said['shape']}")
    if verify:
        print("all checksums agree")
    return 0


def _made(to: Path, make: Callable[[], Partition]) -> int:
    """Make a store, and say its clusters, its seconds and its memory."""
    began = time.perf_counter()
    with PeakMemory() as memory:
        cut = make()
    peak = "" if memory.peak_mb is None else f", peak anonymous memory {memory.peak_mb:.0f} MB"
    print(f"{to}: {_clusters(cut.describe())}; {time.perf_counter() - began:.0f} s{peak}")
    return 0


def _clusters(said: dict[str, Any]) -> str:
    return (
        f"{said['num_parts']} {said['method']} clusters of {said['smallest']}..{said['largest']} nodes,"
        f" {float(said['edge_cut']):.1%} of the edges between them, halo ratio {float(said['halo_ratio']):.2f}"
    )


def predict(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    to: Path,
    data: str | None = None,
    embeddings: bool = False,
    device: Device | None = None,
) -> int:
    """Write every node's predicted class and probabilities to a Parquet file.

    Args:
        run: folder of the run.
        to: Parquet file: node (the caller's id), predicted, probability and, if asked for, embedding.
        data: other data with the same features; by default the run's own.
        embeddings: add the last hidden layer.
        device: where to compute; by default as in training.
    """
    from graphscale import outputs

    written = outputs.predict(run, to, data=data, embeddings=embeddings, device=device)
    if written.note:
        print(f"note: {written.note}", file=sys.stderr)
    print(f"{to}: {written.rows:,} nodes")
    return 0


def export(run: Annotated[Path, tyro.conf.Positional], /, to: Path) -> int:
    """Write the best weights as safetensors.

    Args:
        run: folder of the run.
        to: file, such as model.safetensors.
    """
    from graphscale import outputs

    print(f"{to}: {outputs.export(run, to):,} numbers")
    return 0


def adapt(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    support: Path,
    to: Path,
    query: Path | None = None,
    steps: int | None = None,
    data: str | None = None,
    device: Device | None = None,
    json: bool = False,
) -> int:
    """Foretell labels never seen: a run of gmeta adapts to a few labelled points.

    Args:
        run: folder of the run.
        support: CSV or Parquet: node, label; other for pairs; graph where there are several.
        query: likewise; a label is only compared with.
        to: .csv or .parquet: the query's columns, predicted, and p_LABEL for every label.
        steps: inner steps; by default the run's --test-steps.
        data: another graph with the same features; by default the run's own.
        device: where to compute; by default as in training.
        json: print what came of it, the curve over inner steps included, as one JSON object.
    """
    from dataclasses import asdict

    from graphscale import folder, outputs

    done = outputs.adapt(run, support, query, to, steps=steps, data=data, device=device)
    if json:
        print(folder.dumps({**asdict(done), "to": str(done.to)}))
        return 0
    for point in done.curve:
        print("  ".join(f"{name} {value:g}" if name == "step" else f"{name} {value:.4f}"
                        for name, value in point.items() if value == value))  # fmt: skip
    print(f"{done.to}: {done.rows:,} rows")
    return 0
