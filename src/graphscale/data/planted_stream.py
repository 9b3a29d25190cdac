"""A generated stream whose links and states can be foretold: users return to favourites, which change with a state.

Every draw is a hash of (seed, what, event or user), so a stream of any length is made block by block, and the
beginning of a longer stream with the same numbers of users and items is the same stream.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from graphscale import scratch
from graphscale.events import Events

_BLOCK = 1 << 20
_FAVOURITES, _PHASE, _LOYAL = 4, 6.0, 0.85  # favourites; events of an average user in a phase; share of returns
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Words = NDArray[np.uint64]


def planted_stream(
    num_events: int, *, num_src: int | None = None, num_dst: int | None = None, num_features: int = 0, seed: int = 0
) -> Events:
    """A bipartite stream; ``label`` is the state of the source, 0 or 1, one event in five being of state 1.

    A user's time is parted into phases. In each it has four favourites, to which 85 % of its events go; in state 1
    they lie among the first half of the items, in state 0 among the second. Users are drawn with weights 1 / rank^0.75,
    items beside the favourites evenly.

    Args:
        num_src, num_dst: users and items; by default one user in twenty events, and a fifth as many items.
        num_features: F; the first tells the state with noise twice its size, the others nothing.
    """
    users = max(20, num_events // 20) if num_src is None else num_src
    items = max(20, users // 5) if num_dst is None else num_dst
    kind = torch.int32 if users + items < 2**31 else torch.int64
    src, dst = scratch.empty(num_events, dtype=kind), scratch.empty(num_events, dtype=kind)
    t, label = scratch.empty(num_events, dtype=torch.int64), scratch.empty(num_events, dtype=torch.int64)
    feat = scratch.empty(num_events, num_features) if num_features else None
    for start in range(0, num_events, _BLOCK):
        stop = min(num_events, start + _BLOCK)
        e = np.arange(start, stop, dtype=np.uint64)
        user = _by_rank(_unit(_hash(seed, 0, e)), users)
        # Ranks are spread over the ids: neighbours by number are not neighbours by weight.
        user = (user * np.uint64(0x9E3779B1) + np.uint64(seed)) % np.uint64(users)
        phase = ((e + _hash(seed, 1, user) % np.uint64(1 << 20)).astype(np.float64) / (_PHASE * users)).astype(
            np.uint64
        )
        life = _hash(seed, 2, user * np.uint64(1 << 24) + phase)
        state = (life % np.uint64(5) == 0).astype(np.int64)
        slot = _hash(seed, 3, e) % np.uint64(_FAVOURITES)
        half = np.uint64(items // 2)
        own = _hash(seed, 4, life + slot * _GOLDEN) % half + np.where(state == 1, np.uint64(0), half)
        loyal = _unit(_hash(seed, 5, e)) < _LOYAL
        item = np.where(loyal, own, _hash(seed, 6, e) % np.uint64(items))
        src[start:stop] = torch.from_numpy(user.astype(np.int64))
        dst[start:stop] = torch.from_numpy(item.astype(np.int64) + users)
        t[start:stop] = torch.from_numpy((e * np.uint64(3) + _hash(seed, 7, e) % np.uint64(3)).astype(np.int64))
        label[start:stop] = torch.from_numpy(state)
        if feat is not None:
            noise = np.random.default_rng((seed, start)).standard_normal((stop - start, num_features), dtype=np.float32)
            feat[start:stop] = torch.from_numpy(noise)
            feat[start:stop, 0] += 0.5 * torch.from_numpy(state).float()
    return Events(src, dst, t, users + items, feat, label, num_src=users)


def _hash(seed: int, what: int, z: Words) -> Words:
    """64 bits of (seed, what, z): splitmix64."""
    with np.errstate(over="ignore"):
        z = z * _GOLDEN + np.uint64((seed * 64 + what + 1) * 0xBF58476D1CE4E5B9 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _unit(z: Words) -> NDArray[np.float64]:
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53


def _by_rank(u: NDArray[np.float64], count: int) -> Words:
    """A rank below ``count`` with probability about proportional to (rank + 1)^-0.75."""
    return np.minimum((u**4 * count).astype(np.uint64), np.uint64(count - 1))
