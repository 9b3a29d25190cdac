"""Learned rows: the table's laws, and each optimiser beside torch's dense one."""

from __future__ import annotations

import pytest
import torch

from graphscale.tables.embedding import Descent, Embedding
from graphscale.testing import check_table
from graphscale.world import World

ROWS, DIM = 11, 3


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("disk", [False, True])
def test_a_table(kind, disk):
    check_table(lambda: Embedding(ROWS, DIM, descent=Descent(kind, 0.1, 0.01), disk=disk))


def steps(draw, everything):
    """Ids in any order, twice some of them, and a gradient for each."""
    for _ in range(6):
        ids = torch.arange(ROWS) if everything else torch.randint(ROWS, (8,), generator=draw)
        yield ids, torch.randn(len(ids), DIM, generator=draw, dtype=torch.float64)


# torch's Adam moves rows that a step does not touch: the lazy one is written out below.
@pytest.mark.parametrize(("kind", "everything"), [("sgd", True), ("sgd", False), ("adam", True)])
def test_optimisers_equal_torchs(kind, everything):
    table = Embedding(ROWS, DIM, descent=Descent(kind, 0.1, 0.02), scale=1.0, dtype=torch.float64)
    rows = torch.nn.Parameter(table.read(torch.arange(ROWS)))
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optimiser = kinds[kind]([rows], lr=0.1)
    for ids, gradient in steps(torch.Generator().manual_seed(0), everything):
        touched = torch.zeros(ROWS, 1, dtype=torch.float64)
        touched[ids] = 1
        rows.grad = torch.zeros_like(rows).index_add_(0, ids, gradient) + 0.02 * rows.detach() * touched
        optimiser.step()
        table.write(ids, gradient)
    torch.testing.assert_close(table.read(torch.arange(ROWS)), rows.detach())


@pytest.mark.parametrize("kind", ["adagrad", "adam"])
def test_rows_alone_move_and_keep_their_own_state(kind):
    table = Embedding(ROWS, DIM, descent=Descent(kind, 0.1, 0.02), scale=1.0, dtype=torch.float64)
    rows = table.read(torch.arange(ROWS)).tolist()
    kept = {row: [0.0, [0.0] * DIM, [0.0] * DIM] for row in range(ROWS)}
    for step, (ids, gradient) in enumerate(steps(torch.Generator().manual_seed(1), False), start=1):
        for row in sorted(set(ids.tolist())):
            total = gradient[ids == row].sum(0).tolist()
            g = [total[j] + 0.02 * rows[row][j] for j in range(DIM)]
            state = kept[row]
            if kind == "adagrad":
                state[0] += sum(v * v for v in g) / DIM
                rows[row] = [w - 0.1 * v / (state[0] ** 0.5 + 1e-8) for w, v in zip(rows[row], g, strict=True)]
                continue
            for j in range(DIM):
                state[1][j] = 0.9 * state[1][j] + 0.1 * g[j]
                state[2][j] = 0.999 * state[2][j] + 0.001 * g[j] ** 2
                mean, square = state[1][j] / (1 - 0.9**step), state[2][j] / (1 - 0.999**step)
                rows[row][j] -= 0.1 * mean / (square**0.5 + 1e-8)
        table.write(ids, gradient)
    torch.testing.assert_close(table.read(torch.arange(ROWS)), torch.tensor(rows, dtype=torch.float64))


def test_first_rows_are_those_of_any_number_of_ranks():
    whole = Embedding(101, DIM, scale=0.2, seed=4)
    parts = [Embedding(101, DIM, scale=0.2, seed=4, world=World(rank, 4)).rows for rank in range(4)]
    assert torch.equal(torch.cat(parts), whole.rows)
    assert [len(part) for part in parts] == [len(part) for part in torch.arange(101).chunk(4)], "as torch cuts"
    assert not torch.equal(whole.rows, Embedding(101, DIM, scale=0.2, seed=5).rows)
    many = Embedding(20_000, 8, scale=0.2).rows
    assert float(many.abs().max()) < 0.2
    assert abs(float(many.mean())) < 2e-3
    assert float(many.std()) == pytest.approx(0.2 / 3**0.5, rel=0.02)
    assert many.unique().numel() > 0.98 * many.numel(), "no two rows alike"
