"""From any source to a store: read, cut into clusters, write in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from graphscale import probe, store
from graphscale.data import edges, static
from graphscale.data.communities import Like
from graphscale.data.generated import generated
from graphscale.errors import InputError
from graphscale.events import Events, stream
from graphscale.graph import Graph
from graphscale.partitioning import Method, Partition, partition
from graphscale.store.folder import EVENTS, TASKS, known_manifest
from graphscale.store.graphs import write_graphs
from graphscale.store.stream import read_stream, write_stream
from graphscale.store.tasks import read_tasks


def prepare(
    source: str,
    to: Path,
    num_parts: int,
    *,
    partitioner: Method = "metis",
    weighted: bool = False,
    undirected: bool = False,
    features: Path | None = None,
    labels: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Partition:
    """Make a store of ``source`` at ``to`` and return its clusters.

    An edge list (``.parquet``, ``.csv``, ``.npy``) is never held in memory; with the streaming or random
    partitioner memory stays proportional to the number of nodes.

    Raises:
        InputError: where the source, the number of parts or the place cannot be used.
    """
    if to.exists() and not (overwrite and store.is_store(to)):
        raise InputError(f"{to} is in use. Give another --to, or --overwrite to replace a store.")
    made = {
        "source": source,
        "partitioner": partitioner,
        "weighted": weighted,
        "undirected": undirected,
        "seed": seed,
        "versions": probe.versions(),
    }

    def finish(graph: Graph, splits: Mapping[str, Tensor] | None) -> Partition:
        cut = partition(graph, num_parts, method=partitioner, seed=seed, weighted=weighted)
        store.write(graph, cut, to, splits=splits, made=made, overwrite=overwrite)
        return cut

    path = Path(source)
    if path.suffix not in edges.SUFFIXES:
        if features is not None or labels is not None:
            raise InputError(f"{source} has its own features and labels; --features and --labels go with edge lists.")
        return finish(static.load(source, undirected=undirected), static.all_splits(source))
    to.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.rows.") as work:
        graph = edges.read(path, Path(work), features=features, labels=labels, undirected=undirected)
        return finish(graph, None)


def prepare_graphs(
    source: str, to: Path, *, undirected: bool = False, seed: int = 0, overwrite: bool = False
) -> Partition:
    """Make a store of a collection of graphs at ``to`` and return them as clusters.

    Graphs are read one by one; what is large is kept in files meanwhile.

    Args:
        source: as ``data.collections.load`` has it.
        seed: of generated graphs.

    Raises:
        InputError: where the source or the place cannot be used.
    """
    from graphscale.data import collections

    if to.exists() and not (overwrite and store.is_store(to)):
        raise InputError(f"{to} is in use. Give another --to, or --overwrite to replace a store.")
    collection = collections.load(source, seed=seed, undirected=undirected)
    made = {"source": source, "undirected": undirected, "seed": seed, "versions": probe.versions()}
    return write_graphs(collection, to, made=made, overwrite=overwrite)


def prepare_events(source: Any, to: str | Path, *, directed: bool = False, overwrite: bool = False) -> Events:
    """Make a store of a stream at ``to`` and return it.

    Args:
        source: what ``train pres`` takes as ``--data``, or PyG's ``TemporalData`` (``msg`` features, ``y`` states).
        to: folder of the store.
        directed: a node's neighbours are the sources of its events alone.
        overwrite: replace a store that lies in ``to``.

    Raises:
        InputError: where the source or the place cannot be used.
    """
    from graphscale.data import streams  # Arrow, for streams alone

    to = Path(to)
    if to.exists() and not (overwrite and store.is_store(to)):
        raise InputError(f"{to} is in use. Give another --to, or --overwrite to replace a store.")
    if isinstance(source, str | Path):
        events = streams.load(source, directed=directed)
    else:
        events = streams.from_temporal_data(source, directed=directed)
    made = {"source": str(source), "versions": probe.versions()}
    write_stream(events, to, made=made, overwrite=overwrite)
    return read_stream(to)


def append_events(source: str, to: Path) -> Events:
    """Put later events at the end of a stored stream and return it: one pass of copies, whole or not at all.

    Raises:
        InputError: where there is no stored stream, or the events do not continue it.
    """
    from graphscale.data import streams

    before = read_stream(to)
    said = dict(store.manifest_of(to, *EVENTS)["made"])
    later = streams.load(source, directed=before.directed, known=before.num_nodes)
    if before.bipartite and not later.bipartite:  # a plain file does not say where sources end
        later = stream(
            later.src, later.dst, later.t, num_nodes=later.num_nodes, feat=later.feat, label=later.label,
            num_src=before.num_src, directed=before.directed,
        )  # fmt: skip
    made = {**said, "appended": [*said.get("appended", []), source], "versions": probe.versions()}
    write_stream(before.appended(later), to, made=made, overwrite=True)
    return read_stream(to)


def generate(
    like: Like, to: Path, num_parts: int, *, partitioner: Method = "stream", overwrite: bool = False
) -> Partition:
    """Make a store of a generated graph at ``to`` and return its clusters.

    Raises:
        InputError: where the number of parts or the place cannot be used.
    """
    if to.exists() and not (overwrite and store.is_store(to)):
        raise InputError(f"{to} is in use. Give another --to, or --overwrite to replace a store.")
    if not 1 <= num_parts <= like.nodes:
        raise InputError(
            f"--num-parts {num_parts} of {like.nodes:,} nodes: every part needs a node. Choose from 1 to {like.nodes}."
        )
    to.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.rows.") as work:
        graph = generated(like, Path(work))
        cut = partition(graph, num_parts, method=partitioner, seed=like.seed)
        made = {"source": "generated", **asdict(like), "partitioner": partitioner, "versions": probe.versions()}
        store.write(graph, cut, to, made=made, overwrite=overwrite)
    return cut


def info(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """What a store holds; with ``verify``, after reading every byte of it.

    Raises:
        InputError: where it is damaged.
    """
    manifest = known_manifest(path)
    reads: dict[str, Callable[[Path], object]] = {EVENTS[0]: read_stream, TASKS[0]: read_tasks}
    reads.get(manifest["format"], store.read)(path)
    if verify and (wrong := store.verify(path)):
        raise InputError(f"{path} is damaged: {', '.join(wrong)} changed since it was written. Prepare it again.")
    return manifest
