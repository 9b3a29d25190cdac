"""The next batches are made, and what they need is announced, while the current one trains."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def announced(items: Iterator[T], tell: Callable[[T], None]) -> Iterator[T]:
    """The same items; before one is given out, ``tell`` hears of the one after it."""
    following = next(items, _DONE)
    while following is not _DONE:
        item, following = following, next(items, _DONE)
        if following is not _DONE:
            tell(following)  # type: ignore[arg-type]
        yield item  # type: ignore[misc]


_DONE = object()


def ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items in the same order, up to ``depth`` of them made ahead by a thread.

    The compiled kernels release the interpreter lock, so making overlaps with training. An error in
    the thread is raised here, in its place in the order; leaving the loop early ends the thread.
    """
    if depth < 1:
        yield from items
        return
    ready: queue.Queue[object] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
        except BaseException as error:
            put(_Failed(error))
        else:
            put(_DONE)

    thread = threading.Thread(target=work, name="graphscale-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _DONE:
            if isinstance(item, _Failed):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
