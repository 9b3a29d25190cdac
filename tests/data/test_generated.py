from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from graphscale.csr import Csr, from_entries
from graphscale.data.communities import Like, Plan
from graphscale.data.generated import generated
from graphscale.errors import InputError
from graphscale.kernels.external import thin
from graphscale.partitioning import partition
from graphscale.preparing import generate

LIKE = Like(nodes=3000, edges=40_000, features=8, classes=5, community=100)


def made(tmp_path, like, name="work"):
    (tmp_path / name).mkdir()
    return generated(like, tmp_path / name)


def test_sizes_and_symmetry(tmp_path):
    graph = made(tmp_path, LIKE)
    assert (graph.num_nodes, graph.num_features, graph.num_classes) == (3000, 8, 5)
    assert graph.num_entries == 2 * LIKE.edges
    assert graph.adj.symmetric and graph.adj.check_symmetric()
    assert not graph.adj.has_loops()
    shares = [float(graph.masks[name].double().mean()) for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.03)


def test_the_seed_decides(tmp_path):
    one, same = made(tmp_path, LIKE, "a"), made(tmp_path, LIKE, "b")
    other = made(tmp_path, replace(LIKE, seed=1), "c")
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert torch.equal(one.x, same.x) and torch.equal(one.y, same.y)


def test_the_store_holds_the_edges_of_the_stream(tmp_path, monkeypatch):
    monkeypatch.setattr("graphscale.data.generated._BLOCK", 4096)  # several blocks, the last one short
    draws = 60_000
    monkeypatch.setattr(Plan, "draws", lambda plan, distinct: draws)
    graph = made(tmp_path, LIKE)
    plan = Plan.of(LIKE)
    drawn = [plan.edges(block, min(4096, draws - 4096 * block)) for block in range(-(-draws // 4096))]
    pairs = np.concatenate([np.stack(edges) for edges in drawn], axis=1)
    both = np.concatenate([pairs, pairs[::-1]], axis=1)
    possible = both[1] * LIKE.nodes + both[0]
    held = (graph.adj.row_of * LIKE.nodes + graph.adj.indices).numpy()
    assert len(np.unique(held)) == len(held) == 2 * LIKE.edges
    assert np.isin(held, possible).all()
    share = len(held) / len(np.unique(possible))
    for source, target in (drawn[0], drawn[-1]):  # whichever block an edge is of, its chance to stay is the same
        assert np.isin(target * LIKE.nodes + source, held).mean() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(
    "change", [{}, {"edges": 1000}, {"nodes": 100, "edges": 3000, "community": 50}, {"edges": 99_991}]
)
def test_exactly_the_edges_asked_for(tmp_path, change):
    graph = made(tmp_path, replace(LIKE, **change))
    assert graph.num_entries == 2 * replace(LIKE, **change).edges
    assert graph.adj.check_symmetric() and not graph.adj.has_loops()


def test_draws_are_foreseen():
    like = Like(nodes=2000, edges=60_000, features=1, classes=4, community=80)  # half the draws are repeated
    plan = Plan.of(like)
    draws = plan.draws(60_000)
    source, target = plan.edges(0, draws)
    distinct = len(np.unique(np.minimum(source, target) * 2000 + np.maximum(source, target)))
    assert draws > 75_000
    assert distinct == pytest.approx(60_000, rel=0.01)


def test_more_edges_than_there_are_pairs(tmp_path):
    with pytest.raises(InputError, match=r"--edges 5,000 among 100 nodes: .* larger communities"):
        made(tmp_path, Like(nodes=100, edges=5000, features=1, classes=2, community=50))


def test_thinning_is_a_fair_lot(tmp_path):
    # Every edge has the same chance to stay: shares by degree of the source agree.
    draw = torch.Generator().manual_seed(0)
    pair = torch.randint(400, (2, 30_000), generator=draw)
    pair = pair[:, pair[0] < pair[1]].unique(dim=1)
    whole, _ = from_entries(torch.cat([pair[0], pair[1]]), torch.cat([pair[1], pair[0]]), (400, 400))
    chances = torch.zeros(whole.num_entries)
    for seed in range(60):
        indptr, indices = whole.indptr.clone(), whole.indices.clone()
        left = thin(indptr.numpy(), indices.numpy(), 4000, np.uint64(seed))
        kept = Csr(indptr, indices[:left], None, 400)
        assert left == 8000 and kept.check_symmetric()
        chances += kept.dense()[whole.row_of, whole.indices.long()]
    assert float(chances.mean() / 60) == pytest.approx(8000 / whole.num_entries)
    spread = 60 * 8000 / whole.num_entries * (1 - 8000 / whole.num_entries)
    assert float(chances.var()) == pytest.approx(spread, rel=0.1)


def test_degrees_follow_a_power_law(tmp_path):
    like = Like(nodes=20_000, edges=400_000, features=1, classes=5, community=2000, inside=0.5)
    degree = np.sort(made(tmp_path, like).adj.indptr.diff().numpy())[::-1]
    assert degree[0] > 8 * degree.mean()
    # Hill's estimate of the exponent on the largest 5 %; the expected degrees have 2.8.
    top = degree[: len(degree) // 20].astype(float)
    exponent = 1 + 1 / np.log(top[:-1] / top[-1]).mean()
    assert exponent == pytest.approx(like.exponent, abs=0.5)


def test_edges_stay_in_communities_and_features_tell_the_class(tmp_path):
    graph = made(tmp_path, LIKE)
    same = (graph.y[graph.adj.row_of] == graph.y[graph.adj.indices.long()]).double().mean()
    assert float(same) > 0.7
    assert partition(graph, 30, method="stream").cut < 0.5 < partition(graph, 30, method="random").cut
    means = torch.stack([graph.x[graph.y == k].mean(0) for k in range(5)])
    far = torch.cdist(means, means)[~torch.eye(5, dtype=torch.bool)].mean()
    assert float(far) == pytest.approx(1, abs=0.35)  # 8 features: a wide spread
    assert float((graph.x - means[graph.y]).std()) == pytest.approx(LIKE.noise, rel=0.02)


@pytest.mark.parametrize("parts", [0, 3001])
def test_parts_are_counted_before_anything_is_made(tmp_path, parts):
    with pytest.raises(InputError, match=f"--num-parts {parts} of 3,000 nodes"):
        generate(LIKE, tmp_path / "store", parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change", [{"seed": -1}, {"nodes": 5}, {"classes": 1}, {"edges": 0}, {"inside": 1.5}, {"exponent": 2.0}]
)
def test_what_cannot_be_made(change):
    with pytest.raises(InputError, match=f"--{next(iter(change))}"):
        replace(LIKE, **change)
