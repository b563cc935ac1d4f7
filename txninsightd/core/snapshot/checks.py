"""Whether a restored ledger is consistent: what every later message takes for granted must hold.

The checksum of a checkpoint finds what a disk did to it, but not what a faulty program wrote. Such a state must be
found here, where the checkpoint before it can still be used, and not by a message that fails on it after this start and
every later one. Types and bounds of single values are checked where they are read; these are the rules between them.
Nothing here looks at plain, open transactions, which are very many.
"""

from itertools import pairwise
from math import isfinite

from txninsightd.core.ledger import Ledger
from txninsightd.core.saved_values import LATEST_S
from txninsightd.core.transaction import Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.offset_ranges import OffsetRanges
from txninsightd.vocabulary import Coverage, Kind, PartitionRef, Thresholds


def check(ledger: Ledger) -> None:
    """Raises ValueError, in words."""
    _check_judging(ledger)
    for topic, incarnation in ledger.topics.incarnations.items():
        _require(0 <= incarnation.number < 1 << 31, f"topic {topic!r} with an impossible number")
    for partition in ledger.partitions.values():
        _check_ref(partition.ref)
        _check_partition(partition)
    for moment in [moment for pause in ledger.watermark.pauses.all for moment in pause]:
        _require(isfinite(moment), "an outage without a time")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _check_judging(ledger: Ledger) -> None:
    # By position: all but the last two are seconds.
    *waits, stuck, stuck_by_type = ledger.rules.judging
    each: list[Thresholds] = [stuck, *stuck_by_type.values()]
    waits += [s for t in each for s in (t.idle_after_s, t.overdue_after_s, t.commit_pending_after_s)]
    # Written so that NaN fails, for which no comparison holds. The same below.
    _require(all(0 <= wait < LATEST_S for wait in waits), "rules with an impossible time")


def _check_ref(ref: PartitionRef) -> None:
    sound = 0 <= ref.partition < 1 << 31 and 0 <= ref.incarnation < 1 << 31
    _require(sound, f"partition {ref.partition} of topic {ref.topic!r} cannot be")


def _check_partition(partition: PartitionState) -> None:
    _require(partition.decided_offset <= partition.monitor_offset, "verdicts beyond what the monitor has passed")
    ends = [partition.decided_offset, *(c.to_offset for c in partition.waiting)]
    rising = all(low < high for low, high in pairwise(ends))
    _require(rising and ends[-1] <= partition.validator_offset, "coverage out of order, or beyond the validator")
    # They stand by ascending offset.
    awaited = partition.pending_closes[0].offset if partition.pending_closes else partition.decided_offset
    _require(partition.decided_offset <= awaited, "a close that awaits a verdict which was given")
    runs = 0
    for coverage in partition.waiting:
        _check_coverage(coverage)
        runs += 1 + len(OffsetRanges(coverage.runs))
    _require(runs == partition.waiting_runs, "another number of waiting runs than there are")
    for sighted in partition.sighted:
        _require(bool(sighted.offsets) and len(sighted.offsets) == len(sighted.txn_ids), "sightings without an id")
        _require(all(low < high for low, high in pairwise(sighted.offsets)), "sightings out of order")


def _check_coverage(coverage: Coverage) -> None:
    for ranges in (coverage.runs, coverage.gaps):
        _require(OffsetRanges(ranges).is_sound, "ranges without an end or out of order")
    _require(abs(coverage.decided_at) <= LATEST_S, "coverage without a time")
    _require(coverage.as_of <= LATEST_S, "coverage of a time that never comes")


def check_transaction(txn: Transaction) -> None:
    """A live one that is not plain: each of its closes has a verdict or awaits one. Raises ValueError."""
    awaited = {(close.ref, close.offset) for close in txn.pending_closes}
    closes = {(e.ref, e.offset) for e in txn.events if e.signature.kind == Kind.TRANSACTION_CLOSE}
    _require(closes <= awaited | txn.notes.keys(), "a close without a verdict that does not await one")
    _require(txn.deciding is None or txn.deciding[1:3] in closes, "a deciding close that is no event of it")
    _require(awaited <= closes, "a verdict is awaited of what is no close")
    _require(not awaited & txn.notes.keys(), "a close that has a verdict and awaits one")
