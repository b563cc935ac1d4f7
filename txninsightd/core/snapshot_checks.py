"""Whether a ledger that was restored hangs together: what every message later takes for granted must hold.

The checksum of a checkpoint finds what a disk did to it. It does not find what a faulty program wrote, and such a
state must be met here, where the one before it can still be taken, and not by the message that trips over it after the
start, the next start and the one after that. Types and bounds of single values are checked where they are read;
here stand the rules between them. Nothing here looks at plain, open transactions, which are very many.
"""

from itertools import pairwise
from math import isfinite

from txninsightd.core.ledger import Ledger
from txninsightd.core.transaction import Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import Coverage, Kind, PartitionRef, Thresholds

LATEST_S = 1e17
"""Far beyond the largest timestamp that a Kafka record can have, and far below where floats know no seconds."""


def check(ledger: Ledger) -> None:
    """Raises ValueError, in words."""
    _check_judging(ledger)
    for topic, incarnation in ledger.topics.items():
        _require(0 <= incarnation.number < 1 << 31, f"topic {topic!r} with an impossible number")
    for partition in ledger.partitions.values():
        _check_ref(partition.ref)
        _check_partition(partition)
    for moment in [moment for outage in ledger.watermark.outages for moment in outage]:
        _require(isfinite(moment), "an outage without a time")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _check_judging(ledger: Ledger) -> None:
    # By position: all but the last two are seconds.
    *waits, stuck, stuck_by_type = ledger.rules.judging
    each: list[Thresholds] = [stuck, *stuck_by_type.values()]
    waits += [s for t in each for s in (t.idle_after_s, t.overdue_after_s, t.commit_pending_after_s)]
    # Said so that what is not a number fails: no comparison holds for it. So below.
    _require(all(0 <= wait < LATEST_S for wait in waits), "rules with an impossible time")


def _check_ref(ref: PartitionRef) -> None:
    sound = 0 <= ref.partition < 1 << 31 and 0 <= ref.incarnation < 1 << 31
    _require(sound, f"partition {ref.partition} of topic {ref.topic!r} cannot be")


def _check_partition(partition: PartitionState) -> None:
    runs = 0
    for coverage in partition.waiting:
        _check_coverage(coverage)
        runs += 1 + len(coverage.runs) // 2
    _require(runs == partition.waiting_runs, "another number of waiting runs than there are")
    for sighted in partition.sighted:
        _require(bool(sighted.offsets) and len(sighted.offsets) == len(sighted.txn_ids), "sightings without an id")
        _require(all(low < high for low, high in pairwise(sighted.offsets)), "sightings out of order")


def _check_coverage(coverage: Coverage) -> None:
    for ranges in (coverage.runs, coverage.gaps):
        _require(not len(ranges) % 2, "a range without an end")
        _require(all(low <= high for low, high in pairwise(ranges)), "ranges out of order")
    _require(abs(coverage.decided_at) <= LATEST_S, "coverage without a time")
    _require(coverage.as_of <= LATEST_S, "coverage of a time that never comes")


def check_transaction(txn: Transaction) -> None:
    """A live one that is not plain: each of its closes has a verdict or awaits one. Raises ValueError."""
    known = {*txn.notes, *((close.ref, close.offset) for close in txn.pending_closes)}
    closes = {(e.ref, e.offset) for e in txn.events if e.signature.kind == Kind.TRANSACTION_CLOSE}
    _require(closes <= known, "a close that nobody decides")
    _require({(c.ref, c.offset) for c in txn.pending_closes} <= closes, "a verdict is awaited of what is no close")
