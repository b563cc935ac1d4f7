"""The idempotency key of a life: one of its own records, the same one whenever and however the records are read.

One txn_id can have several lives, and the records of one life can be read several times: after a restart from an older
checkpoint, after a rewind, as a backlog, with the partitions in another order, with late events among them. The key
names a record of the life, so two lives never share it. Which record it is must not depend on any of that:

- A life with a committed or unknown close goes by the partition of the close that decides it, and there by the first
  open or close that was not aborted. A partition is read by ascending offset, and all of it up to the close is read
  and decided before the life settles. So neither other partitions, nor clocks, nor late events (which lie behind the
  close), nor dropped steps have a say. Nor has an aborted first attempt, which is a life of its own if it was settled
  before the retry came, and belongs to the closed one if it was not.
- Any other life goes by its first record: of each partition's first one, the one with the smallest record timestamp.

docs/reliability.md lists when the same records can still make another key. The topic goes by its id (KIP-516), because
the number of its incarnation begins at 0 again when the state is lost; where brokers give no id, by that number.
"""

from collections.abc import Iterable, Mapping

import msgspec

from txninsightd.core.events import STEP_KINDS, Event, Judged
from txninsightd.core.transaction import Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import PartitionRef, Verdict


class LifeKey(msgspec.Struct, frozen=True, gc=False):
    """Where the record lies that stands for a life. `topic_id`: "#" and a number where the id is not known."""

    txn_id: str
    topic: str
    topic_id: str
    partition: int
    offset: int


def key_of(txn: Transaction, life: list[Judged] | None, partitions: Mapping[PartitionRef, PartitionState]) -> LifeKey:
    """The key of a life as it is known. `life`: its events with their verdicts; None: all are committed."""
    ref, offset = _key_record(txn, life)
    topic_id = partitions[ref].topic_id or f"#{ref.incarnation}"
    return LifeKey(txn.txn_id, ref.topic, topic_id, ref.partition, offset)


def _key_record(txn: Transaction, life: list[Judged] | None) -> tuple[PartitionRef, int]:
    if txn.deciding is None:
        return _first_record(txn.events)
    ref = txn.deciding[1]
    counted: Iterable[Event] = txn.events
    if life is not None:
        counted = (j.event for j in life if j.verdict is not Verdict.ABORTED)
    for event in counted:
        # Events of one partition are kept by ascending offset.
        if event.signature.kind not in STEP_KINDS and event.ref == ref:
            return ref, event.offset
    raise AssertionError("the deciding close is an event of its transaction")


def _first_record(events: list[Event]) -> tuple[PartitionRef, int]:
    firsts: dict[PartitionRef, Event] = {}
    for event in events:
        firsts.setdefault(event.ref, event)
    first = min(firsts.values(), key=lambda event: (event.record_ts, event.ref, event.offset))
    return first.ref, first.offset
