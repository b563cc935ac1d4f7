"""Reads events.jsonl: one JSON object per line. A bad line is reported with its number and the error.

There are four kinds of lines. A *header* (`{"header": {...}}`, only as the first line) has settings for the replayer. A
*record* (`{"at", "producer", "topic", ...}`) is one Kafka record. A *control* line (`{"at", "producer", "kafka"}`) is a
step of its producer's Kafka transaction. Any other object is a *plain event*: the whole line is the value, its
timestamp is the time, and options give topic and key. events.schema.json has the same as a JSON Schema.

msgspec decodes record and control lines in one pass and rejects unknown fields, which finds misspelt keys. Only if that
fails, a slower path tells plain events from broken records. Values are not decoded here: their bytes go to the broker
as they are in the file.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from txninsightd.tools.replaying.timestamps import DEFAULT_TS_PATHS, epoch_s, value_at

PLAIN_PRODUCER = "plain events"
"""The name of the one producer that publishes all plain event lines."""

_RECORD_KEYS = {"producer", "topic", "kafka"}


class Action(StrEnum):
    """The action of a control line."""

    BEGIN = "begin"
    COMMIT = "commit"
    ABORT = "abort"
    CRASH = "crash"


class TopicFacts(msgspec.Struct, frozen=True):
    """A header's settings of a topic: its number of partitions, and the dotted path of its events' timestamp."""

    partitions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    ts_path: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class Header(msgspec.Struct, frozen=True):
    """Settings for the replayer; other keys in the header are ignored.

    `epoch` is the time (epoch seconds) of `at` 0, for files in which `at` counts from 0.
    """

    transaction_timeout_s: Annotated[float, msgspec.Meta(ge=1)] | None = None
    epoch: float | None = None
    topics: dict[str, TopicFacts] = {}


# Tagged arrays: batches of both kinds of lines go to the process of a crashing producer (crashing_producer.py).
class Record(msgspec.Struct, frozen=True, array_like=True, tag="r", gc=False):
    """One Kafka record to publish at `at` (seconds). `holds_json`: its timestamps may be shifted."""

    at: float
    producer: str
    topic: str
    key: str | None = None
    payload: bytes | None = None
    headers: dict[str, str] | None = None
    partition: int | None = None
    holds_json: bool = True


class Control(msgspec.Struct, frozen=True, array_like=True, tag="c", gc=False):
    """A step of `producer`'s Kafka transaction, at `at` (seconds)."""

    at: float
    producer: str
    action: Action


@dataclass(frozen=True)
class BadLine:
    """The error of a line."""

    reason: str


@dataclass(frozen=True)
class PlainEvents:
    """How plain event lines are published: their topic, the paths of their time, and the path of their key."""

    topic: str | None = None
    ts_paths: tuple[str, ...] = DEFAULT_TS_PATHS
    key_path: str = "txn_id"


Line = Header | Record | Control

_NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class _RawLine(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A record or control line as in the file."""

    at: Annotated[float, msgspec.Meta(ge=0)]
    producer: _NonEmpty
    topic: _NonEmpty | UnsetType = UNSET
    key: str | UnsetType | None = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    value: msgspec.Raw | UnsetType = UNSET
    raw: str | UnsetType = UNSET
    partition: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | UnsetType = UNSET
    kafka: Action | UnsetType = UNSET


_raw_line = msgspec.json.Decoder(_RawLine)
_anything = msgspec.json.Decoder()


def read_lines(lines: Iterable[bytes], plain: PlainEvents) -> Iterator[tuple[int, Line | BadLine]]:
    """Each non-blank line with its number, from 1. Raises nothing for a line's content."""
    first = True
    for number, text in enumerate(lines, 1):
        if text.isspace():
            continue
        yield number, parse_line(text, plain, header_allowed=first)
        first = False


def parse_line(text: bytes, plain: PlainEvents, *, header_allowed: bool = False) -> Line | BadLine:
    """Parse one line; returns its error as a BadLine."""
    try:
        return _record_or_control(_raw_line.decode(text))
    # Valid JSON of another form. It is also a ValueError, so this clause comes first.
    except msgspec.ValidationError as error:
        return _other_line(text, plain, header_allowed, str(error))
    except (ValueError, RecursionError) as error:
        return BadLine(_in_words(error))


def _record_or_control(line: _RawLine) -> Line | BadLine:
    if line.kafka is not UNSET:
        if any(
            each is not UNSET for each in (line.topic, line.key, line.headers, line.value, line.raw, line.partition)
        ):
            return BadLine("a control line has only `at`, `producer` and `kafka`")
        return Control(line.at, line.producer, line.kafka)
    if line.topic is UNSET:
        return BadLine("neither `topic` (a record) nor `kafka` (a control line)")
    if line.raw is not UNSET and line.value is not UNSET:
        return BadLine("both `value` and `raw`")
    try:
        payload = _value(line.value) if line.raw is UNSET else base64.b64decode(line.raw, validate=True)
    except binascii.Error as error:
        return BadLine(f"`raw` is not base64: {error}")
    return Record(
        line.at,
        line.producer,
        line.topic,
        None if line.key is UNSET else line.key,
        payload,
        None if line.headers is UNSET else line.headers,
        None if line.partition is UNSET else line.partition,
        line.raw is UNSET,
    )


def _value(written: msgspec.Raw | UnsetType) -> bytes | None:
    # A missing value and null are both tombstones.
    text = b"null" if written is UNSET else bytes(written)
    return None if text == b"null" else text


def _other_line(text: bytes, plain: PlainEvents, header_allowed: bool, why_no_record: str) -> Line | BadLine:
    try:
        line = _anything.decode(text)
    except (ValueError, RecursionError) as error:
        return BadLine(_in_words(error))
    if not isinstance(line, dict):
        return BadLine("not a JSON object")
    if line.keys() == {"header"}:
        return _header(line["header"]) if header_allowed else BadLine("a header is only allowed in the first line")
    # It is meant as a record or control line, so that error is more helpful.
    if "at" in line and _RECORD_KEYS & line.keys():
        return BadLine(why_no_record)
    return _plain_event(text, line, plain)


def _header(settings: object) -> Header | BadLine:
    try:
        return msgspec.convert(settings, Header)
    except msgspec.ValidationError as error:
        return BadLine(f"header: {error}")


def _plain_event(text: bytes, event: dict[str, Any], plain: PlainEvents) -> Record | BadLine:
    times = (epoch_s(value_at(event, path)) for path in plain.ts_paths)
    at = next((time for time in times if time is not None and time >= 0), None)
    if at is None:
        return BadLine(
            f"no time: a record or control line needs `at` and `producer`, a plain event a time at {_named(plain)}"
        )
    if plain.topic is None:
        return BadLine("a plain event line without a topic: give one with --topic")
    key = value_at(event, plain.key_path)
    return Record(at, PLAIN_PRODUCER, plain.topic, key if key is None else str(key), text.strip())


def _named(plain: PlainEvents) -> str:
    return " or ".join(f"`{path}`" for path in plain.ts_paths)


def _in_words(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"
