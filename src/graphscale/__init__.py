"""graphscale trains graph networks past the limits of the machine.

Names are imported when they are first used, so that ``import graphscale`` and the command line's
help need neither torch nor PyG.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from graphscale.api import clusters as clusters
    from graphscale.api import with_history as with_history
    from graphscale.batches.cluster import ClusterBatches as ClusterBatches
    from graphscale.batches.full import FullBatch as FullBatch
    from graphscale.data.pyg import from_pyg as from_pyg
    from graphscale.data.pyg import to_pyg as to_pyg
    from graphscale.data.static import load as load_graph  # noqa: F401
    from graphscale.errors import InputError as InputError
    from graphscale.graph import Graph as Graph
    from graphscale.loop import fit as fit
    from graphscale.nn.fast import accelerate as accelerate
    from graphscale.online import Live as Live
    from graphscale.online import live as live
    from graphscale.outputs import load as load
    from graphscale.partitioning import partition as partition
    from graphscale.people import Users as Users
    from graphscale.people import users as users
    from graphscale.preparing import append_events as append_events
    from graphscale.preparing import prepare_events as prepare_events
    from graphscale.recipes.cluster_gcn import ClusterGCNConfig as ClusterGCNConfig
    from graphscale.run import Run as Run
    from graphscale.session import evaluate as evaluate
    from graphscale.session import train as train
    from graphscale.settings import configure as configure
    from graphscale.tuning import tune as tune

_HOME = {
    "accelerate": "nn.fast",
    "clusters": "api",
    "with_history": "api",
    "ClusterBatches": "batches.cluster",
    "FullBatch": "batches.full",
    "from_pyg": "data.pyg",
    "load": "outputs",
    "load_graph": "data.static",
    "to_pyg": "data.pyg",
    "InputError": "errors",
    "Live": "online",
    "live": "online",
    "Graph": "graph",
    "partition": "partitioning",
    "append_events": "preparing",
    "prepare_events": "preparing",
    "ClusterGCNConfig": "recipes.cluster_gcn",
    "Run": "run",
    "configure": "settings",
    "evaluate": "session",
    "train": "session",
    "fit": "loop",
    "tune": "tuning",
    "Users": "people",
    "users": "people",
}

# Where the outside name differs from the one at home.
_NAMED = {"load_graph": "load"}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'graphscale' has no attribute '{name}'")
    module = importlib.import_module(f"graphscale.{_HOME[name]}")
    return getattr(module, _NAMED.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
