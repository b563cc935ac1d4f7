"""Splits a message that decides very much into several that each decide little, and together the same.

A validator may pass a Kafka transaction of a million records at once. Applied as one message, that is one long stall.
The portions are what the validator would have sent if it had reported more often, so each leaves the ledger in a proper
state between two messages: others may be applied, and checkpoints written, in between.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec

from txninsightd.core.verdicts import PartitionState
from txninsightd.offset_ranges import OffsetRanges
from txninsightd.vocabulary import Coverage

DECIDED_A_PORTION = 1000
"""So many sightings are decided by one portion, at most."""


def portions(coverage: Coverage, partition: PartitionState, most: int = DECIDED_A_PORTION) -> Iterator[Coverage]:
    """The same coverage in ascending portions. Only the last says how far was seen and where the partition ends.

    `partition`: as it is when the first portion is asked for.
    """
    bounds = [coverage.from_offset, *_cuts(coverage, partition, most), coverage.to_offset]
    if len(bounds) == 2:
        yield coverage
        return
    runs, gaps = OffsetRanges(coverage.runs), OffsetRanges(coverage.gaps)
    nothing_more: dict[str, Any] = {"as_of": 0.0, "end_offset": -1, "stable_offset": -1}
    for start, end in pairwise(bounds):
        yield msgspec.structs.replace(
            coverage,
            from_offset=start,
            to_offset=end,
            runs=runs.between(start, end),
            gaps=gaps.between(start, end),
            **({} if end == coverage.to_offset else nothing_more),
        )


def _cuts(coverage: Coverage, partition: PartitionState, most: int) -> list[int]:
    """Offsets inside the range, so that between two of them lie at most `most` sightings that wait for a verdict."""
    low = max(coverage.from_offset, partition.decided_offset)
    high = min(coverage.to_offset, partition.monitor_offset)
    # Most messages: what waits in the whole partition fits into one portion.
    if partition.undecided <= most or high <= low:
        return []
    return list(partition.every(most, low, high))
