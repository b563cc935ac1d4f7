"""Deadlines of very many items, of which hardly any ever falls due: a wheel of one-second buckets.

Moving a deadline later costs nothing: the item stays in its bucket and moves on when that bucket comes up. Removing one
is a dictionary deletion. An item stands in one bucket of one wheel at a time and knows which, so that a million of them
cost a million dictionary slots and no more. An empty bucket is dropped at once, so removed items leave nothing behind,
whatever their deadlines were.
"""

from heapq import heappop, heappush
from math import floor
from typing import Any, Generic, Protocol, TypeVar

MOST_STALE = 1000
"""So many seconds without a bucket, beside as many as there are buckets, may stay in the heap."""


class Bucket(dict[Any, None]):
    """The items of one second of one wheel, hashed by identity. `home`: the buckets that this is one of."""

    __slots__ = ("home", "second")

    def __init__(self, second: int, home: "dict[int, Bucket]") -> None:
        super().__init__()
        self.second = second
        self.home = home

    def remove(self, item: Any) -> None:
        """Take out this item; the last one takes the bucket with it."""
        del self[item]
        self._go_if_empty()

    def pop_one(self) -> Any:
        """Take out any one item, likewise."""
        # popitem, because iterating to find an item steps over the holes of all deleted ones.
        item, _ = self.popitem()
        self._go_if_empty()
        return item

    def _go_if_empty(self) -> None:
        if not self:
            del self.home[self.second]


class Wheel:
    """Buckets by second, the earliest first."""

    def __init__(self) -> None:
        self._buckets: dict[int, Bucket] = {}
        self._order: list[int] = []

    def bucket(self, second: int) -> Bucket:
        """The bucket of a second, in which something is to be put."""
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = Bucket(second, self._buckets)
            heappush(self._order, second)
            # Seconds without a bucket leave the heap once they come first, far ones never. A sorted list is a heap.
            if len(self._order) > 2 * len(self._buckets) + MOST_STALE:
                self._order = sorted(self._buckets)
        return bucket

    @property
    def kept_seconds(self) -> int:
        """How many seconds are kept in order; those without a bucket are bounded."""
        return len(self._order)

    def earliest(self) -> Bucket | None:
        """The bucket of the earliest second that has one."""
        while self._order:
            bucket = self._buckets.get(self._order[0])
            if bucket is not None:
                return bucket
            heappop(self._order)
        return None


class Timed(Protocol):
    """Something with a deadline. `bucket` is None while it has none; `due_at` is in epoch seconds."""

    bucket: Bucket | None
    due_at: float


T = TypeVar("T", bound=Timed)


def drop(item: Timed) -> None:
    """Remove the item from its wheel, if it stands in one."""
    bucket = item.bucket
    if bucket is not None:
        item.bucket = None
        bucket.remove(item)


class Deadlines(Wheel, Generic[T]):
    """Items by the moment at which they fall due."""

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
        """Remove and return all items with a deadline before `now` (strictly)."""
        taken: list[T] = []
        later: list[T] = []
        while (bucket := self.earliest()) is not None and bucket.second <= now:
            del self._buckets[bucket.second]
            for item in bucket:
                item.bucket = None
                (taken if item.due_at < now else later).append(item)
        # After the loop: an item due later in the second of `now` would otherwise come up again and again.
        for item in later:
            self._put(item, floor(item.due_at))
        return taken

    def _put(self, item: T, second: int) -> None:
        bucket = self.bucket(second)
        bucket[item] = None
        item.bucket = bucket
