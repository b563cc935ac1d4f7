"""The lines of events.jsonl, in the order of `at`.

A line is a record (`topic`, `partition`, `key`, `producer`, and `value` or `raw`; with neither it is a tombstone) or a
control line (`producer`, `kafka`). The first line is a header with settings for the replayer. `EventEncoder` encodes
events for a topic's mapping, which has the form of the daemon's config.
"""

from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from txninsightd.tools.simulation.scenario import Scenario, Topic
from txninsightd.vocabulary import KIND_WORDS, Kind

WORDS = {kind: word for word, kind in KIND_WORDS.items()}
FIELDS = ("event", "txn_id", "ts", "txn_type", "step", "status")


class RecordLine(msgspec.Struct, omit_defaults=True):
    """A record. `raw` is base64; the truth assumes that the record goes to `partition`."""

    at: float
    topic: str
    partition: int
    key: str | None
    producer: str
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    value: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    raw: str | msgspec.UnsetType = msgspec.UNSET


class ControlLine(msgspec.Struct):
    """A producer's action on its Kafka transaction: begin, commit, abort or crash."""

    at: float
    producer: str
    kafka: str


class EventFields(NamedTuple):
    """An event's fields. `ts` is in epoch seconds; fields with None are left out."""

    kind: Kind
    txn_id: str
    ts: float
    txn_type: str
    step: str | None
    status: str | None


def partition_of(key: str, partitions: int) -> int:
    """A key's partition. It need not be Kafka's own hash: the replayer writes to the partition in the line."""
    return crc32(key.encode()) % partitions


class Lines:
    """Encodes and counts lines. `write` gets whole lines as bytes."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._encode = msgspec.json.Encoder().encode
        self.count = 0
        self.last_at = 0.0
        self.progress: tuple[int, Callable[[float, int], object]] = (1, lambda at, count: None)
        """Every so many lines, call this with the present `at` and count."""

    def header(self, scenario: Scenario, seed: int) -> None:
        """The first line: settings for the replayer."""
        topics = {name: _topic_facts(topic) for name, topic in scenario.topics.items()}
        facts = {
            "scenario": scenario.name,
            "seed": seed,
            "epoch": scenario.epoch,
            "transaction_timeout_s": scenario.transaction_timeout_s,
            "topics": topics,
        }
        self._write(self._encode({"header": facts}) + b"\n")

    def put(self, line: RecordLine | ControlLine) -> None:
        """Write a line."""
        self.count += 1
        self.last_at = line.at
        self._write(self._encode(line) + b"\n")
        every, callback = self.progress
        if self.count % every == 0:
            callback(line.at, self.count)


def _topic_facts(topic: Topic) -> dict[str, Any]:
    path = _spec(topic.mapping, "ts")["path"]
    return {"partitions": topic.partitions, "ts_path": path, "ts_unit": topic.mapping.get("ts_unit", "s")}


def _spec(mapping: dict[str, Any], field: str) -> dict[str, Any]:
    spec = mapping.get(field, field)
    return {"path": spec} if isinstance(spec, str) else spec


class EventEncoder:
    """Encodes events for one topic. Fields that the mapping takes from a constant or from the key are not written."""

    def __init__(self, topic: Topic) -> None:
        kinds = {Kind(KIND_WORDS[ours]): theirs for theirs, ours in topic.mapping.get("kinds", {}).items()}
        specs = [(i, _spec(topic.mapping, field)) for i, field in enumerate(FIELDS)]
        self._words = {kind: kinds.get(kind, word) for kind, word in WORDS.items()}
        self._stamp = _stamps(topic)
        self._paths = [(i, spec["path"].split(".")) for i, spec in specs if "path" in spec]
        self._id_header = _spec(topic.mapping, "txn_id").get("header")
        self._is_plain = not topic.mapping

    def encode_into(self, line: RecordLine, fields: EventFields) -> None:
        """Encode an event into a line: the value, and a header if the mapping reads the txn_id from one."""
        # In the order of FIELDS: `_paths` refers to positions.
        texts = (
            self._words[fields.kind],
            fields.txn_id,
            self._stamp(fields.ts),
            fields.txn_type,
            fields.step,
            fields.status,
        )
        if self._is_plain:
            line.value = {field: text for field, text in zip(FIELDS, texts, strict=True) if text is not None}
            return
        line.value = {}
        for i, names in self._paths:
            if texts[i] is not None:
                _put(line.value, names, texts[i])
        if self._id_header is not None:
            line.headers = {self._id_header: fields.txn_id}


def _put(value: dict[str, Any], names: list[str], text: object) -> None:
    for name in names[:-1]:
        value = value.setdefault(name, {})
    value[names[-1]] = text


def _stamps(topic: Topic) -> Callable[[float], float | int | str]:
    if topic.ts_format == "rfc3339":
        return lambda ts: datetime.fromtimestamp(ts, UTC).isoformat().replace("+00:00", "Z")
    if topic.mapping.get("ts_unit") == "ms":
        return lambda ts: round(ts * 1000, 3)
    return lambda ts: ts


# --- Noise ------------------------------------------------------------------------------------------------------------

NOISE_RECORDS: dict[str, tuple[str, bytes | None]] = {
    "truncated": ("malformed", b'{"event":"step_open","txn_id":"half-a-line'),
    "not_utf8": ("malformed", b'{"event":"step_open","txn_id":"\xff\xfe\xc3"}'),
    "too_deep": ("malformed", b'{"event":"step_open","txn_id":"deep","data":' + b"[" * 20_000),
    "empty": ("malformed", b""),
    "wrong_type": ("malformed", b'{"event":"step_open","txn_id":"odd","ts":{"seconds":12}}'),
    "tombstone": ("foreign", None),
    "heartbeat": ("foreign", b'{"event":"heartbeat","txn_id":"none","ts":1750000000}'),
    "other_json": ("foreign", b'{"temperature":21.5,"sensor":"hall"}'),
}
"""Records that are not our events, by name: the result that the daemon must count, and their bytes."""

OVERSIZED = "oversized"


def noise_of(word: str, value_bytes: int) -> tuple[str, bytes | None]:
    """The result and the value of a kind of noise. An oversized record is valid except for its size."""
    if word == OVERSIZED:
        head, tail = b'{"event":"step_open","txn_id":"huge","padding":"', b'"}'
        return OVERSIZED, head + b"x" * (value_bytes + 1 - len(head) - len(tail)) + tail
    result, value = NOISE_RECORDS[word]
    return (OVERSIZED if value is not None and len(value) > value_bytes else result), value


def raw_text(value: bytes | None) -> str | msgspec.UnsetType:
    """A value as a line's `raw`; left out for a tombstone."""
    return msgspec.UNSET if value is None else b64encode(value).decode()
