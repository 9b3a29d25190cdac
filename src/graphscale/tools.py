"""Commands beside training: stores, predictions, weights. Heavy imports wait until a command runs."""

from __future__ import annotations

import sys
import time as clock
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
    source: Annotated[str, tyro.conf.Positional],
    /,
    to: Path,
    directed: bool = False,
    num_src: int = 0,
    spare_sources: int = 0,
    append: bool = False,
    overwrite: bool = False,
) -> int:
    """Make a store of a stream of events on disk, memory-mapped, with every node's events in the order of time.

    Args:
        source: what train pres takes as --data.
        to: folder of the store.
        directed: a node's neighbours are the sources of its events alone.
        num_src: sources are nodes below it and destinations the others; 0 where a node may be either, or the file says.
        spare_sources: numbers that a bipartite stream leaves for later sources; later destinations need none.
        append: put the events at the end of the stream that lies in --to.
        overwrite: replace a store that lies in --to.
    """
    from graphscale import preparing

    if append and (overwrite or directed or num_src or spare_sources):
        raise InputError(
            "--append goes on with the store as it is: leave out --overwrite, and --directed, --num-src and"
            " --spare-sources, which it knows."
        )

    began = clock.perf_counter()
    with PeakMemory() as memory:
        if append:
            events = preparing.append_events(source, to)
        else:
            events = preparing.prepare_events(
                source, to, directed=directed, num_src=num_src, spare_sources=spare_sources, overwrite=overwrite
            )
    peak = "" if memory.peak_mb is None else f", peak anonymous memory {memory.peak_mb:.0f} MB"
    print(
        f"{to}: {events.num_events:,} events of {events.num_nodes:,} nodes; {clock.perf_counter() - began:.0f} s{peak}"
    )
    return 0


def prepare_tasks(
    source: Annotated[str, tyro.conf.Positional],
    /,
    to: Path,
    task: str | None = None,
    label: str | None = None,
    time: str | None = None,
    dense: str = "",
    sparse: str = "",
    bags: str = "",
    hashed: str = "",
    separator: str = "|",
    bag_size: int = 16,
    by: Literal["auto", "time", "random"] = "auto",
    query: float = 10,
    least: int = 13,
    most: int | None = None,
    val: float = 0.1,
    test: float = 0.1,
    item: str | None = None,
    new_items: str | None = None,
    min_count: int = 1,
    memory_mb: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> int:
    """Make a store of a log's samples by task on disk, sorted out of core, for train gmeta_dlrm.

    Args:
        source: a .parquet or .csv file, files by a pattern, or MovieLens' folder (100K, 1M), whose columns are known.
        to: folder of the store.
        task: column of what adapts: a user, a scene.
        label: column of what is foretold.
        time: column in whose order a task's samples lie.
        dense: columns of numbers, with commas between.
        sparse: columns of one id each; name:table where columns share a table.
        bags: columns of several ids: lists, or text.
        hashed: tables whose ids are hashes, with their rows: user=1000000,item=100000. Others have a vocabulary.
        separator: of the values in bags that are text.
        bag_size: most values of a bag that are kept.
        by: a task's last samples in time are its queries, or any; auto: in time where --time is given.
        query: queries of a task; below 1 a share of its samples.
        least: samples a task needs to be kept.
        most: samples above which it is left out.
        val: share of tasks for validation.
        test: share of tasks for the test: new users.
        item: column of items, for --new-items as a share.
        new_items: items that training does not see: a share, or a condition such as "year > '1997'".
        min_count: training samples that a value needs for a row of its own.
        memory_mb: most that sorting may hold in memory.
        threads: of sorting.
        seed: of parts and of random queries.
        overwrite: replace a store that lies in --to.
    """
    from graphscale import task_preparing

    began = clock.perf_counter()
    columns = task_preparing.columns_of(
        source, task=task, label=label, time=time, dense=dense, sparse=sparse, bags=bags, hashed=hashed,
        separator=separator, bag_size=bag_size,
    )  # fmt: skip
    cut = task_preparing.Cut(
        by=by, query=query, least=least, most=most, val=val, test=test, item=item, new_items=new_items,
        min_count=min_count, seed=seed,
    )  # fmt: skip
    with PeakMemory() as memory:
        made = task_preparing.prepare_tasks(
            source, to, columns, cut, memory_mb=memory_mb, threads=threads, overwrite=overwrite
        )
    peak = "" if memory.peak_mb is None else f", peak anonymous memory {memory.peak_mb:.0f} MB"
    seconds = clock.perf_counter() - began
    print(f"{to}: {made.num_records:,} records of {made.num_tasks:,} tasks; {seconds:.0f} s{peak}")
    for note in made.notes:
        print(f"  {note}")
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
    counts = next(
        names
        for names in (("tasks", "records"), ("nodes", "events"), ("nodes", "entries", "features", "classes"))
        if names[-1] in found
    )
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
    began = clock.perf_counter()
    with PeakMemory() as memory:
        cut = make()
    peak = "" if memory.peak_mb is None else f", peak anonymous memory {memory.peak_mb:.0f} MB"
    print(f"{to}: {_clusters(cut.describe())}; {clock.perf_counter() - began:.0f} s{peak}")
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
    """Foretell labels never seen (gmeta), or records of users never seen (gmeta_dlrm), from a few that are labelled.

    Args:
        run: folder of the run.
        support: gmeta: CSV or Parquet of node, label; other for pairs; graph where there are several. Else a log.
        to: gmeta: .csv or .parquet, the query's columns, predicted, p_LABEL for every label. Else .parquet: scores.
        query: as support; a label is only compared with.
        steps: inner steps of gmeta; by default the run's --test-steps.
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
