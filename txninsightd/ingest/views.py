"""What the two roles make of a batch of records: the monitor sightings, the validator coverage.

For each partition both get the records that arrived, the offsets that could not be read, and the reader's frontier: the
larger of its position and the last end of partition, read after the batch was taken. The monitor decodes; the validator
looks at offsets only. Each builds one message for one partition.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from txninsightd.core.decoding import Decoded, Decoder, Headers
from txninsightd.core.end_tracker import EndTracker
from txninsightd.offset_ranges import OffsetRanges
from txninsightd.vocabulary import (
    KEPT_TIME_HEADER,
    Coverage,
    Mapping,
    PartitionRef,
    RecordResult,
    Sightings,
)

NO_TIMESTAMP = 0
"""confluent_kafka.TIMESTAMP_NOT_AVAILABLE"""

IN_SEEN = 0.0
"""How far a partition was seen is not said here, but in a `Seen` (advances.py)."""


class Progress:
    """How far one partition was read: everything below `frontier`. `gaps`: flat pairs, since the last message.

    `reported`: the end of the last message that was built. `sent_offset`, `sent_as_of`: how far messages were sent.
    `begun_at`: answers to older questions are not about this partition.
    """

    __slots__ = (
        "begun_at",
        "eof_offset",
        "frontier",
        "gaps",
        "ref",
        "reported",
        "sent_as_of",
        "sent_offset",
        "stride",
        "tracker",
    )

    def __init__(self, ref: PartitionRef, start_offset: int, as_of: float, begun_at: float) -> None:
        self.ref = ref
        self.begun_at = begun_at
        self.sent_offset = start_offset
        self.sent_as_of = as_of
        self.frontier = start_offset
        self.reported = start_offset
        self.eof_offset = -1
        self.stride = 1
        self.gaps: list[int] = []
        self.tracker = EndTracker(as_of)

    def add_gap(self, start: int, end: int) -> None:
        """These offsets could not be read, and never will be."""
        start = max(start, self.frontier)
        if end > start:
            OffsetRanges(self.gaps).add(start, end)
            self.frontier = end

    @property
    def has_unreported(self) -> bool:
        """Whether something that was read is in no message yet."""
        return bool(self.gaps) or self.frontier > self.reported

    def mark_reported(self) -> None:
        """A message now contains all of it."""
        self.reported = self.frontier

    def pop_gaps(self) -> list[int]:
        """The gaps since the last call."""
        gaps, self.gaps = self.gaps, []
        return gaps


class Clock(Protocol):
    """The clock that the timestamps of records are compared with."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def latest(self) -> float:
        """The latest moment that may be now; our own clock may be wrong."""


class ViewBuilder(Protocol):
    """A role: turns the records of one partition into one message."""

    def message(self, progress: Progress, records: list[Any], now: float) -> Sightings | Coverage:
        """`records` are confluent_kafka Messages of this partition without errors, ascending, perhaps none."""

    def update_settings(self, value_bytes: int, future_tolerance_s: float) -> None:
        """Apply these bounds from now on."""


class MonitorBuilder:
    """Decodes records into sightings. `report_rejected(result, record)` gets each record that cannot be read."""

    def __init__(
        self,
        mapping_for: Callable[[str], Mapping],
        value_bytes: int,
        future_tolerance_s: float,
        report_rejected: Callable[[RecordResult, Any], None],
        record_clock: Clock,
    ) -> None:
        self._record_clock = record_clock
        self._mapping_for = mapping_for
        self._report_rejected = report_rejected
        self.update_settings(value_bytes, future_tolerance_s)

    def update_settings(self, value_bytes: int, future_tolerance_s: float) -> None:
        """Larger values are oversized; events that are further ahead of their records are clamped."""
        self._value_bytes = value_bytes
        self._future_tolerance_s = future_tolerance_s
        # A decoder keeps its bounds, so new bounds need new decoders.
        self._decoders: dict[str, Decoder] = {}

    def message(self, progress: Progress, records: list[Any], now: float) -> Sightings:
        """One message of sightings."""
        topic = progress.ref.topic
        decoder = self._decoders.get(topic)
        if decoder is None:
            mapping = self._mapping_for(topic)
            decoder = self._decoders[topic] = Decoder(mapping, self._value_bytes, self._future_tolerance_s)
        # `now` is another clock, which no step moves.
        wall = self._record_clock.now()
        columns = _Columns(wall, self._record_clock.latest() + self._future_tolerance_s)
        headers = _headers(records)
        for record in records:
            self._take(decoder, columns, record, headers)
        if columns.offsets:
            columns.results[RecordResult.OK.value] = len(columns.offsets)
        gaps = progress.pop_gaps()
        if gaps:
            columns.results[RecordResult.GAP.value] = OffsetRanges(gaps).count()
        return Sightings(
            topic=topic,
            partition=progress.ref.partition,
            to_offset=progress.frontier,
            read_at=now,
            as_of=IN_SEEN,
            low_timestamp=columns.low_timestamp(),
            signatures=columns.signatures,
            offsets=columns.offsets,
            txn_ids=columns.txn_ids,
            signature_indexes=columns.indexes,
            timestamps=columns.timestamps,
            record_timestamps=columns.record_timestamps,
            gaps=gaps,
            results=columns.results,
            end_offset=progress.tracker.end_offset,
            outage_from=IN_SEEN,
            incarnation=progress.ref.incarnation,
        )

    def _take(self, decoder: Decoder, columns: "_Columns", record: Any, all_headers: Iterator[Headers]) -> None:
        record_ts = columns.record_ts(record)
        try:
            headers = next(all_headers)
        except (SystemError, UnicodeDecodeError):
            headers = None
        kept_time = headers is not None and any(name == KEPT_TIME_HEADER for name, _ in headers)
        found = decoder.decode(record.value(), record.key(), headers, record_ts, kept_time)
        if isinstance(found, Decoded):
            columns.add(record.offset(), record_ts, found)
        else:
            columns.results[found.value] += 1
            self._report_rejected(found, record)


def _headers(records: list[Any]) -> Iterator[Headers]:
    """The headers of each record. Raises SystemError for a record with a header's name that is not UTF-8, and goes on.

    confluent_kafka then returns tuples with a hole, and an error beside them. Whoever touches the hole dies, and only
    a call from C code, as here by `map`, looks for the error: the interpreter's own calls of such methods do not.
    """
    return map(type(records[0]).headers, records) if records else iter(())


class _Columns:
    """The columns of one message while they grow."""

    def __init__(self, now: float, latest: float) -> None:
        self._now = now
        self._latest = latest
        self._low = now
        self._any = False
        self.offsets: list[int] = []
        self.txn_ids: list[str] = []
        self.indexes: list[int] = []
        self.timestamps: list[float] = []
        self.record_timestamps: list[float] = []
        self.signatures: list[tuple[int, str | None, str | None, str | None, bool, bool]] = []
        self._index_of: dict[int, int] = {}
        self.results: Counter[str] = Counter()

    def record_ts(self, record: Any) -> float:
        """The record's timestamp in epoch seconds; the reader's clock where it has none or it is from the future."""
        kind, milliseconds = record.timestamp()
        seconds = milliseconds / 1000 if kind != NO_TIMESTAMP and milliseconds >= 0 else self._now
        if seconds > self._latest:
            seconds = self._now
        if seconds < self._low:
            self._low = seconds
        self._any = True
        return float(seconds)

    def low_timestamp(self) -> float:
        """The smallest record timestamp, not later than now; 0 without a record."""
        return self._low if self._any else 0.0

    def add(self, offset: int, record_ts: float, event: Decoded) -> None:
        """Append one sighting."""
        self.offsets.append(offset)
        self.txn_ids.append(event.txn_id)
        # By identity: decoders intern, and two equal objects merely cost one more entry. `signatures` keeps each alive,
        # so that no id is used twice.
        index = self._index_of.get(id(event.signature))
        if index is None:
            index = self._index_of[id(event.signature)] = len(self.signatures)
            self.signatures.append(event.signature)
        self.indexes.append(index)
        self.timestamps.append(event.ts)
        self.record_timestamps.append(record_ts)


class ValidatorBuilder:
    """Turns delivered offsets into coverage; decodes nothing."""

    def update_settings(self, value_bytes: int, future_tolerance_s: float) -> None:
        """A validator does not decode, so it has no bounds."""

    def message(self, progress: Progress, records: list[Any], now: float) -> Coverage:
        """One message of coverage. `now` is the moment at which the frontier was read."""
        return Coverage(
            topic=progress.ref.topic,
            partition=progress.ref.partition,
            # The end of the message before: coverage has no holes except the gaps that it names.
            from_offset=progress.reported,
            to_offset=progress.frontier,
            decided_at=now,
            as_of=IN_SEEN,
            runs=OffsetRanges.of_offsets([record.offset() for record in records]).flat,
            gaps=progress.pop_gaps(),
            end_offset=progress.tracker.end_offset,
            incarnation=progress.ref.incarnation,
        )
