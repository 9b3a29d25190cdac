"""What any table of few-shot results must carry: methods that learn no adaptation, on the same episodes.

| method        | before the episodes                              | in an episode                                    |
|---------------|--------------------------------------------------|--------------------------------------------------|
| knn           | all training labels at once (cross entropy)      | the nearest of the support, by the last layer    |
| finetune      | the same                                         | a new head, all weights descend on the support   |
| no_finetune   | nothing: weights as they were drawn              | the same                                         |
| tlp           | no label: Deep Graph Infomax on the whole graph  | logistic regression on the support's embeddings  |

They see the same subgraphs as gmeta (tlp: the graph). Their rates and steps in an episode are ``--inner-lr`` and
``--test-steps``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphscale import fewshot_parts, rng
from graphscale.batches.deal import dealt, steps
from graphscale.batches.episodes import Drawn, Pools
from graphscale.batches.subgraphs import Inputs
from graphscale.batches.tasks import Maker, TaskBatch, task_batch
from graphscale.csr import Csr
from graphscale.fewshot_scores import Answer
from graphscale.fewshot_views import FewShotViews
from graphscale.graph import take_rows
from graphscale.nn.ego import EgoGCN
from graphscale.nn.ego_stock import StockEgo
from graphscale.nn.infomax import infomax
from graphscale.objectives.meta import How, Meta
from graphscale.run import Run, device_of
from graphscale.step import Outcome, Params
from graphscale.world import World

if TYPE_CHECKING:
    from graphscale.recipes.gmeta import GMetaConfig

_POINTS = 256  # a batch of joint training


def build(config: GMetaConfig, views: FewShotViews, seed: int) -> Run:
    """The composed run of one seed."""
    device = device_of(config.device)
    with rng.isolated(rng.derive(rng.INIT, seed)):
        net: Any = network(config, views).to(device)
    answer = answering(config, views, net)
    if config.method == "tlp":
        return fewshot_parts.composed(config, views, seed, net, _Infomax(net, views, device), _Alone(), answer)
    made = fewshot_parts.maker(config, views, seed, adapts=False)
    batches = PointBatches(made, views.pools["train"], seed=seed, world=World.current())
    learns = config.method != "no_finetune"
    return fewshot_parts.composed(config, views, seed, net, Joint(net, learns=learns), batches, answer)


def network(config: GMetaConfig, views: FewShotViews) -> nn.Module:
    """The network before the episodes."""
    if config.method == "tlp":
        encoder: nn.Module = infomax(1 if views.x is None else views.x.shape[1], config.hidden, config.depth)
        return encoder
    return fewshot_parts.network(config, views, None if config.method == "no_finetune" else max(2, views.classes))


def answering(config: GMetaConfig, views: FewShotViews, net: nn.Module) -> Answer:
    """What a method says of an episode's queries."""
    if config.method == "tlp":
        return _Probe(net, views, device_of(config.device))
    assert isinstance(net, EgoGCN | StockEgo)
    if config.method == "knn":
        return _Nearest(net, config.neighbours)
    return _Tuned(net, config.test_steps, config.inner_lr)


class PointBatches:
    """The points of a split in random order, each once an epoch, with the numbers of their classes.

    Args:
        maker: of their subgraphs.
        pools: of the split.
    """

    def __init__(self, maker: Maker, pools: Pools, *, seed: int = 0, world: World | None = None) -> None:
        self.maker, self.pools, self.seed, self.world = maker, pools, seed, world or World()
        lists = [(pools.ptr, pools.members)]
        if pools.query_ptr is not None and pools.query_members is not None:
            lists.append((pools.query_ptr, pools.query_members))
        self.number = torch.cat([members for _, members in lists])
        # Classes count 0, 1, ... in the order of the pools where labels are disjoint, and are the labels elsewhere.
        names = pools.label if pools.shared else torch.arange(pools.label.numel())
        self.label = torch.cat([names.repeat_interleave(ptr.diff()) for ptr, _ in lists])

    def __len__(self) -> int:
        return steps(-(-self.number.numel() // _POINTS), self.world)

    def epoch(self, index: int, start: int = 0) -> Iterator[TaskBatch]:
        """This rank's batches of an epoch: tasks of one support point, which nobody looks at."""
        order = torch.randperm(self.number.numel(), generator=rng.generator(rng.ORDER, self.seed, index))
        groups = order.split(_POINTS)
        for hand in dealt(len(groups), self.world, self.seed, index, start):
            own = groups[hand.group]
            number = self.number[own].view(1, 1, -1)
            drawn = Drawn(number[:, :, :1], number, torch.ones_like(number, dtype=torch.bool), torch.zeros(1, 1))
            batch = task_batch(self.maker, self.pools.points, drawn, hand.seed, epoch=index + 1, padding=hand.padding)
            yield replace(batch, query_y=self.label[own][None])


class Joint:
    """Cross entropy over all training classes at once; without ``learns``, nothing to learn."""

    def __init__(self, net: EgoGCN | StockEgo, *, learns: bool = True) -> None:
        self.net, self.learns = net, learns

    def __call__(self, params: Params, batch: TaskBatch) -> Outcome:
        """The outcome of a batch of points."""
        if not self.learns:
            return Outcome(torch.zeros(()), 0)
        with rng.isolated(batch.seed, batch.query_y.device):
            hidden = self.net.embed(params, {}, self.net.bases(params, batch)[1]).hidden  # type: ignore[arg-type]
            logits = self.net.logits(params, {}, hidden)[0]
        return Outcome(F.cross_entropy(logits, batch.query_y[0], reduction="sum"), batch.query_y.numel())


class _Nearest:
    """Votes of the k nearest support points; of equal votes the nearer wins."""

    def __init__(self, net: EgoGCN | StockEgo, k: int) -> None:
        self.net, self.k = net, k

    @torch.no_grad()
    def __call__(self, batch: TaskBatch) -> tuple[Tensor | None, Tensor]:
        net, params = self.net.eval(), dict(self.net.named_parameters())
        near, far = (net.embed(params, {}, base).hidden for base in net.bases(params, batch))  # type: ignore[arg-type]
        distance, which = torch.cdist(far, near).topk(min(self.k, near.shape[1]), largest=False)  # [T, m, k]
        label = batch.support_y[:, None].expand(-1, far.shape[1], -1).gather(2, which)
        votes = F.one_hot(label, batch.ways) * (1 + torch.softmax(-distance, -1)[..., None])
        return None, votes.sum(2)


class _Tuned:
    """A head of zeros, and descent of all weights on the support."""

    def __init__(self, net: EgoGCN | StockEgo, count: int, rate: float) -> None:
        self.net, self.steps = net, count
        self.meta = Meta(net, How(loss="ce", adapt="all", rate=rate), steps=count)

    def __call__(self, batch: TaskBatch) -> tuple[Tensor | None, Tensor]:
        self.net.eval()
        params = {name: value.detach() for name, value in self.net.named_parameters()}
        params["head.weight"] = params["head.weight"].new_zeros(params["head.weight"].shape[0], batch.ways)
        params["head.bias"] = params["head.bias"].new_zeros(batch.ways)
        *_, last = self.meta.answers(params, batch, steps=self.steps, at={0, self.steps})
        return None, last.logits


class _Alone:
    """The whole graph, a step an epoch."""

    def __len__(self) -> int:
        return 1

    def epoch(self, index: int, start: int = 0) -> Iterator[TaskBatch]:
        """One batch that names no point."""
        if start == 0:
            none = torch.zeros(1, 0, dtype=torch.int64)
            points = (none[..., None], none[..., None])
            yield TaskBatch(None, None, none, none, none.bool(), 0, Inputs(None), rng.derive(rng.STEP, index), points)


class _Infomax:
    """The loss of Deep Graph Infomax on the training graphs (all of one graph)."""

    def __init__(self, net: nn.Module, views: FewShotViews, device: torch.device) -> None:
        self.net = net
        adj, x = views.graph.adj, _fed(views)
        if views.setup != "disjoint":
            ptr = views.graph.part_ptr
            rows = torch.cat([torch.arange(int(ptr[g]), int(ptr[g + 1])) for g in views.parts["train"]])
            adj, x = views.graph.induced(rows).adj, take_rows(x, rows)  # type: ignore[assignment]
        self.adj, self.x = replace(adj, values=None).to(device), x.to(device)

    def __call__(self, params: Params, batch: TaskBatch) -> Outcome:
        """The outcome of the graph."""
        with rng.isolated(batch.seed, self.adj.device):
            order = torch.arange(self.adj.num_rows, device=self.adj.device)
            out = torch.func.functional_call(self.net, params, (order, self.x, self.adj))
            loss = self.net.loss(*out)  # type: ignore[operator]
        return Outcome(loss, 1)


def _fed(views: FewShotViews) -> Tensor | Csr:
    """Features, or degrees of the graph where there are none."""
    return views.graph.adj.indptr.diff().float()[:, None] if views.x is None else views.x


class _Probe:
    """Logistic regression on the support's embeddings, standardised over nodes; of a pair: product and distance."""

    def __init__(self, net: Any, views: FewShotViews, device: torch.device) -> None:
        self.net = net
        self.adj, self.x = replace(views.graph.adj, values=None).to(device), _fed(views).to(device)
        self._state: tuple[int, Tensor] | None = None

    @torch.no_grad()
    def _embedded(self) -> Tensor:
        """[N, H] under the weights of the moment, once for all episodes."""
        version = sum(p._version for p in self.net.parameters())
        if self._state is None or self._state[0] != version:
            self.net.eval()
            z = self.net.encoder(torch.arange(self.adj.num_rows, device=self.adj.device), self.x, self.adj)
            self._state = (version, ((z - z.mean(0)) / z.std(0).clamp(min=1e-6)).cpu())
        return self._state[1]

    def __call__(self, batch: TaskBatch) -> tuple[Tensor | None, Tensor]:
        z = self._embedded()
        near, far = (_of_points(z[points]) for points in batch.points)
        said = [self._fit(near[t], batch.support_y[t].cpu(), far[t], batch.ways) for t in range(batch.count)]
        return None, torch.stack(said).to(batch.support_y.device)

    @staticmethod
    def _fit(near: Tensor, y: Tensor, far: Tensor, ways: int) -> Tensor:
        from sklearn.linear_model import LogisticRegression

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a handful of points: convergence is not worth a word
            probe = LogisticRegression(C=10.0, max_iter=200).fit(near.numpy(), y.numpy())
        # Log-odds, not the logarithms of chances: those of the certain are minus infinity.
        odds = torch.from_numpy(probe.decision_function(far.numpy())).float()
        return torch.stack([-odds / 2, odds / 2], 1) if odds.dim() == 1 else odds.view(-1, ways)


def _of_points(z: Tensor) -> Tensor:
    """[T, n, D] of embeddings [T, n, C, H]."""
    if z.shape[2] == 1:
        return z[:, :, 0]
    return torch.cat([z[:, :, 0] * z[:, :, 1], (z[:, :, 0] - z[:, :, 1]).abs()], dim=-1)
