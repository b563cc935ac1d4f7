"""One partition as the API shows it: how far each view has read, and the oldest record that waits for its verdict."""

import msgspec

from txninsightd.core.events import Event
from txninsightd.core.ledger import Ledger
from txninsightd.core.transaction import UNSEEN
from txninsightd.core.verdicts import PartitionState
from txninsightd.expose.text_format import kind_name
from txninsightd.vocabulary import View


class Undecided(msgspec.Struct, frozen=True):
    """A sighting without verdict. The event's fields are None when the transaction had ended before the event came."""

    offset: int
    txn_id: str
    kind: str | None
    step: str | None
    record_timestamp: float | None


class PartitionSummary(msgspec.Struct, frozen=True):
    """A partition for the API. Offsets are those of the next record; times are epoch seconds, None while unknown."""

    topic: str
    partition: int
    monitor_offset: int
    validator_offset: int
    undecided_records: int
    oldest_undecided: Undecided | None
    monitor_as_of: float | None
    validator_as_of: float | None


def partition_summary(ledger: Ledger, partition: PartitionState) -> PartitionSummary:
    """Summarize a partition for the API."""
    return PartitionSummary(
        partition.ref.topic,
        partition.ref.partition,
        partition.monitor_offset,
        partition.validator_offset,
        partition.undecided_records(),
        oldest_undecided(ledger, partition),
        _known(partition.monitor_as_of),
        _known(partition.validator_as_of),
    )


def oldest_undecided(ledger: Ledger, partition: PartitionState) -> Undecided | None:
    """The partition's first sighting without verdict."""
    found = partition.oldest_undecided()
    if found is None:
        return None
    offset, txn_id = found
    event = _event_at(ledger, txn_id, partition, offset)
    if event is None:
        return Undecided(offset, txn_id, None, None, None)
    return Undecided(offset, txn_id, kind_name(event.signature.kind), event.signature.step, event.record_ts)


def _event_at(ledger: Ledger, txn_id: str, partition: PartitionState, offset: int) -> Event | None:
    txn = ledger.live.get(txn_id)
    events = txn.events if txn is not None else ()
    return next((e for e in events if e.offset == offset and e.ref == partition.ref), None)


def lso_age_s(partition: PartitionState, now: float) -> float:
    """How long the validator's frontier has not moved while records wait behind it; 0 while none wait."""
    return max(0.0, now - partition.waiting_since) if partition.waiting_since else 0.0


def lag_records(partition: PartitionState, view: View) -> int:
    """Offsets between a view's applied position and the end that the broker last reported; 0 before any report."""
    if view is View.MONITOR:
        return max(0, partition.monitor_end - partition.monitor_offset)
    return max(0, partition.validator_end - partition.validator_offset)


def _known(moment: float) -> float | None:
    return None if moment == UNSEEN else moment
