"""What Kafka's own log dump says of each record: the oracle that knows nothing of the daemon.

`kafka.tools.DumpLogSegments` prints the segment files of a partition batch by batch, with each record's payload and the
control records that ended each Kafka transaction. From these lines alone every record has its verdict: what a producer
wrote in a transaction goes as the next marker of that producer says; what a transaction has no marker for is open, and
it and all that lies behind it is *pending* to a read_committed consumer, committed or not; the rest is committed.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from txninsightd.tools.stack.broker import Broker
from txninsightd.vocabulary import PartitionRef, Verdict

BATCH = re.compile(r"producerId: (-?\d+) .* isTransactional: (true|false) isControl: (true|false) ")
RECORD = re.compile(r"\| offset: (\d+) (?:CreateTime|LogAppendTime): (-?\d+) ")
PAYLOAD = " payload: "
MARKER = " endTxnMarker: "
KINDS = ("transaction_open", "step_open", "step_done", "transaction_close")


class RecordId(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int


class LogEntry(NamedTuple):
    """What is known of one record; `record_ts` in epoch seconds."""

    txn_id: str
    kind: str
    verdict: Verdict
    record_ts: float


class Ended(NamedTuple):
    """A Kafka transaction in one partition: its first record, its marker, and the marker's timestamp."""

    first_offset: int
    marker_offset: int
    ended_at: float


class Log:
    """One partition's log while it is read."""

    def __init__(self, ref: PartitionRef) -> None:
        self.ref = ref
        self.producers: list[int] = []
        self.ended: list[Ended] = []
        self._records: dict[int, tuple[str, float]] = {}
        self._open: dict[int, list[int]] = {}
        self._aborted: set[int] = set()

    def record(self, offset: int, record_ts: float, producer_id: int, transactional: bool, payload: str) -> None:
        """A data record."""
        self._records[offset] = payload, record_ts
        self.producers.append(producer_id)
        if transactional:
            self._open.setdefault(producer_id, []).append(offset)

    def marker(self, offset: int, record_ts: float, producer_id: int, word: str) -> None:
        """The end of a producer's transaction."""
        offsets = self._open.pop(producer_id, [])
        if offsets:
            self.ended.append(Ended(offsets[0], offset, record_ts))
        if word == "ABORT":
            self._aborted.update(offsets)

    def decided_at(self, offset: int) -> float:
        """When the last stable offset passed a decided record: all transactions that were open then had ended."""
        return max((e.ended_at for e in self.ended if e.first_offset <= offset < e.marker_offset), default=0.0)

    def verdicts(self) -> dict[int, Verdict]:
        """By offset, what becomes of each data record."""
        stable = min((offsets[0] for offsets in self._open.values()), default=None)
        verdicts = {}
        for offset in self._records:
            verdicts[offset] = Verdict.ABORTED if offset in self._aborted else Verdict.COMMITTED
            if stable is not None and offset >= stable:
                verdicts[offset] = Verdict.PENDING
        return verdicts

    def payload(self, offset: int) -> str:
        """What a data record holds."""
        return self._records[offset][0]

    def entries(self, events_only: bool = False) -> dict[RecordId, LogEntry]:
        """All data records, each an event; with `events_only`, other records are left out."""
        entries = {}
        for offset, verdict in self.verdicts().items():
            payload, record_ts = self._records[offset]
            event = _event(payload) if events_only else json.loads(payload)
            if event is None:
                continue
            record_id = RecordId(self.ref.topic, self.ref.partition, offset)
            entries[record_id] = LogEntry(event["txn_id"], event["event"], verdict, record_ts)
        return entries


def read_logs(broker: Broker, topics: Iterable[str]) -> list[Log]:
    """The partitions of these topics as they lie on the broker's disk."""
    files = [str(f) for topic in topics for f in sorted(broker.log_dir.glob(f"{topic}-[0-9]*/*.log")) if _of(f, topic)]
    dump = broker.run_tool("kafka.tools.DumpLogSegments", "--print-data-log", "--files", ",".join(files))
    return parse(dump.splitlines())


def _event(payload: str) -> dict[str, Any] | None:
    """The event in a record; None for any other record."""
    try:
        event = json.loads(payload)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.get("event") in KINDS else None


def log_entries(logs: Iterable[Log], events_only: bool = False) -> dict[RecordId, LogEntry]:
    """All records of all partitions."""
    return {record_id: entry for log in logs for record_id, entry in log.entries(events_only).items()}


def _of(file: Path, topic: str) -> bool:
    return file.parent.name.rpartition("-")[0] == topic


def parse(lines: Iterable[str]) -> list[Log]:
    """Read the dump of one or more segments; those of one partition in ascending order."""
    logs: dict[PartitionRef, Log] = {}
    log = None
    producer_id, transactional, control = -1, False, False
    for line in lines:
        if line.startswith("Dumping "):
            topic, _, partition = Path(line.removeprefix("Dumping ")).parent.name.rpartition("-")
            ref = PartitionRef(topic, int(partition))
            log = logs.setdefault(ref, Log(ref))
        elif line.startswith("baseOffset: "):
            batch = BATCH.search(line)
            assert batch is not None, f"not understood: {line}"
            producer_id, transactional, control = int(batch[1]), batch[2] == "true", batch[3] == "true"
        elif line.startswith("| offset: "):
            assert log is not None
            record = RECORD.match(line)
            assert record is not None, f"not understood: {line}"
            offset, record_ts = int(record[1]), int(record[2]) / 1000
            if control:
                log.marker(offset, record_ts, producer_id, line.partition(MARKER)[2].split()[0])
            else:
                log.record(offset, record_ts, producer_id, transactional, line.partition(PAYLOAD)[2])
    return list(logs.values())


# --- What the daemon says ---------------------------------------------------------------------------------------------


class ReportedEvent(NamedTuple):
    """What the daemon says of one record."""

    txn_id: str
    kind: str
    verdict: str


def reported_events(details: Iterable[Mapping[str, Any]]) -> list[tuple[RecordId, ReportedEvent]]:
    """All events of all timelines, as they come."""
    return [
        (RecordId(e["topic"], e["partition"], e["offset"]), ReportedEvent(detail["txn_id"], e["kind"], e["verdict"]))
        for detail in details
        for e in detail["timeline"]
    ]


def differences(entries: Mapping[RecordId, LogEntry], reported: Iterable[tuple[RecordId, ReportedEvent]]) -> list[str]:
    """In words, each record that is missing, told twice, not in the log, or told otherwise than the log has it."""
    found = []
    told: set[RecordId] = set()
    for record_id, event in reported:
        entry = entries.get(record_id)
        if record_id in told:
            found.append(f"{record_id} is told twice, the second time as {event}")
        elif entry is None:
            found.append(f"{record_id} is not in the log, but told as {event}")
        elif event != (entry.txn_id, entry.kind, entry.verdict.value):
            found.append(f"{record_id} is {entry}, but told as {event}")
        told.add(record_id)
    return found + [f"{record_id} is {entries[record_id]}, but not told" for record_id in entries.keys() - told]
