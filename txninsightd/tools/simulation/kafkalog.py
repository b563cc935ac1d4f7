"""A model of the broker's log, just deep enough to know when each record's fate is decided.

Each partition holds the Kafka transactions that are open in it, in the order of their first records there; the first
of them holds the last stable offset (LSO). A record is decided when the LSO passes it: a plain one too, and one whose
own producer committed long ago. That is how a single hanging producer freezes everybody's closes behind it, and truth
has to know.

Offsets here count records alone. The real ones also count the markers of each commit and abort; only their order is
used, and that is the same.
"""

from collections import deque
from typing import Protocol

from txninsightd.vocabulary import Kind

PENDING = float("inf")


class Owner(Protocol):
    """Who wants to know when all its records are decided."""

    undecided: int

    def all_decided(self) -> None:
        """The last undecided record was decided."""


class KafkaTransaction:
    """One producer's begin ... commit or abort. `ending` is None while it is open."""

    __slots__ = ("began_at", "ending", "firsts")

    def __init__(self) -> None:
        self.began_at: float | None = None  # when its first record was written: from here the broker's time-out runs
        self.ending: str | None = None
        self.firsts: dict[Partition, int] = {}


class Record:
    """One event in the log. Moments are virtual seconds since the epoch.

    `decided_at` is the moment at which the LSO passed it (PENDING before), known to plus or minus `slack_s`;
    `at_lso_from` the moment from which the LSO stood exactly at it, if it ever did before it was passed.
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
        """Whether its Kafka transaction was aborted; before `decided_at` nobody who reads can know."""
        return self.kafka is not None and self.kafka.ending == "abort"


class Partition:
    """One partition: its end, who is open in it, and the records that are not decided yet."""

    __slots__ = ("end", "index", "open", "topic", "undecided")

    def __init__(self, topic: str, index: int) -> None:
        self.topic = topic
        self.index = index
        self.end = 0
        self.open: dict[KafkaTransaction, int] = {}
        self.undecided: deque[Record] = deque()

    def append(self, record: Record, now: float) -> None:
        """Write a record at the end."""
        record.partition = self
        record.offset = offset = self.end
        self.end += 1
        # First, so that a transaction's own record finds it open, and waits.
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
        """Write a plain record that belongs to no transaction."""
        self.end += 1

    def _joined(self, kafka: KafkaTransaction, offset: int, now: float) -> None:
        if self not in kafka.firsts:
            kafka.firsts[self] = offset
            self.open[kafka] = offset
        if kafka.began_at is None:
            kafka.began_at = now

    def _lso(self) -> int:
        # In the order in which they came here, so the first holds all others back.
        return next(iter(self.open.values()), self.end)

    def ended(self, kafka: KafkaTransaction, now: float, slack_s: float) -> None:
        """The marker of a Kafka transaction that was open here was written."""
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
    """Commit or abort: write its marker into each partition that it touched."""
    # Before the markers: who hears `all_decided` asks at once what was aborted.
    kafka.ending = ending
    for partition in kafka.firsts:
        partition.ended(kafka, now, slack_s)
