from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from graphscale.data.generated import Like, _Plan, generated
from graphscale.errors import InputError
from graphscale.partitioning import partition

LIKE = Like(nodes=3000, edges=40_000, features=8, classes=5, community=100)


def made(tmp_path, like, name="work"):
    (tmp_path / name).mkdir()
    return generated(like, tmp_path / name)


def test_sizes_and_symmetry(tmp_path):
    graph = made(tmp_path, LIKE)
    assert (graph.num_nodes, graph.num_features, graph.num_classes) == (3000, 8, 5)
    assert 0.7 * 2 * LIKE.edges < graph.num_entries <= 2 * LIKE.edges
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
    graph = made(tmp_path, LIKE)
    plan = _Plan.of(LIKE)
    drawn = [plan.edges(block, min(4096, LIKE.edges - 4096 * block)) for block in range(-(-LIKE.edges // 4096))]
    pairs = np.concatenate([np.stack(edges) for edges in drawn], axis=1)
    both = np.concatenate([pairs, pairs[::-1]], axis=1)
    expected = np.unique(both[1] * LIKE.nodes + both[0])
    assert np.array_equal((graph.adj.row_of * LIKE.nodes + graph.adj.indices).numpy(), expected)


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
    far = torch.cdist(means, means)[~torch.eye(5, dtype=torch.bool)].min()
    assert float(far) > 1


@pytest.mark.parametrize("change", [{"nodes": 5}, {"classes": 1}, {"edges": 0}, {"inside": 1.5}, {"exponent": 2.0}])
def test_what_cannot_be_made(change):
    with pytest.raises(InputError, match=f"--{next(iter(change))}"):
        replace(LIKE, **change)
