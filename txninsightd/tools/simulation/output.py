"""The lines of events.jsonl: what is written, in the order of `at`.

A line is a record (`topic`, `partition`, `key`, `producer`, and `value` or `raw`; neither is a tombstone), or a control
line (`producer`, `kafka`). The first line is a header with what a replayer needs to know. `Shape` puts an event into
the words of a topic's mapping, which is written as in the daemon's config.
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
    """A record. `raw` is base64; `partition` is where the truth takes it to be written."""

    at: float
    topic: str
    partition: int
    key: str | None
    producer: str
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    value: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    raw: str | msgspec.UnsetType = msgspec.UNSET


class ControlLine(msgspec.Struct):
    """What a producer does with its Kafka transaction: begin, commit, abort, crash."""

    at: float
    producer: str
    kafka: str


class Said(NamedTuple):
    """What an event says. `ts` is in epoch seconds; None fields are left out."""

    kind: Kind
    txn_id: str
    ts: float
    txn_type: str
    step: str | None
    status: str | None


def partition_of(key: str, partitions: int) -> int:
    """Where a key goes. Not Kafka's own hash: the line says the partition, and the replayer obeys."""
    return crc32(key.encode()) % partitions


class Lines:
    """Encodes lines and counts them. `write` gets whole lines as bytes."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._encode = msgspec.json.Encoder().encode
        self.count = 0
        self.last_at = 0.0
        self.tick: tuple[int, Callable[[float, int], object]] = (1, lambda at, count: None)
        """After so many lines, call this with the present `at` and count."""

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
        every, tell = self.tick
        if self.count % every == 0:
            tell(line.at, self.count)


def _topic_facts(topic: Topic) -> dict[str, Any]:
    path = _spec(topic.mapping, "ts")["path"]
    return {"partitions": topic.partitions, "ts_path": path, "ts_unit": topic.mapping.get("ts_unit", "s")}


def _spec(mapping: dict[str, Any], field: str) -> dict[str, Any]:
    spec = mapping.get(field, field)
    return {"path": spec} if isinstance(spec, str) else spec


class Shape:
    """How events of one topic look. Fields that the mapping takes from a constant or from the key are not written."""

    def __init__(self, topic: Topic) -> None:
        kinds = {Kind(KIND_WORDS[ours]): theirs for theirs, ours in topic.mapping.get("kinds", {}).items()}
        specs = [(i, _spec(topic.mapping, field)) for i, field in enumerate(FIELDS)]
        self._words = {kind: kinds.get(kind, word) for kind, word in WORDS.items()}
        self._stamp = _stamps(topic)
        self._paths = [(i, spec["path"].split(".")) for i, spec in specs if "path" in spec]
        self._id_header = _spec(topic.mapping, "txn_id").get("header")
        self._is_plain = not topic.mapping

    def fill(self, line: RecordLine, said: Said) -> None:
        """Put an event into a line: its value, and the header where the mapping reads the txn_id from one."""
        # In the order of FIELDS, by which paths find them.
        texts = (self._words[said.kind], said.txn_id, self._stamp(said.ts), said.txn_type, said.step, said.status)
        if self._is_plain:
            line.value = {field: text for field, text in zip(FIELDS, texts, strict=True) if text is not None}
            return
        line.value = {}
        for i, names in self._paths:
            if texts[i] is not None:
                _put(line.value, names, texts[i])
        if self._id_header is not None:
            line.headers = {self._id_header: said.txn_id}


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

NOISE: dict[str, tuple[str, bytes | None]] = {
    "truncated": ("malformed", b'{"event":"step_open","txn_id":"half-a-line'),
    "not_utf8": ("malformed", b'{"event":"step_open","txn_id":"\xff\xfe\xc3"}'),
    "too_deep": ("malformed", b'{"event":"step_open","txn_id":"deep","data":' + b"[" * 20_000),
    "empty": ("malformed", b""),
    "wrong_type": ("malformed", b'{"event":"step_open","txn_id":"odd","ts":{"seconds":12}}'),
    "tombstone": ("foreign", None),
    "heartbeat": ("foreign", b'{"event":"heartbeat","txn_id":"nobody","ts":1750000000}'),
    "other_json": ("foreign", b'{"temperature":21.5,"sensor":"hall"}'),
}
"""Records that are no events of ours, by name: what the daemon must count them as, and their bytes."""

OVERSIZED = "oversized"


def noise_of(word: str, value_bytes: int) -> tuple[str, bytes | None]:
    """What a kind of noise counts as, and its value. An oversized one is a good event but for its size."""
    if word == OVERSIZED:
        head, tail = b'{"event":"step_open","txn_id":"huge","padding":"', b'"}'
        return OVERSIZED, head + b"x" * (value_bytes + 1 - len(head) - len(tail)) + tail
    result, value = NOISE[word]
    return (OVERSIZED if value is not None and len(value) > value_bytes else result), value


def raw_text(value: bytes | None) -> str | msgspec.UnsetType:
    """A value as a line's `raw`; left out for a tombstone."""
    return msgspec.UNSET if value is None else b64encode(value).decode()
