from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from graphs import random_graph
from torch import nn

from graphscale.batches.full import FullBatch
from graphscale.objectives.node import node_loss, node_loss_sum
from graphscale.step import Forward
from graphscale.testing import check_objective


def test_classes_by_hand():
    # softmax of (0, ln 3) is (1/4, 3/4)
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]], dtype=torch.float64)
    assert float(node_loss_sum(logits, torch.tensor([1, 0]))) == pytest.approx(-math.log(3 / 4) - math.log(1 / 4))


def test_labels_by_hand():
    # A sigmoid of ln 3 is 3/4; each node's loss is the mean over its C = 2 labels.
    logits = torch.full((2, 2), math.log(3.0), dtype=torch.float64)
    y = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    expected = (-math.log(3 / 4) - math.log(1 / 4)) / 2 - math.log(3 / 4)
    assert float(node_loss_sum(logits, y)) == pytest.approx(expected)


class Table(nn.Module):
    """Logits that are parameters: the gradient can be read off."""

    def __init__(self, rows: int, classes: int):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(rows, classes, dtype=torch.float64))


def test_only_labelled_roots_are_in_the_loss():
    graph = random_graph(30)
    batch = next(FullBatch(graph).epoch(0))
    batch = replace(batch, num_roots=20, y=batch.y[:20], mask=batch.mask[:20], count=int(batch.mask[:20].sum()))
    model = Table(30, 3)
    objective = node_loss(lambda params, batch: Forward(params["logits"], {}, {}))
    check_objective(objective, model, batch)
    outcome = objective(dict(model.named_parameters()), batch)
    outcome.loss_sum.backward()
    touched = model.logits.grad.abs().sum(1) > 0
    assert torch.equal(touched, torch.nn.functional.pad(batch.mask, (0, 10)))
    expected = model.logits.softmax(1)[:20][batch.mask] - nn.functional.one_hot(batch.y[batch.mask], 3)
    torch.testing.assert_close(model.logits.grad[:20][batch.mask], expected.detach())
    assert outcome.count == int(batch.mask.sum()) == outcome.scores["labels"].numel()


def test_dropout_follows_from_the_batch_alone():
    graph = random_graph(30)
    batch = next(FullBatch(graph).epoch(0))
    objective = node_loss(lambda params, batch: Forward(nn.functional.dropout(params["logits"], 0.5), {}, {}))
    params = dict(Table(30, 3).named_parameters())
    one, same, other = (objective(params, replace(batch, seed=seed)).loss_sum for seed in (1, 1, 2))
    assert one == same != other
