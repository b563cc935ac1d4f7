"""Deadlines for very many things, of which hardly any ever falls due: a wheel of one-second buckets.

Moving a deadline later costs nothing: the item stays in its bucket and moves on when that bucket comes up. Removing one
is a dictionary deletion. An item stands in one bucket of one wheel at a time and knows which, so that a million of them
cost a million dictionary slots and no more.
"""

from heapq import heappop, heappush
from math import floor
from typing import Any, Generic, Protocol, TypeVar


class Bucket(dict[Any, None]):
    """The items of one second of one wheel, hashed by identity."""

    __slots__ = ("second",)

    def __init__(self, second: int) -> None:
        super().__init__()
        self.second = second


class Timed(Protocol):
    """Something with a deadline. `bucket` is None while it has none; `due_at` is in epoch seconds."""

    bucket: Bucket | None
    due_at: float


T = TypeVar("T", bound=Timed)


def drop(item: Timed) -> None:
    """Let the item never fall due, whichever wheel it stands in."""
    if item.bucket is not None:
        del item.bucket[item]
        item.bucket = None


class Deadlines(Generic[T]):
    """Items by the moment at which they fall due."""

    def __init__(self) -> None:
        self._buckets: dict[int, Bucket] = {}
        self._order: list[int] = []

    def set(self, item: T, due_at: float) -> None:
        """Let the item, which stands in no other wheel, fall due at `due_at` instead of whenever it would have."""
        item.due_at = due_at
        second = floor(due_at)
        if item.bucket is not None:
            if second >= item.bucket.second:
                return
            drop(item)
        self._put(item, second)

    def due(self, now: float) -> list[T]:
        """Take out, and give, all items whose deadline lies before `now` (strictly)."""
        taken: list[T] = []
        later: list[T] = []
        while self._order and self._order[0] <= now:
            for item in self._buckets.pop(heappop(self._order)):
                item.bucket = None
                (taken if item.due_at < now else later).append(item)
        for item in later:
            self._put(item, floor(item.due_at))
        return taken

    def _put(self, item: T, second: int) -> None:
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = Bucket(second)
            heappush(self._order, second)
        bucket[item] = None
        item.bucket = bucket
