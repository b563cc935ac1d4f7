"""Splits a message that decides very much into several that each decide little, and together the same.

A validator may pass a Kafka transaction of a million records at once, and a topic may be deleted of which as many have
no verdict yet. Applied as one message, that is one long stall. The portions are what the validator would have sent had
it reported more often, so each leaves the ledger in a proper state between two messages: others may be applied, and
checkpoints written, in between.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from txninsightd.core.topics import Topics
from txninsightd.core.verdicts import PartitionState
from txninsightd.offset_ranges import OffsetRanges
from txninsightd.vocabulary import Coverage, Discovery, Seen, Sightings

DECIDED_A_PORTION = 1000
"""So many sightings are decided by one portion, at most."""


Message = Sightings | Coverage | Seen | Discovery
"""What a reader says of partitions."""


def in_portions(message: Message, topics: Topics) -> Iterator[Message]:
    """The same message as several, each to be applied before the next is asked for."""
    if isinstance(message, Coverage) and (partition := topics.partition_of(message)) is not None:
        yield from portions(message, partition)
        return
    if isinstance(message, Discovery):
        # Most looks retire nothing, and then all that costs is to find what is undecided.
        undecided = [p for p in topics.partitions.values() if p.undecided]
        if sum(p.undecided for p in undecided) > DECIDED_A_PORTION:
            for partition in topics.retired_by(message, undecided):
                yield from portions(all_lost(partition, message.asked_at), partition)
    yield message


def all_lost(partition: PartitionState, now: float) -> Coverage:
    """As if the validator had reported a gap: all that pends in the partition is found to be unknown."""
    ref, start, end = partition.ref, partition.decided_offset, partition.monitor_offset
    return Coverage(ref.topic, ref.partition, start, end, now, 0.0, [], [start, end], -1, incarnation=ref.incarnation)


def portions(coverage: Coverage, partition: PartitionState, most: int = DECIDED_A_PORTION) -> Iterator[Coverage]:
    """The same coverage in ascending portions. Only the last says how far was seen and where the partition ends.

    Each is to be applied before the next is asked for: meanwhile the monitor may go on, and bring more to decide.
    """
    start = coverage.from_offset
    while (cut := _cut(coverage, partition, start, most)) is not None:
        yield _part(coverage, start, cut, is_last=False)
        start = cut
    yield coverage if start == coverage.from_offset else _part(coverage, start, coverage.to_offset, is_last=True)


def _cut(coverage: Coverage, partition: PartitionState, start: int, most: int) -> int | None:
    """Where the next portion ends, if not with the whole: `most` sightings from `start` on wait for a verdict."""
    # Most messages: what waits in the whole partition fits into one portion.
    if partition.undecided <= most or partition.void:
        return None
    low = max(start, partition.decided_offset)
    high = min(coverage.to_offset, partition.monitor_offset)
    return next(partition.every(most, low, high), None)


def _part(coverage: Coverage, start: int, end: int, is_last: bool) -> Coverage:
    nothing_more: dict[str, Any] = {"as_of": 0.0, "end_offset": -1, "stable_offset": -1}
    return msgspec.structs.replace(
        coverage,
        from_offset=start,
        to_offset=end,
        runs=OffsetRanges(coverage.runs).between(start, end),
        gaps=OffsetRanges(coverage.gaps).between(start, end),
        **({} if is_last else nothing_more),
    )
