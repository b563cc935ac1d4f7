"""One event as the ledger keeps it, and as the rules judge it.

`Event` is what a monitor saw; its identity is (partition, offset). `Judged` pairs it with what the committed view says.
Events are ordered by (ts, topic, partition, offset): that order, never the order of arrival, decides the figures.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from txninsightd.vocabulary import Kind, PartitionRef, Signature, Verdict

STEP_KINDS = (Kind.STEP_OPEN, Kind.STEP_DONE)


class Event(msgspec.Struct, frozen=True, gc=False):
    """A sighting, slim: `ts` and `record_ts` are seconds since the epoch."""

    ts: float
    ref: PartitionRef
    offset: int
    record_ts: float
    signature: Signature


event_order: Callable[[Event], tuple[float, PartitionRef, int]] = attrgetter("ts", "ref", "offset")
"""The one order of events within a transaction."""


class Judged(NamedTuple):
    """An event with its verdict. `decided_at` is the validator's clock; 0 while pending, or where it is not needed."""

    event: Event
    verdict: Verdict
    decided_at: float = 0.0

    @property
    def kind(self) -> int:
        """The event's kind."""
        return self.event.signature.kind

    @property
    def stands(self) -> bool:
        """Committed, or still able to become so."""
        return self.verdict is Verdict.COMMITTED or self.verdict is Verdict.PENDING


Life = Sequence[Judged]
"""All sightings of one transaction, in any order."""


def closes(life: Life, *verdicts: Verdict) -> list[Judged]:
    """The closes of a life that have one of these verdicts."""
    return [j for j in life if j.kind == Kind.TRANSACTION_CLOSE and j.verdict in verdicts]
