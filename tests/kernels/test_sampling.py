from __future__ import annotations

import numpy as np
from graphs import random_graph

from graphscale.kernels.sampling import sample_block


def arrays(**keywords):
    adj = random_graph(**keywords).adj
    return adj.indptr.numpy(), adj.indices.numpy()


def sampled(indptr, indices, roots, fanouts, seed=0):
    place = np.full(len(indptr) - 1, -1, dtype=np.int32)
    out = sample_block(indptr, indices, np.asarray(roots), fanouts, seed, place)
    assert (place == -1).all()  # the scratch is left as it was found
    return out


def test_blocks_are_what_they_say():
    indptr, indices = arrays(directed=True)
    roots = [7, 3, 50]
    n_id, ptr, col, entry = sampled(indptr, indices, roots, (2, 3))
    assert n_id[:3].tolist() == roots
    assert len(set(n_id)) == len(n_id)
    assert len(ptr) == len(n_id) + 1
    for i, v in enumerate(n_id):
        mine = entry[ptr[i] : ptr[i + 1]]
        assert len(set(mine)) == len(mine)  # without replacement
        assert all(indptr[v] <= e < indptr[v + 1] for e in mine)  # in-neighbours of this very node
        np.testing.assert_array_equal(n_id[col[ptr[i] : ptr[i + 1]]], indices[mine])
        degree = indptr[v + 1] - indptr[v]
        assert len(mine) in {min(2, degree)} if i < 3 else len(mine) in {min(3, degree), 0}


def test_all_neighbours_of_all_hops():
    indptr, indices = arrays()
    n_id, ptr, _, _ = sampled(indptr, indices, [0], (-1, -1))
    one = set(indices[indptr[0] : indptr[1]])
    two = {c for v in one for c in indices[indptr[v] : indptr[v + 1]]}
    assert set(n_id) == {0} | one | two
    inner = len({0} | one)
    assert ptr[-1] == ptr[inner] == sum(indptr[v + 1] - indptr[v] for v in n_id[:inner])  # the last hop is empty


def test_every_neighbour_is_equally_likely_and_so_is_every_pair():
    degree, take, trials = 6, 2, 20_000
    indptr = np.array([0, degree, *[degree] * degree], dtype=np.int32)
    indices = np.arange(1, degree + 1, dtype=np.int32)
    together = np.zeros((degree + 1, degree + 1))
    for seed in range(trials):
        n_id, _, _, _ = sampled(indptr, indices, [0], (take,), seed)
        a, b = sorted(n_id[1:])
        together[a, b] += 1
    pairs = together[np.triu_indices(degree + 1, 1)]
    pairs = pairs[pairs > 0]
    assert len(pairs) == 15
    expected = trials / 15
    # Chi-square with 14 degrees of freedom: 36.1 is its 0.999 quantile; the seeds are fixed.
    assert ((pairs - expected) ** 2 / expected).sum() < 36.1


def test_samples_follow_from_seed_and_node_alone():
    indptr, indices = arrays()
    _, _, _, a = sampled(indptr, indices, [5, 9], (3,), seed=1)
    _, _, _, b = sampled(indptr, indices, [9, 5], (3,), seed=1)
    _, _, _, c = sampled(indptr, indices, [5, 9], (3,), seed=2)
    assert set(a) == set(b)  # the order of roots does not matter
    assert set(a) != set(c)


def test_a_nodes_samples_differ_between_hops():
    # 0 -> 1 -> 0: the second time node 0 is met it is no frontier; but other nodes' draws must not repeat.
    indptr, indices = arrays(num_nodes=200, seed=3)
    draws = []
    for seed in range(2):
        _, ptr, _, entry = sampled(indptr, indices, [0, 1, 2], (4, 4), seed)
        draws.append([tuple(entry[ptr[i] : ptr[i + 1]] - indptr[v]) for i, v in enumerate([0, 1, 2])])
    assert draws[0] != draws[1]
