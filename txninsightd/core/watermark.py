"""The watermark: up to which moment the monitor has seen everything, which decides whether silence means anything.

A transaction is idle or overdue only as far as the smallest monitor `as_of` over the partitions that may carry its
events (colocated: its own partition). A new partition could carry events too, so the watermark never passes the moment
of the last complete look for partitions. It never falls. (This is a moment, and not Kafka's high watermark, which is an
offset.)

Two things suspend or delay the judgement. Where the monitor could not read a range (a *gap*), events may be missing of
every transaction that may have lived then. While the broker did not answer (an *outage*), producers could not write
either: a wait that was running when the outage began is lengthened by it, and ends no earlier than a grace after it. So
is one that was running when our clock leapt forward (pauses.py).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from txninsightd.core.deadlines import Deadlines
from txninsightd.core.lifecycle import NEVER, due_after
from txninsightd.core.minimum import Minimum
from txninsightd.core.pauses import Pauses
from txninsightd.core.transaction import UNSEEN, Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import PartitionRef, View

MOST_GAPS = 1000


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
        """Note a gap. Gaps between two advances of `as_of` count as one; beyond a bound the oldest two are merged."""
        last = self.gaps[-1] if self.gaps else None
        if last is not None and (last.ref, last.seen_before) == (ref, seen_before):
            self.gaps[-1] = last._replace(passed_at=max(passed_at, last.passed_at))
        else:
            self.gaps.append(Gap(ref, passed_at, seen_before))
        if len(self.gaps) > MOST_GAPS:
            # The merged gap covers more than both did: it may suspend too many transactions, never too few.
            one, other = self.gaps[:2]
            self.gaps[:2] = [Gap(one.ref, max(one.passed_at, other.passed_at), min(one.seen_before, other.seen_before))]


class Watermark:
    """The domains, the pauses, and the moment of the last complete look for partitions (`discovered_at`).

    `changes`: how often partitions came, went or fell back; between two of them each only goes forward.
    """

    def __init__(self, colocated: bool, settle_max_s: float, retry_grace_s: float) -> None:
        self.discovered_at = UNSEEN
        self.changes = 0
        self.pauses = Pauses()
        self.settle_max_s = settle_max_s
        self.retry_grace_s = retry_grace_s
        self._colocated = colocated
        self._everywhere = Domain()
        self._domains: dict[PartitionRef, Domain] = {}
        self._partitions: dict[PartitionRef, PartitionState] = {}
        # Kept, since thousands of partitions may each be heard of every second.
        self._seen_by_monitor = Minimum(lambda: (p.monitor_as_of for p in self.present()), NEVER)
        self._seen_by_validator = Minimum(lambda: (p.validator_as_of for p in self.present()), NEVER)
        self._seen_by_both = Minimum(lambda: (p.both_as_of for p in self.present()), UNSEEN)

    def add(self, partition: PartitionState) -> None:
        """A partition may carry events from now on. Of a recreated topic it takes the part of the old one."""
        ref = _in_any_incarnation(partition.ref)
        self._partitions[ref] = partition
        self.partitions_changed()
        # A domain outlives the topic: its `as_of` must not fall, and transactions wait in its wheel.
        if ref not in self._domains:
            self._domains[ref] = Domain() if self._colocated else self._everywhere

    def present(self) -> Iterator[PartitionState]:
        """The partitions that something may still come of."""
        return (p for p in self._partitions.values() if not p.gone)

    def partitions_changed(self) -> None:
        """One came or went, or its `as_of` was changed otherwise than by the two methods below."""
        self.changes += 1
        self._seen_by_monitor.changed()
        self._seen_by_validator.changed()
        self._seen_by_both.changed()

    def seen_by_monitor(self, partition: PartitionState, as_of: float) -> bool:
        """The monitor has seen all of this partition up to `as_of`; returns whether that is news."""
        before, both = partition.monitor_as_of, partition.both_as_of
        if as_of <= before:
            return False
        partition.monitor_as_of = as_of
        self._seen_by_monitor.rose(before)
        self._seen_by_both.rose(both)
        return True

    def seen_by_validator(self, partition: PartitionState, as_of: float) -> None:
        """The same of the validator."""
        before, both = partition.validator_as_of, partition.both_as_of
        if as_of > before:
            partition.validator_as_of = as_of
            self._seen_by_validator.rose(before)
            self._seen_by_both.rose(both)

    def seen_by(self, view: View) -> float:
        """The smallest `as_of` of a view; NEVER without a partition."""
        return (self._seen_by_monitor if view is View.MONITOR else self._seen_by_validator).value

    def domains(self) -> Iterator[tuple[PartitionRef | None, Domain]]:
        """All domains: by partition where events are colocated, else the one that is all of them."""
        yield None, self._everywhere
        if self._colocated:
            yield from self._domains.items()

    def restore(
        self, discovered_at: float, pauses: Pauses, domains: list[tuple[PartitionRef | None, float, list[Gap]]]
    ) -> None:
        """Take up the watermark of a snapshot. The partitions must have been added before."""
        self.discovered_at, self.pauses = discovered_at, pauses
        for ref, as_of, gaps in domains:
            domain = self._everywhere if ref is None else self._domains[ref]
            domain.as_of, domain.gaps = as_of, gaps

    def move_moments(self, move: Callable[[float], float]) -> None:
        """Our clock was wrong: replace each moment that it gave. Pauses have their own rules (pauses.py)."""
        self.partitions_changed()
        self.discovered_at = move(self.discovered_at)
        for domain in {id(d): d for d in (self._everywhere, *self._domains.values())}.values():
            domain.as_of = move(domain.as_of)
            domain.gaps = [Gap(g.ref, move(g.passed_at), move(g.seen_before)) for g in domain.gaps]

    def due_after(self, reference: float, wait_s: float, over_until: float = UNSEEN) -> float:
        """When a wait that began at `reference` is over, with the pauses taken into account.

        Leaps do not count for one that would be over by `over_until` without any.
        """
        pauses = self.pauses.outages if reference + wait_s <= over_until else self.pauses.all
        return due_after(reference, wait_s, pauses, self.retry_grace_s) if pauses else reference + wait_s

    def of(self, txn: Transaction) -> float:
        """The moment up to which nothing of this transaction can be unread."""
        if not self._colocated:
            return self._everywhere.as_of
        return min(self._domain(event.ref).as_of for event in txn.events)

    def seen_in(self, ref: PartitionRef) -> float:
        """The monitor's `as_of` of the partition, or of the one that has taken its part."""
        return self._partitions[_in_any_incarnation(ref)].monitor_as_of

    def wheel(self, txn: Transaction) -> Deadlines[Transaction]:
        """The wheel of the domain that is furthest behind, in which the transaction waits."""
        if not self._colocated:
            return self._everywhere.wheel
        return min((self._domain(event.ref) for event in txn.events), key=lambda domain: domain.as_of).wheel

    def advance(self, partitions: Iterable[PartitionState] | None) -> list[Transaction]:
        """Take in the new `as_of` of these partitions (None: of all); returns the transactions that fall due by it."""
        if self._colocated:
            changed = self._partitions.values() if partitions is None else partitions
            return [txn for p in changed for txn in self._raise(self._domain(p.ref), p.monitor_as_of)]
        return self._raise(self._everywhere, self.seen_everywhere())

    def seen_everywhere(self) -> float:
        """The smallest monitor `as_of` of all present partitions, not beyond the last complete look. It may fall."""
        # Without a partition nothing was seen, silence included.
        return min(self.discovered_at, self._seen_by_monitor.value) if self._seen_by_monitor.value != NEVER else UNSEEN

    def read_everywhere(self) -> float:
        """The moment up to which no present partition has anything unread: without a partition, that of the look."""
        return min(self.discovered_at, self._seen_by_monitor.value)

    def seen_everywhere_by_both(self) -> float:
        """The same of both views, whatever was looked for; UNSEEN without a partition."""
        return self._seen_by_both.value

    def _domain(self, ref: PartitionRef) -> Domain:
        return self._domains[_in_any_incarnation(ref)]

    def _raise(self, domain: Domain, as_of: float) -> list[Transaction]:
        if as_of <= domain.as_of:
            return []
        domain.as_of = as_of
        return domain.wheel.due(as_of)

    # --- Gaps ---------------------------------------------------------------------------------------------------------

    def gap(self, partition: PartitionState, passed_at: float) -> None:
        """The monitor passed a range of this partition that it could not read."""
        # Before the partition existed, nothing in it was unread.
        self._domain(partition.ref).add_gap(partition.ref, passed_at, max(partition.monitor_as_of, partition.absent_at))

    def maybe_unread(self, txn: Transaction) -> bool:
        """Whether events of the transaction may lie in a gap."""
        return any(True for _ in self._gaps_in_life_of(txn))

    def retry_maybe_unread(self, txn: Transaction, settled_since: float) -> bool:
        """The same for a wholly aborted one, without gaps that came after its settlement was due (`settled_since`)."""
        return any(gap.seen_before <= settled_since for gap in self._gaps_in_life_of(txn))

    def _gaps_in_life_of(self, txn: Transaction) -> Iterable[Gap]:
        domains = {id(d): d for d in (self._domain(e.ref) for e in txn.events)} if self._colocated else None
        for domain in domains.values() if domains is not None else (self._everywhere,):
            if domain.gaps:
                # Gaps are rare, so the events are only searched when there is one.
                began = min(event.record_ts for event in txn.events)
                yield from (gap for gap in domain.gaps if began <= gap.passed_at + self.settle_max_s)


def _in_any_incarnation(ref: PartitionRef) -> PartitionRef:
    """The partition in whichever incarnation: what was tried in the old topic may be tried again in the new one."""
    return ref if not ref.incarnation else PartitionRef(ref.topic, ref.partition)
