"""The words of the system: what crosses processes, and the names of states, causes, verdicts and anomalies.

Everything else may import this module; it imports nothing of the project. A monitor sends `Sightings`, a
validator sends `Coverage`, either sends `Discovery` and `Farewell`, and the aggregator answers with `Assign`.
All of them are msgspec structs that travel as MessagePack frames; a test holds that each survives the crossing.

Offsets are Kafka offsets; ranges are half open, `[start, end)`. Moments are seconds since the epoch (float).
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple

import msgspec


class Kind(IntEnum):
    """The four kinds of event."""

    TRANSACTION_OPEN = 0
    STEP_OPEN = 1
    STEP_DONE = 2
    TRANSACTION_CLOSE = 3


KIND_WORDS = {
    "transaction_open": Kind.TRANSACTION_OPEN,
    "step_open": Kind.STEP_OPEN,
    "step_done": Kind.STEP_DONE,
    "transaction_close": Kind.TRANSACTION_CLOSE,
}


class View(StrEnum):
    """The two ways a topic is read."""

    MONITOR = "monitor"  # read_uncommitted
    VALIDATOR = "validator"  # read_committed


class Verdict(StrEnum):
    """What the committed view says of a sighting."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"
    PENDING = "pending"


class State(StrEnum):
    """Where a business transaction stands, by its sightings and their verdicts alone."""

    OPEN = "open"
    TENTATIVELY_CLOSED = "tentatively_closed"
    CLOSED = "closed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """Why a transaction is stuck; in the order in which they are tried."""

    IDLE = "idle"
    OVERDUE = "overdue"
    UNDECIDED = "undecided"
    COMMIT_PENDING = "commit_pending"
    BLOCKED = "blocked"  # needs holders, which only a coordinator collector can name
    NEVER_COMMITTED = "never_committed"


class Outcome(StrEnum):
    """How a settled transaction ended."""

    CLOSED = "closed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class Anomaly(StrEnum):
    """Oddities of a transaction. All but LATE_EVENT (one for each event) count once a transaction, at settlement."""

    CLOSE_WITHOUT_OPEN = "close_without_open"  # a close was committed and no open was ever sighted
    OPEN_NOT_COMMITTED = "open_not_committed"  # opens were sighted, but none of them was committed
    DUPLICATE_OPEN = "duplicate_open"  # more than one committed open
    DUPLICATE_CLOSE = "duplicate_close"  # more than one committed close
    DONE_WITHOUT_OPEN = "done_without_open"  # a step was done more often than opened
    STEP_NOT_DONE = "step_not_done"  # a step was opened more often than done, and the transaction closed
    EVENT_AFTER_CLOSE = "event_after_close"  # a committed open or step is stamped after the first committed close
    FUTURE_TIMESTAMP = "future_timestamp"  # an event was stamped after its record by more than the tolerance
    NEGATIVE_GAP = "negative_gap"  # a close before its open, or a step done before it was opened
    NOT_COLOCATED = "not_colocated"  # events on two partitions although events.colocated is set
    LATE_RETRY = "late_retry"  # opened anew after its abort had been settled
    LATE_EVENT = "late_event"  # an event of a transaction that was settled before


class RecordResult(StrEnum):
    """What became of a record in the monitor."""

    OK = "ok"
    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    FOREIGN = "foreign"  # readable, but not one of our events; tombstones too
    GAP = "gap"


class Place(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Signature(NamedTuple):
    """What an event says besides who and when. Few distinct ones exist, so they are interned and travel as a table."""

    kind: int
    step: str | None
    txn_type: str | None
    status: str | None
    future: bool  # its ts was beyond its record's timestamp + tolerance, and was clamped to it
    kept_time: bool  # replayed with its original time: never stuck, no ages, no outliers


KEPT_TIME_HEADER = "txninsight-kept-time"
"""A record with this header (any value) was replayed with --keep-time."""

OVERFLOW = "__overflow__"
"""The label value that stands for all values past `limits.label_values`."""


class Sightings(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """What a monitor saw of one partition since its last message, as columns of equal length.

    `to_offset` is the monitor's position afterwards (control records included). `gaps` are flat pairs of offsets that
    could not be read. `as_of` is the latest moment before which nothing unread can exist in the partition (0: not
    known). `low_timestamp` is the smallest record timestamp of *all* records in the batch, events or not (0: none).
    """

    topic: str
    partition: int
    to_offset: int
    read_at: float
    as_of: float
    low_timestamp: float
    signatures: list[tuple[int, str | None, str | None, str | None, bool, bool]]
    offsets: list[int]
    txn_ids: list[str]
    signature_indexes: list[int]
    timestamps: list[float]
    record_timestamps: list[float]
    gaps: list[int]
    results: dict[str, int]
    end_offset: int  # the high watermark as last answered by the broker; -1: never answered
    leaderless: bool  # no leader, and read to its last known end


class Coverage(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """What a validator passed in one partition: `[from_offset, to_offset)`, delivered `runs` and `gaps` as flat pairs.

    `decided_at` is the validator's clock when it read this frontier.
    """

    topic: str
    partition: int
    from_offset: int
    to_offset: int
    decided_at: float
    as_of: float
    runs: list[int]
    gaps: list[int]
    end_offset: int  # the last stable offset as last answered by the broker; -1: never answered
    leaderless: bool


class Found(msgspec.Struct, array_like=True, frozen=True):
    """A partition that the configured topics name, and where both views shall start in it."""

    topic: str
    partition: int
    start_offset: int


class Discovery(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """What the first monitor found in the cluster: new partitions, and what keeps topics from being read."""

    found: list[Found]
    problems: list[str]  # in words, for /readyz; replaces the former ones


class Farewell(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """The last message of a reader that stops in order."""

    name: str


class Assign(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """Aggregator to reader: read these partitions too, from these offsets."""

    starts: list[Found]


FromReader = Sightings | Coverage | Discovery | Farewell
