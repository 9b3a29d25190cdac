"""The exchange of benchmarks/gmeta_dlrm.py by torchrec: EmbeddingCollection, row-wise over 2 ranks, fused optimiser.

Needs torchrec 1.9.2 with fbgemm-gpu-cpu 1.8.0 beside torch 2.13 (1.9.0 does not load there). Without them it says so.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

COUNT, DIM, ROWS, STEPS = 20_000, 32, 1_000_000, 60
WAYS = ("row_wise", "table_wise", "column_wise")  # what its planner accepts of EmbeddingCollection on CPU


def measured(place: Path) -> dict[str, float] | str:
    """Median seconds of a step by way of sharding, or why there are none."""
    try:
        import fbgemm_gpu  # noqa: F401
        import torchrec  # noqa: F401
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        return f"cannot be imported ({str(error).splitlines()[0][:80]})"
    found: dict[str, float] = {}
    for way in WAYS:
        (place / f"meet-{way}").unlink(missing_ok=True)
        try:
            mp.spawn(_rank, (2, str(place), way), nprocs=2)
            found[way] = max(json.loads((place / f"torchrec-{way}-{rank}.json").read_text()) for rank in range(2))
        except Exception as error:  # what a peer cannot do is its table's business
            print(f"torchrec {way}: {str(error).splitlines()[-1][:200]}")
    return found or "no way of sharding ran on this CPU"


def _rank(rank: int, size: int, place: str, way: str) -> None:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet-{way}", rank=rank, world_size=size)
    config = EmbeddingConfig(name="t", embedding_dim=DIM, num_embeddings=ROWS, feature_names=["f"])
    model: Any = EmbeddingCollection(tables=[config], device=torch.device("cpu"))
    fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.01}
    sharder: Any = EmbeddingCollectionSharder(fused_params=fused)
    planner = EmbeddingShardingPlanner(
        topology=Topology(size, "cpu"), constraints={"t": ParameterConstraints(sharding_types=[way])}
    )
    plan = planner.plan(model, [sharder])
    whole = DistributedModelParallel(model, device=torch.device("cpu"), plan=plan, sharders=[sharder])
    draw = torch.Generator().manual_seed(rank)
    wanted = [torch.randperm(ROWS, generator=draw)[:COUNT].sort().values for _ in range(8)]
    gradient, seconds = torch.full((COUNT, DIM), 1e-3), []
    for step in range(STEPS + 3):
        features = KeyedJaggedTensor(["f"], wanted[step % 8], lengths=torch.ones(COUNT, dtype=torch.int64))
        dist.barrier()
        began = time.perf_counter()
        rows = whole(features)["f"].values()
        rows.backward(gradient)
        seconds.append(time.perf_counter() - began)
    Path(place, f"torchrec-{way}-{rank}.json").write_text(json.dumps(float(np.median(seconds[3:]))))
    dist.destroy_process_group()
