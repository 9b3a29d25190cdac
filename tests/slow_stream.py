"""A slow network over a stream, one event and one node at a time: the oracle of the fast one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


class Slow:
    """TGN with a memory a node in a dict; shares the weights of a ``TemporalNet`` and nothing else."""

    def __init__(self, net, events, *, when="late", of="last", k=10, directed=False):
        self.net, self.events, self.when, self.of, self.k, self.directed = net, events, when, of, k, directed
        self.reset()

    def reset(self):
        self.state, self.last, self.pending = {}, {}, {}  # node -> memory; moment it is of; [(event, other, snapshot)]

    def zero(self):
        return torch.zeros(self.net.dim, dtype=next(self.net.parameters()).dtype)

    def time(self, dt):
        return torch.cos(float(dt) * self.net.time.w + self.net.time.b)

    def updated(self, node):
        """The node's memory with what is pending."""
        state = self.state.get(node, self.zero())
        waiting = self.pending.get(node, [])
        if not waiting or self.net.update is None:
            return state
        if self.of == "last":
            waiting = waiting[-1:]
        messages = []
        for event, other, snapshot in waiting:
            t = self.events.t[event].item()
            elapsed = t - self.last[node] if node in self.last else 0
            far = snapshot if self.when == "snapshot" else self.state.get(other, self.zero())
            feat = [] if self.events.feat is None else [self.events.feat[event].to(far)]
            messages.append(torch.cat([state, far, *feat, self.time(elapsed)]))
        message = torch.stack(messages).mean(0)
        return self.net.update.cell(message[None], state[None])[0]

    def neighbours(self, node, cut):
        """[(other, event)] before an event, the latest first."""
        found = []
        for e in range(cut - 1, -1, -1):
            src, dst = int(self.events.src[e]), int(self.events.dst[e])
            if dst == node:
                found.append((src, e))
            elif src == node and not self.directed:
                found.append((dst, e))
            if len(found) == self.k:
                break
        return found

    def embedding(self, node, cut, layer, *, fresh):
        """The node as the network sees it before event ``cut``."""
        own = self.updated(node) if self.net.update is not None else self.zero()
        if layer == 0:
            return own
        h = self.embedding(node, cut, layer - 1, fresh=fresh)
        attention = self.net.layers[layer - 1]
        moment = self.events.t[min(cut, self.events.num_events - 1)].item()
        out = attention.skip(h)
        near = self.neighbours(node, cut)
        if near:
            heads, width = attention.heads, attention.width
            query = attention.query(h).view(heads, width)
            scores, values = [], []
            for other, e in near:
                far = self.embedding(other, e if fresh else cut, layer - 1, fresh=fresh)
                feat = [] if self.events.feat is None else [self.events.feat[e].to(far)]
                edge = torch.cat([self.time(moment - self.events.t[e].item()), *feat])
                key = (attention.key(far) + attention.edge_key(edge)).view(heads, width)
                values.append((attention.value(far) + attention.edge_value(edge)).view(heads, width))
                scores.append((query * key).sum(1) / math.sqrt(width))
            share = torch.stack(scores).softmax(0)  # [k, H]
            out = out + (share[..., None] * torch.stack(values)).sum(0).reshape(-1)
        if layer < len(self.net.layers):
            out = out.relu()
        return out

    def idle(self, node, cut):
        moment = self.events.t[min(cut, self.events.num_events - 1)].item()
        for e in range(cut - 1, -1, -1):
            if node in (int(self.events.src[e]), int(self.events.dst[e])):
                return moment - self.events.t[e].item()
        return 0

    def batch(self, numbers, negatives, *, fresh=False):
        """(loss sum, logits of events, of negatives); the memory is as after the batch."""
        first = min(numbers)
        loss, pos, neg = 0.0, [], []
        for e, others in zip(numbers, negatives, strict=True):
            cut = e if fresh else first

            def z(node, cut=cut):
                out = self.embedding(node, cut, len(self.net.layers), fresh=fresh)
                if self.net.projection is not None:
                    mean, std = self.net.projection.scale
                    out = out * (1 + (self.idle(node, cut) - mean) / std * self.net.projection.weight)
                return out

            def logit(u, v, z=z):
                d = self.net.decoder
                return d.out((d.src(z(u)) + d.dst(z(v))).relu())[0]

            u, v = int(self.events.src[e]), int(self.events.dst[e])
            pos.append(logit(u, v))
            neg.append(torch.stack([logit(u, int(w)) for w in others]))
            loss = loss + F.softplus(-pos[-1]) + F.softplus(neg[-1]).mean()
        self.advance(numbers)
        return loss, torch.stack(pos), torch.stack(neg)

    def advance(self, numbers):
        """The ends of the events take in what was pending, then have these events pending."""
        ends = {int(n) for e in numbers for n in (self.events.src[e], self.events.dst[e])}
        new = {node: self.updated(node).detach() for node in ends}
        for node in ends:
            if self.pending.get(node):
                self.last[node] = self.events.t[self.pending[node][-1][0]].item()
            self.pending[node] = []
        self.state.update(new)
        for e in numbers:
            u, v = int(self.events.src[e]), int(self.events.dst[e])
            for own, other in ((u, v), (v, u)) if u != v else ((u, u),):
                self.pending[own].append((e, other, self.state[other]))


class SlowMail(Slow):
    """APAN: a list of the latest mails a node, each told of by one event."""

    def __init__(self, net, events, *, slots=10, neighbours=10, combine="mean"):
        self.slots, self.combine = slots, combine
        super().__init__(net, events, k=neighbours)

    def reset(self):
        self.state, self.mails = {}, {}  # node -> memory; [(mail, event)], the latest last

    def batch(self, numbers, negatives, *, fresh=False):
        self.now = self.events.t[min(numbers)].item()
        return super().batch(numbers, negatives, fresh=fresh)

    def updated(self, node):
        """Attention of the memory over the mails, the time of each counted to the batch's beginning."""
        state, mails, net = self.state.get(node, self.zero()), self.mails.get(node, []), self.net.update
        if not mails:
            return state
        told = [torch.cat([mail, self.time(self.now - self.events.t[event].item())]) for mail, event in mails]
        seen = []
        for query, keys, values in zip(
            net.query(state).chunk(net.heads),
            zip(*(net.key(m).chunk(net.heads) for m in told), strict=True),
            zip(*(net.value(m).chunk(net.heads) for m in told), strict=True),
            strict=True,
        ):
            scores = torch.stack([F.leaky_relu(query @ key / math.sqrt(len(query)), 0.2) for key in keys])
            seen.append(sum(w * value for w, value in zip(scores.softmax(0), values, strict=True)))
        return net.out(net.norm(torch.cat(seen) + state))

    def advance(self, numbers):
        """The ends keep their memories; each mails every event to itself and to its neighbours before it."""
        ends = {int(n) for e in numbers for n in (self.events.src[e], self.events.dst[e])}
        self.state.update({node: self.updated(node).detach() for node in ends})
        boxes = {}
        for e in numbers:
            u, v = int(self.events.src[e]), int(self.events.dst[e])
            for own, other in ((u, v), (v, u)) if u != v else ((u, u),):
                feat = [] if self.events.feat is None else [self.events.feat[e].to(self.zero())]
                mail = torch.cat([self.state[own], self.state[other], *feat])
                for to in [own, *(near for near, _ in self.neighbours(own, e))]:
                    boxes.setdefault(to, []).append((e, own, mail))
        for to, came in boxes.items():
            newest = max(e for e, _, _ in came)
            if self.combine == "mean":
                mail = torch.stack([m for _, _, m in came]).mean(0)
            else:  # both ends may tell of one event: the larger of them counts
                _, _, mail = max(came, key=lambda sent: sent[:2])
            self.mails[to] = [*self.mails.get(to, []), (mail, newest)][-self.slots :]
