"""A model of the broker's log that knows when each record is decided.

Each partition has a list of its open Kafka transactions, ordered by their first records there. The first of them holds
the last stable offset (LSO). A record is decided when the LSO passes it. That also holds for plain records and for
records of producers that committed long ago: one hanging producer delays all closes behind it.

Offsets here count only records. Real offsets also count commit and abort markers. The order is the same, and only the
order matters here.
"""

from collections import deque
from typing import Protocol

from txninsightd.vocabulary import Kind

PENDING = float("inf")


class Owner(Protocol):
    """Gets a callback when all its records are decided."""

    undecided: int

    def all_decided(self) -> None:
        """The last undecided record is now decided."""


class KafkaTransaction:
    """One producer's begin ... commit or abort. `ending` is None while it is open."""

    __slots__ = ("began_at", "ending", "first_offsets")

    def __init__(self) -> None:
        self.began_at: float | None = None  # when its first record was written; the broker's time-out starts here
        self.ending: str | None = None
        self.first_offsets: dict[Partition, int] = {}


class Record:
    """One event in the log. Times are virtual seconds since the epoch.

    `decided_at`: when the LSO passed it (PENDING before), to plus or minus `slack_s`. `at_lso_from`: since when the LSO
    was exactly at it, if ever.
    """

    __slots__ = (
        "at",
        "at_lso_from",
        "decided_at",
        "future",
        "kafka",
        "kind",
        "offset",
        "owner",
        "partition",
        "slack_s",
        "status",
        "step",
        "ts",
    )

    def __init__(
        self,
        owner: Owner,
        kind: Kind,
        step: str | None,
        status: str | None,
        ts: float,
        at: float,
        future: bool,
        kafka: KafkaTransaction | None,
    ) -> None:
        self.owner = owner
        self.kind = kind
        self.step = step
        self.status = status
        self.ts = ts
        self.at = at
        self.future = future
        self.kafka = kafka
        self.decided_at = PENDING
        self.slack_s = 0.0
        self.at_lso_from = PENDING

    partition: "Partition"
    offset: int

    @property
    def aborted(self) -> bool:
        """Whether its Kafka transaction was aborted. No reader can know it before `decided_at`."""
        return self.kafka is not None and self.kafka.ending == "abort"


class Partition:
    """One partition: its end, its open Kafka transactions, and its undecided records."""

    __slots__ = ("end", "index", "open", "topic", "undecided")

    def __init__(self, topic: str, index: int) -> None:
        self.topic = topic
        self.index = index
        self.end = 0
        self.open: dict[KafkaTransaction, int] = {}
        self.undecided: deque[Record] = deque()

    def append(self, record: Record, now: float) -> None:
        """Append a record."""
        record.partition = self
        record.offset = offset = self.end
        self.end += 1
        # Join first: the record also waits for its own transaction.
        if record.kafka is not None:
            self._joined(record.kafka, offset, now)
        if not self.open:
            record.decided_at = now
            return
        self.undecided.append(record)
        record.owner.undecided += 1
        if self._lso() == offset:
            record.at_lso_from = now

    def append_foreign(self) -> None:
        """Append a plain record that belongs to no business transaction."""
        self.end += 1

    def _joined(self, kafka: KafkaTransaction, offset: int, now: float) -> None:
        if self not in kafka.first_offsets:
            kafka.first_offsets[self] = offset
            self.open[kafka] = offset
        if kafka.began_at is None:
            kafka.began_at = now

    def _lso(self) -> int:
        # Insertion order: the first open transaction holds the LSO.
        return next(iter(self.open.values()), self.end)

    def ended(self, kafka: KafkaTransaction, now: float, slack_s: float) -> None:
        """Apply the end marker of a Kafka transaction that was open here."""
        del self.open[kafka]
        lso = self._lso()
        while self.undecided and self.undecided[0].offset < lso:
            record = self.undecided.popleft()
            record.decided_at = now
            record.slack_s = slack_s
            record.owner.undecided -= 1
            if not record.owner.undecided:
                record.owner.all_decided()
        if self.undecided and self.undecided[0].offset == lso:
            self.undecided[0].at_lso_from = min(self.undecided[0].at_lso_from, now)


def end(kafka: KafkaTransaction, ending: str, now: float, slack_s: float = 0.0) -> None:
    """Commit or abort: write a marker into each partition that it touched."""
    # Set it before the markers: `all_decided` callbacks read it.
    kafka.ending = ending
    for partition in kafka.first_offsets:
        partition.ended(kafka, now, slack_s)
