"""How a ledger gets the messages of a world: as they are, as readers send them, or as the aggregator hands them on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from tests.harness.core.core import Core
from tests.harness.core.worlds import Message
from txninsightd.core import ledger
from txninsightd.core.portions import portions
from txninsightd.core.transaction import UNSEEN
from txninsightd.vocabulary import Coverage, Discovery, PartitionRef, Seen, SeenTopic, Sightings, View


class Manner(NamedTuple):
    """How both get the messages. `apart`: how far was seen comes in messages of its own, as readers send it.

    `most_decided`: in portions of so many sightings. `patient`: the ledger leaves the evaluation of what a message
    makes due for later, and messages come in between.
    """

    apart: bool = False
    most_decided: int | None = None
    patient: bool = False

    def messages(self, message: Message, core: Core) -> Iterator[Message | Seen]:
        """What both get for this message; each is asked for when the one before it was applied."""
        for part in seen_apart(message) if self.apart else [message]:
            if isinstance(part, Coverage) and self.most_decided is not None:
                partition = core.ledger.topics.partition_of(part)
                yield from [part] if partition is None else portions(part, partition, self.most_decided)
            else:
                yield part


AT_ONCE = Manner()


def seen_apart(message: Message) -> list[Message | Seen]:
    """A message about records without how far was seen, and that as a message of its own."""
    if isinstance(message, Discovery):
        return [message]
    outages: list[tuple[int, float]] = []
    stable: list[int] = []
    records: Message
    if isinstance(message, Sightings):
        view, records = View.MONITOR, msgspec.structs.replace(message, as_of=0.0, end_offset=-1, outage_from=0.0)
        outages = [(message.partition, message.outage_from)] if message.outage_from else []
    else:
        view, records = View.VALIDATOR, msgspec.structs.replace(message, as_of=0.0, end_offset=-1, stable_offset=-1)
        stable = [message.stable_offset]
    topic = SeenTopic(
        message.topic,
        message.incarnation,
        [message.partition],
        [message.as_of or UNSEEN],
        [message.end_offset],
        stable,
        outages,
    )
    return [records, Seen(view, [topic])]


def as_records(message: Message | Seen, core: Core) -> Iterator[Message]:
    """The same as messages about records, which is all that the plain model knows."""
    if not isinstance(message, Seen):
        yield message
        return
    for topic in message.topics:
        began = dict(topic.outages)
        for i, number in enumerate(topic.partitions):
            ref = PartitionRef(topic.topic, number, topic.incarnation)
            as_of, end = max(topic.as_ofs[i], 0.0), topic.end_offsets[i]
            partition = core.partitions[ref]
            if message.view is View.MONITOR:
                outage_from = began.get(number, 0.0)
                yield _nothing_sighted(ref, partition.monitor_offset, as_of, end, outage_from)
            else:
                at = partition.validator_offset
                stable = topic.stable_offsets[i]
                yield Coverage(*ref[:2], at, at, 0.0, as_of, [], [], end, stable, ref.incarnation)


def _nothing_sighted(ref: PartitionRef, at: int, as_of: float, end_offset: int, outage_from: float) -> Sightings:
    nothing: list[int] = []
    return Sightings(
        topic=ref.topic,
        partition=ref.partition,
        to_offset=at,
        read_at=0.0,
        as_of=as_of,
        low_timestamp=0.0,
        signatures=[],
        offsets=nothing,
        txn_ids=[],
        signature_indexes=nothing,
        timestamps=[],
        record_timestamps=[],
        gaps=nothing,
        results={},
        end_offset=end_offset,
        outage_from=outage_from,
        incarnation=ref.incarnation,
    )


@contextmanager
def patience(patient: bool) -> Iterator[None]:
    """Let the ledger evaluate one transaction at a time at most, and leave the others for later."""
    before = ledger.EVALUATED_A_STEP
    ledger.EVALUATED_A_STEP = 1 if patient else before
    try:
        yield
    finally:
        ledger.EVALUATED_A_STEP = before
