"""Which live transactions have been idle for longest: they are the ones to be given up past a limit.

A wheel by `last_at`, in whole seconds. An event moves nothing here: whoever was active meanwhile moves on when its
bucket comes up, so that an event costs nothing and a transaction two dictionary operations. Which of those that fell
idle in the same second comes first is not said.
"""

from collections.abc import Iterator
from math import floor

from txninsightd.core.deadlines import Wheel
from txninsightd.core.transaction import Transaction


class EvictionOrder(Wheel):
    """All live transactions, by the second of their latest event (or one before it)."""

    def add(self, txn: Transaction) -> None:
        """A transaction lives; it has an event."""
        bucket = self.bucket(floor(txn.last_at))
        bucket[txn] = None
        txn.idle_bucket = bucket

    def leave(self, txn: Transaction) -> None:
        """It lives no more."""
        bucket = txn.idle_bucket
        if bucket is not None:
            txn.idle_bucket = None
            bucket.remove(txn)

    def take(self, looks: int) -> Iterator[Transaction]:
        """Take out those idle for longest, one after the other.

        `looks` bounds how many are looked at: those that have been active since they were put where they stand move on.
        """
        for _ in range(looks):
            bucket = self.earliest()
            if bucket is None:
                return
            txn: Transaction = bucket.pop_one()
            txn.idle_bucket = None
            if floor(txn.last_at) > bucket.second:
                self.add(txn)
            else:
                yield txn
