"""Which partitions there are, and which topic stands behind a name.

A topic that is deleted and recreated is another topic under the same name (its id tells, KIP-516): its offsets begin at
0 again. Each is an *incarnation* of the name, counted from 0, and a partition of one incarnation is never confused with
that of another. A partition that disappears is only deleted once a second complete look misses it.

This part keeps the list and says what a look at the cluster means for it; the ledger acts on that.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import Coverage, Discovery, PartitionRef, PartitionStart, Sightings


class Incarnation(NamedTuple):
    """The topic behind a name: its id ("": not known), and how many topics had the name before it."""

    topic_id: str
    number: int


class Topics:
    """All partitions that were ever found, by reference, and the present incarnation of each topic name."""

    def __init__(self) -> None:
        self.partitions: dict[PartitionRef, PartitionState] = {}
        self.incarnations: dict[str, Incarnation] = {}

    @property
    def ids(self) -> dict[str, str]:
        """The topic ids that are known, by name."""
        return {name: topic.topic_id for name, topic in self.incarnations.items() if topic.topic_id}

    def add(self, ref: PartitionRef, start_offset: int, topic_id: str = "") -> PartitionState:
        """A partition that both views read from `start_offset` on."""
        partition = self.partitions[ref] = PartitionState(ref, start_offset)
        partition.topic_id = topic_id
        return partition

    def partition_of(self, message: Sightings | Coverage) -> PartitionState | None:
        """The partition that a message is about; None when its topic was deleted meanwhile."""
        return self.partition_at(PartitionRef(message.topic, message.partition, message.incarnation))

    def partition_at(self, ref: PartitionRef) -> PartitionState | None:
        """The partition, which is known; None when its topic was deleted meanwhile."""
        partition = self.partitions[ref]
        return None if partition.void else partition

    def identify(self, message: Discovery) -> list[PartitionState]:
        """Take in the topics' ids; returns the partitions that a recreated topic retires."""
        new: set[str] = set()
        recreated: set[str] = set()
        for topic, topic_id in message.topic_ids.items():
            known = self.incarnations.get(topic, Incarnation("", 0))
            if known.topic_id == topic_id:
                continue
            (recreated if known.topic_id else new).add(topic)
            self.incarnations[topic] = Incarnation(topic_id, known.number + 1 if known.topic_id else known.number)
        # Most looks find nothing new, and walk through no partition here.
        present = [p for p in self.partitions.values() if not p.void] if new or recreated else []
        for partition in present:
            if partition.ref.topic in new:
                partition.topic_id = message.topic_ids[partition.ref.topic]
        return [partition for partition in present if partition.ref.topic in recreated]

    def retired_by(self, message: Discovery, partitions: Iterable[PartitionState]) -> list[PartitionState]:
        """Those of these partitions that `identify` or `deleted` will return for the message."""
        known = self.ids
        recreated = {topic for topic, topic_id in message.topic_ids.items() if known.get(topic, topic_id) != topic_id}
        present = present_in(message) if message.complete else None
        return [
            p
            for p in partitions
            if not p.void and (p.ref.topic in recreated or (present is not None and p.gone and _is_missing(p, present)))
        ]

    def begin(self, message: Discovery, not_there_at: float) -> Iterator[tuple[PartitionState, PartitionStart]]:
        """Add the partitions that are new, each with where to begin. `not_there_at`: the look that did not find them.

        A partition that was deleted and comes back as one of the same topic goes on where it was left.
        """
        for found in message.found:
            topic = self.incarnations.get(found.topic, Incarnation(found.topic_id, 0))
            ref = PartitionRef(found.topic, found.partition, topic.number)
            known = self.partitions.get(ref)
            if known is not None and not known.void:
                continue
            start_offset = known.monitor_offset if known is not None else found.start_offset
            partition = self.add(ref, start_offset, topic.topic_id)
            partition.absent_at = not_there_at
            # Nothing can be unread of before it existed. (One that comes back may have been there, and not been shown.)
            if known is None and found.as_of:
                partition.monitor_as_of = partition.validator_as_of = found.as_of
            yield (
                partition,
                PartitionStart(
                    found.topic, found.partition, start_offset, incarnation=topic.number, topic_id=topic.topic_id
                ),
            )

    def deleted(self, message: Discovery) -> list[PartitionState]:
        """The partitions that a complete look misses for the second time."""
        present = present_in(message)
        return [p for p in self.partitions.values() if p.gone and not p.void and _is_missing(p, present)]

    def mark_missing(self, message: Discovery) -> None:
        """Nothing waits any more for what a complete look misses. To be called once the deleted ones are void."""
        present = present_in(message)
        for partition in self.partitions.values():
            missing = _is_missing(partition, present)
            partition.gone = missing or partition.void
            # Where events are colocated some transactions wait for this partition alone, and nothing more comes of it.
            if partition.void and missing:
                partition.monitor_as_of = max(partition.monitor_as_of, message.asked_at)


def present_in(message: Discovery) -> dict[str, set[int]]:
    """The partitions that a look found, by topic, to ask about each of very many."""
    return {topic: set(partitions) for topic, partitions in message.present.items()}


def _is_missing(partition: PartitionState, present: Mapping[str, set[int]]) -> bool:
    return partition.ref.partition not in present.get(partition.ref.topic, ())
