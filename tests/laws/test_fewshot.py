"""Laws of meta-learning over subgraphs: derivatives, the released code's step, pruning, episodes, ranks."""

from __future__ import annotations

import weakref
from dataclasses import replace

import fewshot
import numpy as np
import pytest
import torch
from forked import started
from torch.nn.functional import cross_entropy
from torch_geometric.nn import GCNConv

from graphscale import fewshot_views
from graphscale.batches.subgraphs import Subgraphs
from graphscale.batches.tasks import TaskBatches
from graphscale.batches.whole import WholeSubgraphs
from graphscale.errors import InputError
from graphscale.kernels.ego_walk import Rules, Scratch
from graphscale.kernels.ego_whole import induced
from graphscale.loop import train_step
from graphscale.nn.ego import Rates
from graphscale.nn.ego_stock import StockEgo
from graphscale.objectives.meta import How, Meta
from graphscale.recipes.gmeta import GMetaConfig
from graphscale.settings import configure
from graphscale.world import World

SETTINGS = [
    How(order="second", rate=0.1),
    How(order="second", rate=0.1, prototypes="stale"),
    How(order="second", rate=0.1, space="hidden"),
    How(order="second", rate=0.1, loss="ce"),
    How(order="second", rate=0.1, adapt="head"),
    How(adapt="none"),
]


def params_of(net):
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("lift", [False, True])
@pytest.mark.parametrize("how", SETTINGS, ids=lambda h: f"{h.loss}-{h.adapt}-{h.prototypes}-{h.space}")
def test_the_meta_gradient_is_that_of_central_differences(how, lift):
    net = fewshot.network()
    batch = next(fewshot.batches(fewshot.graph(), lift=lift, adapts=how.adapt == "all").epoch(0))
    assert (batch.inputs.x is not None) == lift
    meta = Meta(net, how, steps=0 if how.adapt == "none" else 2)
    meta(params_of(net), batch).loss_sum.backward()
    draw = torch.Generator().manual_seed(3)
    for name, p in params_of(net).items():
        if p.grad is None or not p.grad.abs().max() > 0:
            assert name.startswith("head")  # unused in hidden space, or a bias that moves points and prototypes alike
            continue
        way = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        values = []
        for far in (2, 1, -1, -2):
            moved = {**params_of(net), name: (p + far * 1e-5 * way).detach().requires_grad_()}
            values.append(float(meta(moved, batch).loss_sum.detach()))
        want = (8 * (values[1] - values[2]) - (values[0] - values[3])) / (12 * 1e-5)  # to the fourth power of the step
        assert float((p.grad * way).sum()) == pytest.approx(want, rel=1e-8, abs=1e-9), name


class Loop:
    """The released code's step, task by task, node by node's dense subgraph: an oracle that shares no code."""

    def __init__(self, g, batch, rules, *, stale, first):
        self.batch, self.stale, self.first = batch, stale, first
        self.sides = []
        for points in batch.points:
            side = []
            for task in points:
                subgraphs = []
                for point in task:
                    node, *_ = induced(
                        g.adj.indptr.numpy(), g.adj.indices.numpy(), point[None].numpy(), np.zeros(1, np.uint64), rules,
                        Scratch(g.num_nodes),
                    )  # fmt: skip
                    some = torch.from_numpy(node)
                    a = g.adj.dense(torch.float64)[some][:, some]
                    d = a.sum(1).clamp(min=1)
                    subgraphs.append((a / (d[:, None] * d).sqrt(), g.x.double()[some]))
                side.append(subgraphs)
            self.sides.append(side)

    def embed(self, side, w):
        rows = []
        for a, x in side:
            h = x
            for l in range(2):
                h = torch.relu(a @ h @ w[f"convs.{l}.weight"] + w[f"convs.{l}.bias"])
            rows.append(h[0] @ w["head.weight"] + w["head.bias"])
        return torch.stack(rows)

    @staticmethod
    def nll(z, p, y):
        return cross_entropy(-(z[:, None] - p).square().sum(-1), y)

    def loss(self, w, steps, rate):
        total = 0.0
        for t in range(self.batch.count):
            y, fast = self.batch.support_y[t], dict(w)
            for _ in range(steps):
                z = self.embed(self.sides[0][t], fast)
                p = torch.stack([z[y == k].mean(0) for k in range(fewshot.WAYS)])
                grads = torch.autograd.grad(
                    self.nll(z, p, y), list(fast.values()), create_graph=not self.first, retain_graph=True
                )
                fast = {n: v - rate * g for (n, v), g in zip(fast.items(), grads, strict=True)}
            if not self.stale:
                z = self.embed(self.sides[0][t], fast)
                p = torch.stack([z[y == k].mean(0) for k in range(fewshot.WAYS)])
            q, m = self.embed(self.sides[1][t], fast), self.batch.mask[t]
            total = total + self.nll(q[m], p, self.batch.query_y[t][m])
        return total


@pytest.mark.parametrize("lift", [False, True])
@pytest.mark.parametrize(("stale", "first"), [(True, True), (False, True), (False, False)])
def test_stacked_adaptation_is_the_loop_over_tasks(stale, first, lift):
    g, rules = fewshot.graph(60), Rules(2, -1, 2, False, False)
    batch = next(fewshot.batches(g, rules=rules, lift=lift).epoch(0))
    net = fewshot.network()
    how = How(order="first" if first else "second", prototypes="stale" if stale else "fresh", rate=0.1)
    got = Meta(net, how, steps=3)(params_of(net), batch).loss_sum
    got.backward()
    mine = {n: p.grad.clone() for n, p in params_of(net).items()}
    net.zero_grad()
    want = Loop(g, batch, rules, stale=stale, first=first).loss(params_of(net), 3, 0.1)
    want.backward()
    assert got.item() == pytest.approx(want.item(), rel=1e-6)  # weights within a subgraph are float32
    for name, p in params_of(net).items():
        torch.testing.assert_close(mine[name], p.grad, rtol=1e-5, atol=1e-6)
    if stale:  # the author's prototypes are one step behind: not what fresh ones give
        other = Meta(net, replace(how, prototypes="fresh"), steps=3)(params_of(net), batch).loss_sum
        assert abs(other.item() - want.item()) > 1e-4


@pytest.mark.parametrize("cap", [-1, 12])
@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_pruned_rows_are_pygs_on_every_induced_subgraph(layers, loops, cap):
    g, rules = fewshot.graph(120), Rules(2, cap, layers, loops, False)
    x = g.x.double()
    net = fewshot.network(layers)
    whole = WholeSubgraphs(g.adj, x, rules)
    points = torch.arange(0, 24).view(2, 12, 1)
    near, far, inputs = Subgraphs(g.adj, x, rules)(points[:, :6], points[:, 6:])
    batch = next(fewshot.batches(g).epoch(0))
    batch = replace(batch, support=near, query=far, inputs=inputs)
    params = params_of(net)
    for base, some in zip(net.bases(params, batch), (points[:, :6], points[:, 6:]), strict=True):
        got = net.embed(params, {}, base).hidden
        side = whole(some, some)[0]
        for t in range(2):
            h = side.x[side.nodes[t] : side.nodes[t + 1]]
            edge_index = side.edge_index[:, side.edges[t] : side.edges[t + 1]]
            for l in range(layers):
                conv = GCNConv(h.shape[1], 5, add_self_loops=loops).double()
                conv.lin.weight.data = params[f"convs.{l}.weight"].data.t()
                conv.bias.data = params[f"convs.{l}.bias"].data
                h = conv(h, edge_index).relu()
            torch.testing.assert_close(got[t], h[side.centre[t, :, 0]], rtol=1e-5, atol=1e-6)


class Convs(torch.nn.Module):
    """A stock model whose weights are those of the house's network."""

    def __init__(self, net):
        super().__init__()
        self.convs = torch.nn.ModuleList(
            GCNConv(c.weight.shape[0], c.weight.shape[1], add_self_loops=False).double() for c in net.convs
        )
        for own, c in zip(self.convs, net.convs, strict=True):
            own.lin.weight.data, own.bias.data = c.weight.data.t().contiguous(), c.bias.data.clone()

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        return x


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_stock_model_adapts_as_the_houses_does(order):
    g, rules = fewshot.graph(), Rules(2, 20, 2, False, False)
    net = fewshot.network()
    stock = StockEgo(Convs(net), 5, fewshot.WAYS).double()
    stock.head.weight.data, stock.head.bias.data = net.head.weight.data.clone(), net.head.bias.data.clone()
    pools = fewshot.pools(g)
    usual = {"shots": fewshot.SHOTS, "queries": fewshot.QUERIES, "tasks": 4, "per_step": 2}
    whole = next(TaskBatches(WholeSubgraphs(g.adj, g.x.double(), rules), pools, **usual).epoch(0))
    pruned = next(TaskBatches(Subgraphs(g.adj, g.x.double(), rules), pools, **usual).epoch(0))
    how = How(order=order, rate=0.1)
    losses = [Meta(n, how, steps=3)(params_of(n), b).loss_sum for n, b in ((net, pruned), (stock, whole))]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    torch.testing.assert_close(stock.model.convs[0].lin.weight.grad, net.convs[0].weight.grad.t(), rtol=1e-5, atol=1e-6)


def test_labels_of_queries_do_not_reach_what_is_said_of_them():
    net = fewshot.network()
    batch = next(fewshot.batches(fewshot.graph()).epoch(0))
    meta = Meta(net, How(rate=0.1), steps=2)
    before = [a.logits for a in meta.answers(params_of(net), batch, steps=3, at=range(4))]
    other = replace(batch, query_y=(batch.query_y + 1) % fewshot.WAYS)
    after = [a.logits for a in meta.answers(params_of(net), other, steps=3, at=range(4))]
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(before[0], before[3])  # it does adapt
    moved = replace(batch, support_y=batch.support_y.flip(1))
    assert not torch.equal(before[3], next(meta.answers(params_of(net), moved, steps=3, at={3})).logits)


def test_answers_write_nothing():
    net = fewshot.network()
    batch = next(fewshot.batches(fewshot.graph()).epoch(0))
    kept = {n: p.detach().clone() for n, p in params_of(net).items()}
    list(Meta(net, How(rate=0.1), steps=2).answers(params_of(net), batch, steps=3, at={3}))
    assert all(p.grad is None and torch.equal(p, kept[n]) for n, p in params_of(net).items())


@pytest.mark.parametrize("fixed", [True, False])
def test_an_episode_is_a_function_of_its_seed_and_number(fixed):
    g = fewshot.graph()
    make = lambda: fewshot.batches(g, tasks=6, per_step=2, fixed=fixed)  # noqa: E731
    whole = [torch.cat([b.points[0], b.points[1]], 1) for b in make().epoch(1)]
    again = [torch.cat([b.points[0], b.points[1]], 1) for b in make().epoch(1, start=1)]
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], again, strict=True))
    other = [torch.cat([b.points[0], b.points[1]], 1) for b in make().epoch(2)]
    assert all(torch.equal(a, b) for a, b in zip(whole, other, strict=True)) == fixed
    wide = torch.cat(
        [
            torch.cat([b.points[0], b.points[1]], 1)
            for b in fewshot.batches(g, per_step=3, tasks=6, fixed=fixed).epoch(1)
        ]
    )
    assert torch.equal(torch.cat(whole), wide)  # whatever a step's size


def test_support_and_query_of_an_episode_are_apart_and_labelled_right():
    g = fewshot.graph()
    pools = fewshot.pools(g)
    drawn = pools.draw(torch.arange(200), fewshot.SHOTS, fewshot.QUERIES)
    for part, kept in ((drawn.support, torch.ones_like(drawn.support, dtype=torch.bool)), (drawn.query, drawn.mask)):
        label = pools.label[drawn.slot][:, :, None].expand_as(part)
        assert torch.equal(g.y[pools.points[part, 0]][kept], label[kept])
    both = torch.cat([drawn.support, torch.where(drawn.mask, drawn.query, -1)], 2).flatten(1)
    for row in both.tolist():
        met = [p for p in row if p >= 0]
        assert len(set(met)) == len(met)
    assert all(len(set(row)) == fewshot.WAYS for row in drawn.slot.tolist())
    assert drawn.slot.flatten().bincount().min() > 200 * fewshot.WAYS / 5 / 2  # every class has its turn


def points_met(views, split, count=30):
    pools = views.pools[split]
    drawn = pools.draw(torch.arange(count), 2, 3)
    return pools.points[torch.cat([drawn.support.flatten(), drawn.query[drawn.mask]])]


def config(**values) -> GMetaConfig:
    made = configure("gmeta", preset="none", shots=2, queries=3, **values)
    assert isinstance(made, GMetaConfig)
    return made


@pytest.mark.parametrize("fold", [0, 1])
def test_episodes_never_mix_labels(fold):
    views = fewshot_views.read(config(data="syn-cycle", ways=2, fold=fold))
    labels = {split: set(views.graph.y[points_met(views, split)[:, 0]].tolist()) for split in views.pools}
    assert not labels["train"] & labels["val"]
    assert not labels["train"] & labels["test"]
    assert not labels["val"] & labels["test"]
    assert all(labels[split] <= set(views.parts[split]) for split in labels)


@pytest.mark.parametrize("setup", ["shared", "links"])
def test_episodes_never_mix_graphs(setup):
    views = fewshot_views.read(config(data="planted-graphs:6:80", setup=setup, test_graphs=2))
    owner = {}
    for split in views.pools:
        points = points_met(views, split)
        graphs = torch.searchsorted(views.graph.part_ptr, points, right=True) - 1
        assert (graphs == graphs[:, :1]).all()  # a pair lies in one graph
        owner[split] = set(graphs.flatten().tolist())
        assert owner[split] <= set(views.parts[split])
    assert not owner["train"] & owner["val"]
    assert not owner["train"] & owner["test"]
    assert not owner["val"] & owner["test"]


def tabled(folder, split_of):
    """A folder of six graphs whose tables say which split a node is of."""
    draw = np.random.default_rng(0)
    names = {"train": [], "val": [], "test": []}
    for g in range(6):
        ends = draw.integers(0, 40, (2, 160))
        ends = ends[:, ends[0] != ends[1]]
        np.savez(folder / f"{g}.npz", edge_index=np.concatenate([ends, ends[::-1]], 1), num_nodes=40)
        for v in range(40):
            names[split_of(g, v % 6)].append(f"{g}_{v},{v % 6}")
    for split, lines in names.items():
        (folder / f"{split}.csv").write_text("\n".join(["name,label", *lines]) + "\n")
    return str(folder)


def test_splits_of_the_authors_folder_are_kept(tmp_path):
    by_graph, by_label = tmp_path / "graphs", tmp_path / "labels"
    by_graph.mkdir()
    by_label.mkdir()
    data = tabled(by_graph, lambda g, y: {0: "test", 1: "val"}.get(g, "train"))
    views = fewshot_views.read(config(data=data, setup="shared", ways=2))
    assert views.parts == {"train": (2, 3, 4, 5), "val": (1,), "test": (0,)}
    owner = torch.searchsorted(views.graph.part_ptr, points_met(views, "val")[:, 0].contiguous(), right=True) - 1
    assert set(owner.tolist()) == {1}
    data = tabled(by_label, lambda g, y: {0: "test", 5: "test", 1: "val", 2: "val"}.get(y, "train"))
    views = fewshot_views.read(config(data=data, setup="disjoint", ways=2))
    assert views.parts == {"train": (3, 4), "val": (1, 2), "test": (0, 5)}
    with pytest.raises(InputError, match="says itself which labels"):
        fewshot_views.read(config(data=data, setup="disjoint", ways=2, fold=1))
    views = fewshot_views.read(config(data=str(by_graph), setup="disjoint", ways=2))
    assert "drawn (--fold)" in views.notes[0], "a split of graphs says nothing of labels"
    (by_graph / "val.csv").unlink()
    with pytest.raises(InputError, match="graphs are of train and test, but not of val"):
        fewshot_views.read(config(data=str(by_graph), setup="shared", ways=2))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"setup": "disjoint", "data": "syn-cycle", "test_graph": "a"},
            "--test-graph a: --setup disjoint splits labels",
        ),
        ({"setup": "shared", "data": "syn-cycle:5", "val_labels": 2}, "--val-labels 2: --setup shared splits graphs"),
    ],
)
def test_splits_that_a_setup_does_not_make_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        fewshot_views.read(config(**values))


def test_asked_links_are_never_message_edges():
    views = fewshot_views.read(config(data="planted-graphs:6:80", setup="links"))
    dense = views.graph.adj.dense()
    pools = views.pools["train"]
    drawn = pools.draw(torch.arange(50), 2, 3)
    pair = pools.points[drawn.query[drawn.mask]]
    assert not dense[pair[:, 0], pair[:, 1]].any()
    assert not dense[pair[:, 1], pair[:, 0]].any()
    known = pools.points[drawn.support[:, 1]].view(-1, 2)  # a support's links are
    assert dense[known[:, 0], known[:, 1]].all()
    none = pools.points[drawn.support[:, 0]].view(-1, 2)
    assert not dense[none[:, 0], none[:, 1]].any()


def test_two_ranks_are_one_that_accumulates(tmp_path):
    started(fewshot.rank_of_two, str(tmp_path), size=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    run = fewshot.composed(World())
    (slot,) = run.sync.slots()
    made = list(run.batches.epoch(0))
    for pair in (made[:2], made[2:]):
        slot.optimiser.zero_grad()
        for batch in pair:
            slot.objective(slot.params(), batch).loss_sum.backward()
        run.sync.reduce(slot, sum(b.count for b in pair))
        slot.optimiser.step()
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-12)
        assert torch.equal(first[name], second[name])


class Held:
    """A tensor that autograd keeps for the backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


@pytest.mark.parametrize(
    "how", [{}, {"prototypes": "stale"}, {"loss": "ce"}, {"space": "hidden"}, {"order": "second"}], ids=str
)
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("lift", [False, True])
def test_memory_of_first_order_does_not_grow_with_steps(how, learned, lift):
    batch = next(fewshot.batches(fewshot.graph(), lift=lift).epoch(0))
    kept = []
    for steps in (2, 8):
        net = fewshot.network()
        if learned:
            net.rates = Rates(net.names("all"), 0.1).double()
        alive: weakref.WeakSet[Held] = weakref.WeakSet()

        def pack(tensor, alive=alive):
            held = Held(tensor)
            alive.add(held)
            return held

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            loss = Meta(net, How(rate=0.1, **how), steps=steps)(params_of(net), batch).loss_sum
        kept.append(len(alive))
        assert loss.requires_grad
    assert (kept[0] == kept[1]) == ("order" not in how)


def test_training_lowers_the_loss():
    run = fewshot.composed(World())
    losses = [train_step(run, batch, i)[0] for e in range(12) for i, batch in enumerate(run.batches.epoch(e))]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
