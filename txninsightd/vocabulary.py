"""The words of the system: what crosses processes, and the names of states, causes, verdicts and anomalies.

Everything else may import this module; it imports nothing of the project. A monitor sends `Sightings`, a validator
sends `Coverage`, the child with the scout `Discovery`; the aggregator answers with `Assign`, `Pause`,
`KnownPartitions`, `CommitOffsets` and `UpdateReaderSettings`. The parent sends the aggregator `Attach`,
`ChildrenStatus`, `Reload` and `Stop`, and receives `Report`s. All of them are msgspec structs that travel as
MessagePack frames; a test checks that each of them survives the crossing.

Offsets are Kafka offsets; ranges are half open, `[start, end)`. Moments are seconds since the epoch (float).
"""

from enum import IntEnum, StrEnum
from typing import Literal, NamedTuple, Protocol

import msgspec


# The values of these enums, Kind's numbers too, stand in checkpoints (core/snapshot/) or in labels of metrics.
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
    NEVER_COMMITTED = "never_committed"


class Outcome(StrEnum):
    """How a settled transaction ended."""

    CLOSED = "closed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"
    EVICTED = "evicted"  # given up to keep within a limit
    FORGOTTEN = "forgotten"  # ended by the operator


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


class ReaderRole(NamedTuple):
    """What a reader reads: of a view, the share with this number (from 0)."""

    view: View
    share: int


class PartitionRef(NamedTuple):
    """One partition of one topic. A topic that is created again is another one, with a higher `incarnation`."""

    # Events are ordered by them in this order (core/events.py), and checkpoints hold them in it.
    topic: str
    partition: int
    incarnation: int = 0


class Signature(NamedTuple):
    """An event without its txn_id and time. Few distinct ones exist, so they are interned and sent as a table."""

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


class Thresholds(msgspec.Struct, frozen=True):
    """After how many seconds a transaction counts as stuck, by cause."""

    idle_after_s: float = 300
    overdue_after_s: float = 3600
    commit_pending_after_s: float = 60


class Objective(msgspec.Struct, frozen=True):
    """What is wanted of transactions that go well. None: nothing.

    `duration_s`: a closed one took at most so long; `ratio`: the share of closed ones for which that holds.
    `open_age_s`: no open one is older.
    """

    duration_s: float | None = None
    ratio: float = 0.99
    open_age_s: float | None = None


class FromPath(msgspec.Struct, frozen=True, tag="path"):
    """The field stands in the record's JSON object, at these names from the outside in."""

    names: tuple[str, ...]


class FromConst(msgspec.Struct, frozen=True, tag="const"):
    """The field is the same for all events of the topic. As an event: one of the four kinds' words."""

    value: str


class FromKey(msgspec.Struct, frozen=True, tag="key"):
    """The field is the record's key, as UTF-8."""


class FromHeader(msgspec.Struct, frozen=True, tag="header"):
    """The field is the record's header of this name, as UTF-8."""

    name: str


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """How the records of a topic are read as events.

    `kinds` says what each word found as `event` means: our own four words, and over them those of the operator's map.
    `ts_unit` is the unit of a `ts` that is a number.
    """

    event: FromPath | FromConst = FromPath(("event",))
    txn_id: FromPath | FromKey | FromHeader = FromPath(("txn_id",))
    ts: FromPath = FromPath(("ts",))
    txn_type: FromPath | FromConst = FromPath(("txn_type",))
    step: FromPath | FromConst = FromPath(("step",))
    status: FromPath | FromConst = FromPath(("status",))
    kinds: dict[str, Kind] = msgspec.field(default_factory=KIND_WORDS.copy)
    ts_unit: Literal["s", "ms"] = "s"


class Line(Protocol):
    """One end of the connection between a child and the aggregator, as both sides use it; never blocks."""

    closed: bool

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def send(self, message: msgspec.Struct) -> None:
        """Queue a message, and write what can be written."""

    def flush(self) -> None:
        """Write what can be written."""

    @property
    def depth(self) -> int:
        """How many messages are queued here."""

    def receive(self) -> list[bytes]:
        """The frames that have arrived; sets `closed` at the end of the line."""

    def close(self) -> None:
        """Give the descriptor back."""


# gc=False: no part of a cycle, so nothing that the collector need walk through; these and Coverage are very many.
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
    outage_from: float  # the broker gave no answer from then until `as_of`; 0: no outage before this as_of
    incarnation: int = 0


class Coverage(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """What a validator passed in one partition: `[from_offset, to_offset)`, delivered `runs` and `gaps` as flat pairs.

    `decided_at` is the validator's clock when it read this frontier.
    """

    # What waits for the monitor stands in checkpoints, by position: a new field goes to the end, with a default.
    topic: str
    partition: int
    from_offset: int
    to_offset: int
    decided_at: float
    as_of: float
    runs: list[int]
    gaps: list[int]
    end_offset: int  # the last stable offset as last answered by the broker; -1: never answered
    stable_offset: int = -1  # the last stable offset in the answer that `as_of` rests on; -1: none yet
    incarnation: int = 0


class SeenTopic(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How far one topic was seen, as columns by partition; see `Seen`.

    `end_offsets`: as last answered by the broker; -1: never answered. `stable_offsets`: the last stable offset in the
    answer that `as_of` rests on, a validator's only (a monitor's list is empty); -1: none yet. `outages`: (partition,
    moment) where the broker gave no answer from that moment until the `as_of`.
    """

    topic: str
    incarnation: int
    partitions: list[int]
    as_ofs: list[float]
    end_offsets: list[int]
    stable_offsets: list[int]
    outages: list[tuple[int, float]]


class Seen(msgspec.Struct, array_like=True, tag=16, frozen=True, gc=False):
    """How far a view has seen its partitions: about one message a reader and second, for all that have advanced.

    `as_of` is the latest moment before which nothing unread can exist in the partition; all records below that were
    sent before this message. Records and gaps travel in `Sightings` and `Coverage`.
    """

    view: View
    topics: list[SeenTopic]


class PartitionStart(msgspec.Struct, array_like=True, frozen=True):
    """A partition that the configured topics name, and where to start in it.

    `topic_id` tells a topic from another one of the same name ("": not known, take the first that is seen). The scout
    leaves `incarnation` to the ledger, which counts the ids of a name.
    """

    topic: str
    partition: int
    start_offset: int
    # In an Assign: the moment up to which the view has seen everything; 0: none yet. In a Discovery: a moment at which
    # there was no such partition; 0: none is known.
    as_of: float = 0.0
    incarnation: int = 0
    topic_id: str = ""


class Discovery(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """What the scout found in the cluster, asked at `asked_at`: the present partitions and which are new.

    `present` lists them by topic; nothing else could have carried events before `asked_at`. While the look is not
    `complete`, it says nothing. `topic_ids` (KIP-516) is true of the topics that it names, complete or not.
    """

    asked_at: float
    found: list[PartitionStart]
    present: dict[str, list[int]]
    problems: list[str]  # in words, for /readyz; replaces the former ones
    topic_ids: dict[str, str] = {}
    complete: bool = True


class Assign(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """Aggregator to reader: read these partitions from these offsets, also those that it reads already."""

    starts: list[PartitionStart]


class Pause(msgspec.Struct, array_like=True, tag=6, frozen=True):
    """Aggregator to validator: read no further in this partition (or do so again), the monitor is far behind."""

    topic: str
    partition: int
    paused: bool


class KnownPartitions(msgspec.Struct, array_like=True, tag=14, frozen=True):
    """Aggregator to the child with the scout: the partitions that it knows. The scout begins to look with this.

    `looked`: there was a complete look before, so every partition that is found now is newer than that look.
    """

    refs: list[PartitionRef]
    topic_ids: dict[str, str] = {}
    looked: bool = False


class CommitOffsets(msgspec.Struct, array_like=True, tag=15, frozen=True):
    """Aggregator to reader: a checkpoint with these positions is on disk; commit them to Kafka, for lag tools."""

    positions: list[PartitionStart]


class ChildStatus(msgspec.Struct, array_like=True, frozen=True):
    """A child process as the parent knows it. `restarts` counts over the parent's life."""

    name: str
    up: bool
    restarts: int


class Attach(msgspec.Struct, array_like=True, tag=7, frozen=True):
    """Parent to aggregator: this child has started, and the descriptor that comes with this is the line to it."""

    child: str


class Reloads(msgspec.Struct, array_like=True, frozen=True):
    """What became of the reloads over the parent's life. `good`: whether the latest was applied, or none was tried."""

    applied: int = 0
    refused: int = 0
    good: bool = True


class ChildrenStatus(msgspec.Struct, array_like=True, tag=8, frozen=True):
    """Parent to aggregator: how its children are, and its reloads."""

    children: list[ChildStatus]
    reloads: Reloads = Reloads()


class Stop(msgspec.Struct, array_like=True, tag=9, frozen=True):
    """Parent to aggregator: all other children have stopped; take in what they sent, and stop."""


class Reload(msgspec.Struct, array_like=True, tag=12, frozen=True):
    """Parent to aggregator: adopt another config; the descriptor that comes with this is a memory file with it."""


class UpdateReaderSettings(msgspec.Struct, array_like=True, tag=13, frozen=True):
    """Aggregator to reader: the new values of these keys of the config."""

    log_level: str
    log_format: str
    batch_records: int
    queue_batches: int
    value_bytes: int
    future_tolerance_s: float


class Report(msgspec.Struct, array_like=True, tag=11, frozen=True):
    """Aggregator to parent: whether it serves HTTP, and in one line for the operator how things are."""

    serving: bool
    status: str


FromParent = Attach | ChildrenStatus | Reload | Stop
FromAggregator = Report
FromChild = Sightings | Coverage | Seen | Discovery
ToReader = Assign | Pause | KnownPartitions | CommitOffsets | UpdateReaderSettings


class CheckpointHealth(NamedTuple):
    """How checkpoints fare. `written_at`: when the last good one was, 0 before the first; the next two are of that one.

    `failures` and `fallbacks` (those passed over at the start: damaged or too new) count over the aggregator's life.
    One is due every `every_s` seconds; 0: none are written.
    """

    written_at: float
    bytes: int
    duration_s: float
    failures: int
    fallbacks: int
    every_s: float
