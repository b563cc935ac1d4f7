"""The limits on what the live transactions keep, and what is given up past them.

Steps are given up first: they are not kept, and their verdict is unknown. Then whole transactions are evicted, those
that are idle for longest. Opens and closes are kept for as long as possible, because without them nothing is known.
"""

from collections.abc import Callable, Iterator, Mapping

from txninsightd.core.events import STEP_KINDS, Event
from txninsightd.core.eviction_order import EvictionOrder
from txninsightd.core.rules import Rules
from txninsightd.core.transaction import Transaction

LOOKS_PER_EVICTION = 16
"""So many transactions are looked at for each one that may be evicted, to find those idle for longest."""

LEAST_EVICTED = 1000
"""So many may be evicted at a time, beside two for each that has come since: no call is long, even if a limit falls."""


class Eviction:
    """What the live transactions keep. `limit_hit(limit, count)` is called for what is given up.

    `kept_events`: of all live transactions. `undecided`: sightings that are kept for their verdicts.
    """

    def __init__(self, rules: Rules, limit_hit: Callable[[str, int], None]) -> None:
        self.rules = rules
        self.kept_events = 0
        self.undecided = 0
        self._limit_hit = limit_hit
        self._order = EvictionOrder()
        self._admitted = 0
        self._outsized: dict[Transaction, None] = {}

    def appended(self, events: int, admitted: int) -> None:
        """A message brought so many events that are kept, and so many new transactions."""
        self.kept_events += events
        self._admitted += admitted

    def add(self, txn: Transaction) -> None:
        """A transaction is live; one that is known already changes nothing."""
        if txn.idle_bucket is None:
            self._order.add(txn)

    def remove(self, txn: Transaction, events: int) -> None:
        """A transaction is no longer live; `events` of it were kept."""
        self._order.remove(txn)
        self.kept_events -= events

    def restore(self, live: Mapping[str, Transaction], undecided: int) -> None:
        """Work out again what a snapshot does not hold."""
        self.undecided = undecided
        self.kept_events = sum(len(txn.events) for txn in live.values())
        for txn in live.values():
            self._order.add(txn)

    @property
    def most_events_each(self) -> int:
        """So many events of one transaction are kept without a question; past it `keeps` decides."""
        # With too many undecided, all but a first event is past a limit.
        return self.rules.most_events_each if self.undecided < self.rules.most_undecided else 1

    @property
    def is_crowded(self) -> bool:
        """Whether as many sightings await their verdict as may."""
        return self.undecided >= self.rules.most_undecided

    def keeps(self, txn: Transaction, event: Event, start_at: float) -> bool:
        """Whether an event past a limit is kept all the same. `start_at`: the moment at which reading began.

        A step that is not kept still shows that its transaction is alive.
        """
        most, signature = self.rules.most_events_each, event.signature
        if signature.kind not in STEP_KINDS:
            if len(txn.events) < 2 * most:
                return True
            self._outsized[txn] = None
            return False
        self._limit_hit("events_per_transaction" if len(txn.events) >= most else "undecided_records", 1)
        txn.given_up_steps += 1
        txn.last_at = max(txn.last_at, event.ts, event.record_ts)
        txn.early = txn.early or event.ts < start_at
        txn.replayed = txn.replayed or signature.kept_time
        txn.future = txn.future or signature.future
        return False

    def victims(self, live: Mapping[str, Transaction]) -> Iterator[tuple[Transaction, str]]:
        """The transactions to evict, each with the limit that it exceeds. The caller evicts each before the next.

        First those that are too large by themselves, then those idle for longest, as long as a common limit is
        exceeded.
        """
        evicted = 0
        if self._outsized:
            outsized = [txn for txn in self._outsized if live.get(txn.txn_id) is txn]
            self._outsized.clear()
            for txn in outsized:
                evicted += 1
                yield txn, "events_per_transaction"
        most, self._admitted = LEAST_EVICTED + 2 * self._admitted, 0
        limit = self._exceeded(live)
        if limit is None:
            return
        for txn in self._order.take(LOOKS_PER_EVICTION * most):
            evicted += 1
            yield txn, limit
            limit = self._exceeded(live)
            if limit is None or evicted >= most:
                return

    def _exceeded(self, live: Mapping[str, Transaction]) -> str | None:
        """The limit that the live transactions exceed together."""
        if len(live) > self.rules.most_open:
            return "open_transactions"
        # Live ones alone: as long as only both together exceed it, lingering ones are dropped.
        return "kept_events" if self.kept_events > self.rules.most_events else None
