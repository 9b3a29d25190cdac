from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import random_graph

from graphscale.csr import Csr, from_entries, index_dtype, merge_duplicates, symmetrised
from graphscale.reach import Reach


def random_matrix(rows=6, cols=9, entries=25, values=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(rows, (entries,), generator=generator)
    col = torch.randint(cols, (entries,), generator=generator)
    return row, col, torch.rand(entries, generator=generator) if values else None


def dense_of(row, col, values, rows, cols):
    out = np.zeros((rows, cols), dtype=np.float32)
    np.add.at(out, (row.numpy(), col.numpy()), 1.0 if values is None else values.numpy())
    return out


@pytest.mark.parametrize("values", [False, True])
def test_from_entries_sorts_and_dense_adds_up(values):
    row, col, v = random_matrix(values=values)
    matrix, order = from_entries(row, col, (6, 9), v)
    np.testing.assert_allclose(matrix.dense().numpy(), dense_of(row, col, v, 6, 9))
    key = matrix.row_of * 9 + matrix.indices
    assert bool((key.diff() >= 0).all())
    assert torch.equal(row[order], matrix.row_of)
    assert matrix.indices.dtype == torch.int32


@pytest.mark.parametrize("values", [False, True])
def test_duplicates_merge(values):
    row, col, v = random_matrix(values=values)
    merged, count = merge_duplicates(from_entries(row, col, (6, 9), v)[0])
    dense = dense_of(row, col, v, 6, 9)
    assert count == 25 - (dense > 0).sum() > 0
    np.testing.assert_allclose(merged.dense().numpy(), dense if values else dense > 0, rtol=1e-6)


def test_transpose_take_rows_select_and_degree():
    row, col, v = random_matrix()
    matrix, _ = from_entries(row, col, (6, 9), v)
    dense = matrix.dense()
    torch.testing.assert_close(matrix.t.dense(), dense.t())
    pick = torch.tensor([5, 0, 0, 3])
    torch.testing.assert_close(matrix.take(pick).dense(), dense[pick])
    torch.testing.assert_close(matrix.rows(2, 5).dense(), dense[2:5])
    torch.testing.assert_close(matrix.degree(), dense.double().sum(1))
    keep = matrix.indices % 2 == 0
    even = dense.clone()
    even[:, 1::2] = 0
    torch.testing.assert_close(matrix.select(keep).dense(), even)


def test_new_values_move_into_the_cached_transpose():
    row, col, v = random_matrix()
    matrix, _ = from_entries(row, col, (6, 9), v)
    changed = matrix.with_values(matrix.values * torch.arange(25.0))
    torch.testing.assert_close(changed.t.dense(), changed.dense().t())


def test_symmetry_is_found_and_a_wrong_weight_is_seen():
    graph = random_graph(weighted=True)
    assert graph.adj.symmetric
    values = graph.adj.values.clone()
    values[0] += 1
    assert not graph.adj.with_values(values).check_symmetric()
    assert not random_graph(directed=True).adj.symmetric


def test_symmetrised_drops_loops_and_directions():
    graph = random_graph(directed=True, loops=True)
    dense = graph.adj.dense().numpy() > 0
    expected = (dense | dense.T) & ~np.eye(len(dense), dtype=bool)
    np.testing.assert_array_equal(symmetrised(graph.adj).dense().numpy(), expected)


def test_without_loops():
    graph = random_graph(loops=True)
    assert float(graph.adj.dense().diagonal().sum()) > 0
    expected = graph.adj.dense().fill_diagonal_(0)
    torch.testing.assert_close(graph.adj.without_loops().dense(), expected)


def test_indices_grow_only_where_they_must():
    assert index_dtype(10, 2**31 - 1) == torch.int32
    assert index_dtype(2**31) == torch.int64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_loops_are_taken_and_put_on_a_gpu():
    adj = random_graph(loops=True).adj
    there = adj.to(torch.device("cuda"))
    for change in (Csr.without_loops, Csr.with_diagonal):
        assert torch.equal(change(there).dense().cpu(), change(adj).dense())


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_diagonal_of_some_rows(loops, whole):
    adj = random_graph(loops=loops, directed=True).adj
    rows = None if whole else torch.arange(adj.num_rows) % 3 > 0
    dense = adj.with_values(None).dense().fill_diagonal_(0) + torch.diag(
        torch.ones(adj.num_rows) if whole else rows.float()
    )
    for found in (adj.with_diagonal(rows), adj._looped_on_any_device(rows)):
        assert torch.equal(found.dense(), dense)
        last = found.indices[found.indptr[1:].long() - 1]
        there = torch.ones(adj.num_rows, dtype=torch.bool) if whole else rows
        assert torch.equal(last[there].long(), torch.arange(adj.num_rows)[there])


def test_degrees_of_the_graph_do_not_outlive_what_they_are_of():
    adj = random_graph(weighted=True, loops=True).adj
    n_id, block, _ = Reach(adj).block(torch.arange(20))
    assert torch.equal(block.with_values(None).degree(), adj.indptr.diff()[n_id].double())
    torch.testing.assert_close(block.degree(), adj.degree()[n_id])
    for other in (block.without_loops(), block.with_values(2 * block.values)):
        torch.testing.assert_close(other.degree(), other.dense(torch.float64).sum(1))
