"""Deadlines for very many things, of which hardly any ever falls due: a wheel of one-second buckets.

Moving a deadline later costs nothing: the item stays in its bucket and moves on when that bucket comes up. Removing one
is a dictionary deletion. Items carry their own bookkeeping (`bucket`, `due_at`), so that a million of them cost a
million dictionary slots and no more.
"""

from heapq import heappop, heappush
from math import floor
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """Something with a deadline. `bucket` is None while it has none; `due_at` is in epoch seconds."""

    bucket: int | None
    due_at: float


T = TypeVar("T", bound=Timed)


class Deadlines(Generic[T]):
    """Items by the moment at which they fall due. An item stands in one wheel at a time, and is hashed by identity."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[T, None]] = {}
        self._order: list[int] = []

    def set(self, item: T, due_at: float) -> None:
        """Let the item fall due at `due_at`, instead of whenever it would have."""
        item.due_at = due_at
        bucket = floor(due_at)
        if item.bucket is not None:
            if bucket >= item.bucket:
                return
            del self._buckets[item.bucket][item]
        self._put(item, bucket)

    def drop(self, item: T) -> None:
        """Let the item never fall due."""
        if item.bucket is not None:
            del self._buckets[item.bucket][item]
            item.bucket = None

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

    def _put(self, item: T, bucket: int) -> None:
        if bucket not in self._buckets:
            self._buckets[bucket] = {}
            heappush(self._order, bucket)
        self._buckets[bucket][item] = None
        item.bucket = bucket
