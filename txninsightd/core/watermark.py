"""How far we have seen, and where we could not look: what decides whether silence means anything.

A transaction is idle or overdue only as far as the smallest monitor `as_of` over the partitions that may carry its
events (colocated: its own partition). New partitions could carry events too, so the horizon never passes the moment of
the last complete discovery. It never falls: what was seen stays seen.

Two things suspend or delay the judgement. Where the monitor could not read a range (a *gap*), events of every
transaction that may have lived then may be missing. While the broker did not answer (an *outage*), producers could not
write either: a wait that was running when it began goes on after it, and lasts at least a grace longer.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from txninsightd.core.deadlines import Deadlines
from txninsightd.core.lifecycle import Outage
from txninsightd.core.transaction import UNSEEN, Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import PartitionRef

MOST_GAPS = 1000
MOST_OUTAGES = 1000


class Gap(NamedTuple):
    """The monitor passed something unread in `ref` at `passed_at`; up to `seen_before` it had seen all of it."""

    ref: PartitionRef
    passed_at: float
    seen_before: float


class Domain:
    """The partitions that may carry the events of a transaction: all of them, or one where events are colocated."""

    def __init__(self) -> None:
        self.as_of = UNSEEN
        self.wheel: Deadlines[Transaction] = Deadlines()
        self.gaps: list[Gap] = []

    def add_gap(self, ref: PartitionRef, passed_at: float, seen_before: float) -> None:
        """Note a gap; neighbours between two advances of `as_of` count as one, the oldest merge beyond a bound."""
        last = self.gaps[-1] if self.gaps else None
        if last is not None and (last.ref, last.seen_before) == (ref, seen_before):
            self.gaps[-1] = last._replace(passed_at=max(passed_at, last.passed_at))
        else:
            self.gaps.append(Gap(ref, passed_at, seen_before))
        if len(self.gaps) > MOST_GAPS:
            # Merged, they cover more than both did: too many may be suspended, never too few.
            one, other = self.gaps[:2]
            self.gaps[:2] = [Gap(one.ref, max(one.passed_at, other.passed_at), min(one.seen_before, other.seen_before))]


class Watermark:
    """The domains, the outages, and the last discovery."""

    def __init__(self, colocated: bool, settle_max_s: float) -> None:
        self.discovered_at = UNSEEN
        self.outages: list[Outage] = []
        self._colocated = colocated
        self.settle_max_s = settle_max_s
        self._everywhere = Domain()
        self._domains: dict[PartitionRef, Domain] = {}
        self._partitions: dict[PartitionRef, PartitionState] = {}

    def add(self, partition: PartitionState) -> None:
        """A partition that may carry events from now on; of a topic made anew, it takes the old one's part."""
        ref = _whichever(partition.ref)
        self._partitions[ref] = partition
        # A domain outlives the topic that is made anew: its `as_of` must not fall, and transactions stand in its wheel.
        if ref not in self._domains:
            self._domains[ref] = Domain() if self._colocated else self._everywhere

    def domains(self) -> Iterator[tuple[PartitionRef | None, Domain]]:
        """All domains: by partition where events are colocated, else the one that is all of them."""
        yield None, self._everywhere
        if self._colocated:
            yield from self._domains.items()

    def resume(
        self, discovered_at: float, outages: list[Outage], domains: list[tuple[PartitionRef | None, float, list[Gap]]]
    ) -> None:
        """Go on from where it was before a restart."""
        self.discovered_at, self.outages = discovered_at, outages
        for ref, as_of, gaps in domains:
            domain = self._everywhere if ref is None else self._domains[ref]
            domain.as_of, domain.gaps = as_of, gaps

    def not_beyond(self, now: float) -> None:
        """Nothing can have been seen beyond now, whatever a clock said that has been set back since."""
        self.discovered_at = min(self.discovered_at, now)
        for domain in (self._everywhere, *self._domains.values()):
            domain.as_of = min(domain.as_of, now)

    def of(self, txn: Transaction) -> float:
        """The moment up to which nothing of this transaction can be unread."""
        if not self._colocated:
            return self._everywhere.as_of
        return min(self._domain(event.ref).as_of for event in txn.events)

    def seen_in(self, ref: PartitionRef) -> float:
        """The monitor's `as_of` of the partition, or of that which has taken its part."""
        return self._partitions[_whichever(ref)].monitor_as_of

    def wheel(self, txn: Transaction) -> Deadlines[Transaction]:
        """Where the transaction waits for the `as_of` that is furthest behind."""
        if not self._colocated:
            return self._everywhere.wheel
        return min((self._domain(event.ref) for event in txn.events), key=lambda domain: domain.as_of).wheel

    def advance(self, partition: PartitionState | None) -> list[Transaction]:
        """Take in one partition's (None: every one's) new `as_of`; gives the transactions that fall due by it."""
        if self._colocated:
            changed = self._partitions.values() if partition is None else [partition]
            return [txn for p in changed for txn in self._raise(self._domain(p.ref), p.monitor_as_of)]
        return self._raise(self._everywhere, self.seen_everywhere())

    def seen_everywhere(self) -> float:
        """The smallest monitor `as_of` of all partitions as of now, not beyond the last discovery. May fall."""
        # Of no partition no silence was seen.
        present = [p.monitor_as_of for p in self._partitions.values() if not p.gone]
        return min(self.discovered_at, *present) if present else UNSEEN

    def _domain(self, ref: PartitionRef) -> Domain:
        return self._domains[_whichever(ref)]

    def _raise(self, domain: Domain, as_of: float) -> list[Transaction]:
        if as_of <= domain.as_of:
            return []
        domain.as_of = as_of
        return domain.wheel.due(as_of)

    # --- Where we could not look --------------------------------------------------------------------------------------

    def gap(self, partition: PartitionState, passed_at: float) -> None:
        """The monitor passed something in this partition that it could not read."""
        # When it was not there yet, nothing in it was unread either.
        self._domain(partition.ref).add_gap(partition.ref, passed_at, max(partition.monitor_as_of, partition.absent_at))

    def maybe_unread(self, txn: Transaction) -> bool:
        """Whether events of the transaction may lie in a gap."""
        return any(True for _ in self._gaps_in_life_of(txn))

    def retry_maybe_unread(self, txn: Transaction, settled_since: float) -> bool:
        """The same of a wholly aborted one, but for gaps that came after its settlement was due (`settled_since`)."""
        return any(gap.seen_before <= settled_since for gap in self._gaps_in_life_of(txn))

    def _gaps_in_life_of(self, txn: Transaction) -> Iterable[Gap]:
        domains = {id(d): d for d in (self._domain(e.ref) for e in txn.events)} if self._colocated else None
        for domain in domains.values() if domains is not None else (self._everywhere,):
            if domain.gaps:
                # Gaps are rare: only where there is one are the events gone through.
                began = min(event.record_ts for event in txn.events)
                yield from (gap for gap in domain.gaps if began <= gap.passed_at + self.settle_max_s)

    def outage(self, began: float, ended: float) -> bool:
        """The broker did not answer for a while. Overlapping ones become one. Says whether this was news."""
        known = [o for o in self.outages if o.began <= ended and began <= o.ended]
        merged = Outage(min([began, *(o.began for o in known)]), max([ended, *(o.ended for o in known)]))
        if known == [merged]:
            return False
        # In the order of time, apart from each other: `due_after` goes through them once.
        self.outages = sorted([o for o in self.outages if o not in known] + [merged])[-MOST_OUTAGES:]
        return True


def _whichever(ref: PartitionRef) -> PartitionRef:
    """The place whichever its incarnation: what was tried in the old one may be tried again in the new."""
    return ref if not ref.incarnation else PartitionRef(ref.topic, ref.partition)
