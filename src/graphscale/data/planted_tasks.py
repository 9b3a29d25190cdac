"""Generated ratings or clicks of users with tastes: a task a user, which its support tells something of.

A user u has an offset b_u and tastes p_u; an item i has an offset b_i and traits q_i, which its category tells in part.
A rating is 3.5 + b_u + b_i + p_u . q_i + noise, cut to 1..5; a click is drawn from the sigmoid of it less 3.5.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphscale import rng
from graphscale.tasks import Field, Layout, Tasks, in_memory, words


def planted_tasks(
    tasks: int, *, items: int = 200, clicks: bool = False, least: int = 8, most: int = 30, query: int = 5, seed: int = 0
) -> Tasks:
    """Users in parts of 8 : 1 : 1, their records in any order.

    Fields: the item, its category (8), two of its tags (12, a bag), the user's group (4); one dense number, the hour.
    """
    draw = np.random.default_rng(rng.derive(rng.DATA, seed, tasks))
    layout = Layout(
        ("hour",),
        (Field("item", "item"), Field("category", "category"), Field("group", "group"), Field("tags", "tags", 3)),
        {"item": items + 1, "category": 9, "group": 5, "tags": 13},
    )  # fmt: skip
    category = draw.integers(8, size=items)
    tags = np.where(draw.random((items, 3)) < 0.6, draw.integers(12, size=(items, 3)) + 1, -1)
    traits = draw.normal(size=(8, 4))[category] + 0.5 * draw.normal(size=(items, 4))
    item_offset, group = 0.4 * draw.normal(size=items), draw.integers(4, size=tasks)
    sizes = draw.integers(least, most + 1, size=tasks)
    user = np.repeat(np.arange(tasks), sizes)
    item = draw.integers(items, size=len(user))
    tastes = 0.3 * (draw.normal(size=(4, 4))[group] + draw.normal(size=(tasks, 4)))
    offset = 0.5 * draw.normal(size=tasks)
    rating = (
        3.5
        + offset[user]
        + item_offset[item]
        + (tastes[user] * traits[item]).sum(1)
        + 0.4 * draw.normal(size=len(user))
    )
    label = draw.random(len(user)) < 1 / (1 + np.exp(3.5 - rating)) if clicks else np.clip(np.rint(rating), 1, 5)
    ids = np.concatenate([np.stack([item, category[item], group[user]], axis=1) + 1, tags[item]], axis=1)
    records = words(label.astype(np.float32), draw.random((len(user), 1)), ids)
    a, b = tasks * 8 // 10, tasks * 9 // 10
    parts = {"train": (0, a), "val": (a, b), "test": (b, tasks)}
    return in_memory(layout, records, np.r_[0, np.cumsum(sizes)], sizes - query, parts)


def log_blocks(
    tasks: int, records: int, *, fields: int, rows: int, dense: int = 0, seed: int = 0, block: int = 1 << 20
) -> Iterator[np.ndarray]:
    """Words of a large log of clicks for measuring speed, block by block: ids fall off as 1 / rank.

    Args:
        rows: of each field's table; id 0 is left to unknown values.
    """
    for start in range(0, records, block):
        draw = np.random.default_rng(rng.derive(rng.DATA, seed, start))
        size = min(block, records - start)
        ids = np.minimum((rows - 1) ** draw.random((size, fields)), rows - 1).astype(np.int32)
        yield words((draw.random(size) < 0.2).astype(np.float32), draw.random((size, dense)), ids)
