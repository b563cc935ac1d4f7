"""The order in which live transactions are evicted past a limit: those idle for longest first.

A wheel by `last_at`, in whole seconds. An event moves nothing here: a transaction that was active since it was put into
its bucket moves on when that bucket comes up. So an event costs nothing, and a transaction two dictionary operations.
The order within one second is not defined.
"""

from collections.abc import Iterator
from math import floor

from txninsightd.core.deadlines import Wheel
from txninsightd.core.transaction import Transaction


class EvictionOrder(Wheel):
    """All live transactions, by the second of their latest event (or of an earlier one)."""

    def add(self, txn: Transaction) -> None:
        """Take in a live transaction, which has an event."""
        bucket = self.bucket(floor(txn.last_at))
        bucket[txn] = None
        txn.idle_bucket = bucket

    def remove(self, txn: Transaction) -> None:
        """The transaction is no longer live."""
        bucket = txn.idle_bucket
        if bucket is not None:
            txn.idle_bucket = None
            bucket.remove(txn)

    def take(self, looks: int) -> Iterator[Transaction]:
        """Take out the transactions idle for longest, one after the other.

        At most `looks` are looked at: those that were active since they were put into their bucket move on.
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
