"""From any source to a store: read, cut into clusters, write in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
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


def prepare_events(
    source: Any, to: str | Path, *, directed: bool = False, num_src: int = 0, spare_sources: int = 0,
    overwrite: bool = False,
) -> Events:  # fmt: skip
    """Make a store of a stream at ``to`` and return it.

    Args:
        source: what ``train pres`` takes as ``--data``, PyG's ``TemporalData`` (``msg`` features, ``y`` states), or
            ``Events``.
        to: folder of the store.
        directed: a node's neighbours are the sources of its events alone.
        num_src: sources are nodes below it and destinations the others; 0 where a node may be either, or the source
            says it.
        spare_sources: numbers that a bipartite stream leaves for later sources; later destinations need none.
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
    elif isinstance(source, Events):
        events = replace(source, directed=True, kept={}) if directed and not source.directed else source
    else:
        events = streams.from_temporal_data(source, directed=directed)
    if num_src not in (0, events.num_src):
        if events.bipartite:
            raise InputError(f"num_src {num_src:,}: the source says {events.num_src:,}. Leave it out.")
        events = _parted(events, num_src)
    events = events.roomier(spare_sources) if spare_sources else events
    made = {"source": str(source), "versions": probe.versions()}
    write_stream(events, to, made=made, overwrite=overwrite)
    return read_stream(to)


def _parted(events: Events, num_src: int) -> Events:
    """Events as those of a bipartite stream."""
    if num_src < 0:
        raise InputError(f"num_src {num_src:,}: a number of sources is needed, or 0 where a node may be either.")
    parted = stream(
        events.src, events.dst, events.t, num_nodes=events.num_nodes, feat=events.feat, label=events.label,
        num_src=num_src, directed=events.directed,
    )  # fmt: skip
    return replace(parted, notes=events.notes)


def append_events(source: Any, to: str | Path) -> Events:
    """Put later events at the end of a stored stream and return it: one pass of copies, whole or not at all.

    Args:
        source: as ``prepare_events`` takes it. Nodes beyond the stream's are new: destinations of a bipartite one,
            whose sources have the numbers that were left for them.
        to: folder of the store.

    Raises:
        InputError: where there is no stored stream, or the events do not continue it.
    """
    from graphscale.data import streams

    to = Path(to)
    before = read_stream(to)
    said = dict(store.manifest_of(to, *EVENTS)["made"])
    if isinstance(source, str | Path):
        later = streams.load(source, directed=before.directed, known=before.num_nodes, num_src=before.num_src)
    elif isinstance(source, Events):
        later = source
    else:
        later = streams.from_temporal_data(source, directed=before.directed, known=before.num_nodes)
    if before.bipartite and not later.bipartite:  # a plain file does not say where sources end
        later = _parted(later, before.num_src)
    made = {**said, "appended": [*said.get("appended", []), str(source)], "versions": probe.versions()}
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
