"""GAS, GNNAutoScale (Fey, Lenssen, Weichert, Leskovec; ICML 2021), for any PyG model.

| in the paper                                    | here                                      |
|-------------------------------------------------|-------------------------------------------|
| METIS clusters, q a batch, section 4            | ``partitioning.partition``, ``batches.cluster`` |
| the batch and its 1-hop halo, equation (2)      | ``reach.Reach``                           |
| push and pull of historical embeddings          | ``nn.history``, ``tables.history``        |
| normalisation from degrees of the whole graph   | ``Csr.degrees``, ``reach``                |
| gradient clipping, section 3                    | ``--clip``                                |
| loss                                            | ``objectives.node``                       |

PyGAS averages the loss over each batch's labelled nodes, which weighs nodes of poor batches more; here a
batch's sum is divided by the mean number of labelled nodes a step, so that an epoch's gradients add up to
the full batch's. PyGAS refreshes all histories exactly after every epoch, through its evaluation; here
evaluation writes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from graphscale.config import NodeConfig
from graphscale.errors import InputError
from graphscale.node_runs import composed
from graphscale.node_runs import predicted as predicted
from graphscale.node_runs import read as read
from graphscale.node_runs import restored as restored
from graphscale.node_runs import scores as scores

if TYPE_CHECKING:
    from graphscale.data.transform import Views
    from graphscale.run import Run


_BETA = 0.4
_SCORE: Literal["linear"] = "linear"


@dataclass(frozen=True, kw_only=True)
class GASConfig(NodeConfig):
    """GAS: every edge is kept; what a batch does not compute, it reads from histories of earlier steps."""

    model: str = "gcn"
    """gcn, sage, gat, gin, pna (PyG's), appnp, gcnii, or your module:callable."""
    num_parts: int = 40
    """p: clusters of the training graph."""
    parts_per_batch: int = 10
    """q: clusters a batch, drawn without replacement."""
    partitioner: Literal["metis", "stream", "random"] = "metis"
    """METIS; label propagation in memory proportional to nodes; or random parts as the control."""
    histories: Literal["ram", "disk", "device"] = "ram"
    """Where histories lie: on disk they may be larger than memory; on the GPU, where they fit, none of them travels."""
    history_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """How histories are stored."""
    compensation: Literal["none", "lmc"] = "none"
    """lmc: the gradients that nodes outside a batch would send back come from histories too (LMC, ICLR 2023)."""
    beta: float = _BETA
    """beta of LMC: how much of the halo's rows is computed in the batch rather than read, times --score."""
    score: Literal["linear", "constant", "concave", "convex", "sine"] = _SCORE
    """How beta depends on the share of a halo node's neighbours that a batch has."""
    lipschitz: float = 0.0
    """Weight of the regulariser that keeps errors of histories small (GAS, section 3); 0 leaves it out."""
    lipschitz_noise: float = 0.1
    """Deviation of the regulariser's noise."""
    refresh: Literal["never", "epoch"] = "never"
    """Make all histories exact after every epoch, in a pass over the whole graph, as PyGAS's evaluation does."""
    staleness: int = 1000
    """Nodes on which the error of histories is measured whenever the model is scored; 0 leaves it out."""

    def __post_init__(self) -> None:
        NodeConfig.__post_init__(self)
        self.demand(("num_parts", "parts_per_batch"), lambda v: v > 0, "must be above 0")
        self.demand(("staleness",), lambda v: v >= 0, "cannot be negative")
        self.demand(("lipschitz", "lipschitz_noise"), lambda v: v >= 0, "cannot be negative")
        self.demand(("lipschitz", "lipschitz_noise"), lambda v: v < math.inf, "must be finite")
        if self.compensation == "lmc" and self.refresh == "epoch":
            raise InputError(
                "--refresh epoch makes histories of embeddings exact, and LMC's of gradients would need a backward pass"
                " over the whole graph. Leave out one of --refresh epoch and --compensation lmc."
            )
        if self.compensation == "none" and (self.beta, self.score) != (_BETA, _SCORE):
            raise InputError("--beta and --score are of LMC. Add --compensation lmc, or leave them out.")
        if self.lipschitz and self.compensation == "lmc":
            raise InputError(
                "--lipschitz bounds errors that the last layers alone correct, and its second pass would tap the"
                " gradients that LMC records. Leave out one of --lipschitz and --compensation lmc."
            )
        self.demand(("beta",), lambda v: 0 <= v <= 1, "must lie in [0, 1]")
        if self.model == "cluster_gcn":
            raise InputError(
                "gas splices histories into PyG's layers, and cluster_gcn is a model of the house. Choose --model gcn,"
                " sage, gat, gin, pna, appnp, gcnii, or your own module:callable."
            )

    @classmethod
    def refuses(cls) -> dict[str, str]:
        """Sub-networks, with the reason."""
        reason = (
            "gas cannot be cut into sub-networks: a history holds the columns of one sub-network, which mean other"
            " hidden units to the next. Use gist without histories, or gas with replicas (--nproc)."
        )
        return dict.fromkeys(("num_subnets", "every", "local_sgd"), reason)

    def composition(self) -> str:
        """The run as a sentence of its parts."""
        whence = "the store's" if Path(self.data).is_dir() else f"p={self.num_parts}, {self.partitioner}"
        seen = f"clusters(q={self.parts_per_batch} of {whence}, halo)"
        kept = f"history({self.histories}, {self.history_dtype}, refresh={self.refresh})"
        how = "with_history" if self.compensation == "none" else f"with_compensation(beta={self.beta}, {self.score})"
        return f"{seen} . {how}({self.model}) . {kept} . node_loss . replicas"


Config = GASConfig
# What ``graphscale tune`` draws unless it is told.
SEARCH = {"lr": "1e-3..3e-2:log", "hidden": "64,128,256", "dropout": "0..0.6:0.1"}


def build(config: GASConfig, views: Views, seed: int) -> Run:
    """The composed run of one seed."""
    from functools import partial

    import torch

    from graphscale import nodes
    from graphscale.batches.cluster import ClusterBatches
    from graphscale.evaluation import Exact
    from graphscale.histories import Histories
    from graphscale.nn.compensation import GRADIENTS, Mix, demand_exact, with_compensation
    from graphscale.nn.history import TABLE, attach, with_history
    from graphscale.nn.lipschitz import Noise
    from graphscale.objectives.node import node_loss
    from graphscale.run import device_of
    from graphscale.tables.resident import histories
    from graphscale.world import World

    world, device = World.current(), device_of(config.device)
    model, feed, notes = nodes.model_of(config, views.seen, seed, views.whole)
    assert feed is not None
    model.to(device)
    graph, q, said = nodes.clustered(views.seen, config, seed)
    widths, filled = attach(model, feed, graph)
    bf16, lmc = config.precision == "bf16", config.compensation == "lmc"
    if lmc:
        demand_exact(model, feed, graph, widths)
        apply = with_compensation(model, feed, widths, Mix(config.beta, config.score), bf16=bf16)
    else:
        noise = Noise(config.lipschitz, config.lipschitz_noise) if config.lipschitz else None
        apply = with_history(model, feed, widths, bf16=bf16, noise=noise)
        widths = widths[:-1]

    rows = partial(
        histories, config.histories, graph.num_nodes,
        dtype=getattr(torch, config.history_dtype), device=device, world=world,
    )  # fmt: skip
    table = rows(sum(widths))
    tables = {TABLE: table, **({GRADIENTS: rows(sum(widths[:-1]))} if lmc else {})}
    ends = Histories(
        model, feed, graph, table, widths,
        device=device, world=world, refresh=config.refresh == "epoch", sample=config.staleness, seed=seed,
        bounded=not lmc,
    )  # fmt: skip
    batches = ClusterBatches(graph, q, seed=seed, world=world, halo=list(tables), filled=filled, inner=lmc)
    nodes.demand_pairs(model, batches.smallest)
    return composed(
        config,
        views,
        model,
        feed,
        graph=graph,
        batches=batches,
        objective=node_loss(apply),
        notes=[*notes, *said],
        partition=graph.clusters,
        tables=tables,
        ends=ends,
        # Where training sees all there is, the pass that measures histories gives the scores as well.
        evaluate=Exact(model, feed, graph, device, ends.logits) if views.seen is views.whole else None,
        per_step=int(graph.masks["train"].sum()) / len(batches),
    )
