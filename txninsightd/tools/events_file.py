"""Reading events.jsonl: one JSON object a line, and a bad line named by its number and what is wrong with it.

Four kinds of line. A *header* (`{"header": {...}}`, only as the first line) carries settings for the replayer. A
*record* (`{"at", "producer", "topic", ...}`) is one Kafka record, a *control* (`{"at", "producer", "kafka"}`) a step of
its producer's Kafka transaction. Any other object is a *plain event*: the whole line is the value, its timestamp
is the time, and topic and key come from options. events.schema.json says the same as a JSON Schema.

Record and control lines are decoded in one pass by msgspec and refuse unknown fields, so that a misspelt word is
found; the slower way round, which tells plain events from broken records, is taken only when that fails. A value is
never decoded here: its bytes go to the broker as they stand in the file.
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
"""All plain event lines are published by one producer of this name."""

_RECORD_WORDS = {"producer", "topic", "kafka"}


class Action(StrEnum):
    """What a control line tells its producer to do."""

    BEGIN = "begin"
    COMMIT = "commit"
    ABORT = "abort"
    CRASH = "crash"


class TopicFacts(msgspec.Struct, frozen=True):
    """What a header says of a topic: how many partitions it had, and the dotted path of its events' timestamp."""

    partitions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    ts_path: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class Header(msgspec.Struct, frozen=True):
    """Settings for the replayer; other words in it are left to other readers.

    `epoch` is the moment (epoch seconds) of `at` 0, for files whose `at` counts from 0.
    """

    transaction_timeout_s: Annotated[float, msgspec.Meta(ge=1)] | None = None
    epoch: float | None = None
    topics: dict[str, TopicFacts] = {}


# Tagged, and an array: batches of both kinds of line cross to the process of a producer that will crash (doomed.py).
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
    """Why a line cannot be used, in words."""

    reason: str


@dataclass(frozen=True)
class PlainEvents:
    """How plain event lines are published: their topic, where their time stands, and where their key."""

    topic: str | None = None
    ts_paths: tuple[str, ...] = DEFAULT_TS_PATHS
    key_path: str = "txn_id"


Line = Header | Record | Control

_Word = Annotated[str, msgspec.Meta(min_length=1)]


class _Written(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A record or control line as it is written."""

    at: Annotated[float, msgspec.Meta(ge=0)]
    producer: _Word
    topic: _Word | UnsetType = UNSET
    key: str | UnsetType | None = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    value: msgspec.Raw | UnsetType = UNSET
    raw: str | UnsetType = UNSET
    partition: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | UnsetType = UNSET
    kafka: Action | UnsetType = UNSET


_written = msgspec.json.Decoder(_Written)
_anything = msgspec.json.Decoder()


def read_lines(lines: Iterable[bytes], plain: PlainEvents) -> Iterator[tuple[int, Line | BadLine]]:
    """Each line that is not blank, with its number from 1. Raises nothing for what stands in a line."""
    first = True
    for number, text in enumerate(lines, 1):
        if text.isspace():
            continue
        yield number, parse_line(text, plain, header_allowed=first)
        first = False


def parse_line(text: bytes, plain: PlainEvents, *, header_allowed: bool = False) -> Line | BadLine:
    """One line, understood, or why it is not."""
    try:
        return _record_or_control(_written.decode(text))
    # Sound JSON of another form. It is a ValueError as well, so it stands first.
    except msgspec.ValidationError as error:
        return _other_line(text, plain, header_allowed, str(error))
    except (ValueError, RecursionError) as error:
        return BadLine(_in_words(error))


def _record_or_control(line: _Written) -> Line | BadLine:
    if line.kafka is not UNSET:
        if any(
            each is not UNSET for each in (line.topic, line.key, line.headers, line.value, line.raw, line.partition)
        ):
            return BadLine("a control line has `at`, `producer` and `kafka`, and nothing else")
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
    # No value and null are both a tombstone.
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
    # Meant as a record or a control line: what is wrong with that says more.
    if "at" in line and _RECORD_WORDS & line.keys():
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
        return BadLine("a plain event line, and no topic for it: name one with --topic")
    key = value_at(event, plain.key_path)
    return Record(at, PLAIN_PRODUCER, plain.topic, key if key is None else str(key), text.strip())


def _named(plain: PlainEvents) -> str:
    return " or ".join(f"`{path}`" for path in plain.ts_paths)


def _in_words(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"
