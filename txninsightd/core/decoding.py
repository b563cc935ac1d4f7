"""Decodes one record into an event, or into the name of what is wrong with it. Nothing is ever raised.

A `Mapping` says where each field stands in other people's JSON. From it a msgspec Struct is made that has just those
fields, so that everything else in a record is skipped without being built. Too large: `oversized`. Readable, but
without a kind that we know (tombstones too): `foreign`. All else that cannot be read as an event: `malformed`; so is
what is too long to be an id or a label, since all that is kept of an event must have a bound.
"""

from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any

import msgspec

from txninsightd.vocabulary import FromConst, FromHeader, FromKey, FromPath, Kind, Mapping, RecordResult, Signature

MOST_ID_CHARS = 1024
"""A record with a longer txn_id is malformed."""

MOST_LABEL_CHARS = 256
"""A record with a longer type, step or status is malformed."""

MOST_SIGNATURES = 10_000
"""As many distinct signatures are kept at a time."""

LATEST_TS = 253_402_300_800.0
"""The year 10000: a larger number of seconds is a number of something else."""

Headers = list[tuple[str, bytes | None]] | None


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """An event. `ts` is in epoch seconds. A decoder gives the same object for equal signatures, as long as it can."""

    txn_id: str
    signature: Signature
    ts: float


class _Unreadable(Exception):
    """A field has the wrong type or an impossible value."""


class Decoder:
    """Reads the records of one topic. `decode` takes the record's value, key, headers and timestamp (epoch seconds)."""

    def __init__(self, mapping: Mapping, value_bytes: int, future_tolerance_s: float) -> None:
        self._value_bytes = value_bytes
        self._future_tolerance_s = future_tolerance_s
        self._kinds = mapping.kinds
        self._ts_divisor = 1000.0 if mapping.ts_unit == "ms" else 1.0
        self._txn_id_from = mapping.txn_id
        fields = (mapping.event, mapping.txn_id, mapping.ts, mapping.txn_type, mapping.step, mapping.status)
        types: tuple[Any, ...] = (Text, Text, float | str | None, Text, Text, Text)
        shape = _Shape()
        self._fields = attrgetter(*(shape.add(source, kind) for source, kind in zip(fields, types, strict=True)))
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(shape.struct()).decode
        self._signatures: dict[Words, tuple[Signature, Signature]] = {}

    def decode(
        self, value: bytes | None, key: bytes | None, headers: Headers, record_ts: float, kept_time: bool = False
    ) -> Decoded | RecordResult:
        """Never raises."""
        if value is None:
            return RecordResult.FOREIGN
        if len(value) > self._value_bytes:
            return RecordResult.OVERSIZED
        try:
            word, txn_id, ts, txn_type, step, status = self._fields(self._decode(value))
            words = (word, step, txn_type, status, kept_time)
            signatures = self._signatures.get(words)
            if signatures is None:
                # Checked before labels, ts and id: a record that is no event of ours is foreign, not malformed.
                kind = self._kinds.get(word)
                if kind is None:
                    return RecordResult.FOREIGN
                signatures = self._sign(kind, words)
            at = record_ts if ts is None else self._seconds(ts)
            txn_id = self._txn_id(txn_id, key, headers)
            if at > record_ts + self._future_tolerance_s:
                return Decoded(txn_id, signatures[1], record_ts)
            return Decoded(txn_id, signatures[0], at)
        # ValueError is the base of msgspec's errors and of bad UTF-8; deep nesting raises RecursionError.
        except (_Unreadable, ValueError, RecursionError, OverflowError):
            return RecordResult.MALFORMED

    def _sign(self, kind: Kind, words: "Words") -> tuple[Signature, Signature]:
        """The signature of these words, and that of an event that has them but is stamped in the future."""
        _, step, txn_type, status, kept_time = words
        # Labels are checked first, so that nothing is kept of one that is too long.
        said = (kind, _label(step), _label(txn_type), _label(status))
        # Bounded against ever new words; signatures in use are added again with their next record.
        if len(self._signatures) >= MOST_SIGNATURES:
            self._signatures.clear()
        self._signatures[words] = signatures = (Signature(*said, False, kept_time), Signature(*said, True, kept_time))
        return signatures

    def _txn_id(self, found: str | int | None, key: bytes | None, headers: Headers) -> str:
        source = self._txn_id_from
        if isinstance(source, FromPath):
            if found.__class__ is str and 0 < len(found) <= MOST_ID_CHARS:
                return found
        elif isinstance(source, FromKey):
            found = key.decode() if key is not None else None
        elif isinstance(source, FromHeader):
            # A header may occur twice: the last one counts, as with `Headers.lastHeader` of Kafka's own client.
            values = [value for name, value in headers or () if name == source.name and value is not None]
            found = values[-1].decode() if values else None
        txn_id = _text(found, MOST_ID_CHARS)
        if not txn_id:
            raise _Unreadable
        return txn_id

    def _seconds(self, ts: float | str) -> float:
        if isinstance(ts, str):
            moment = msgspec.convert(ts, datetime)
            # Without a zone the text names no moment.
            if moment.tzinfo is None:
                raise _Unreadable
            seconds = moment.timestamp()
        else:
            seconds = ts / self._ts_divisor
        if not 0 <= seconds < LATEST_TS:
            raise _Unreadable
        return seconds


Text = str | int | None
Words = tuple[Text, Text, Text, Text, bool]
"""What a record says of event, step, txn_type and status; and whether it was replayed with its original time."""


def _label(found: str | int | None) -> str | None:
    return _text(found, MOST_LABEL_CHARS)


def _text(found: str | int | None, most_chars: int) -> str | None:
    if found is None:
        return None
    text = found if isinstance(found, str) else str(found)
    if len(text) > most_chars:
        raise _Unreadable
    return text


class _Shape:
    """A tree of field names that becomes nested Structs. What is missing reads as None."""

    def __init__(self) -> None:
        self._constants: dict[str, Any] = {}
        self._leaves: dict[str, tuple[str, Any]] = {}
        self._branches: dict[str, tuple[str, _Shape]] = {}

    def add(self, source: FromPath | FromConst | FromKey | FromHeader, kind: Any) -> str:
        """Have a field read from its source; gives the attribute path under which it can be got."""
        if isinstance(source, FromPath):
            return self._add_path(source.names, kind)
        attribute = f"constant_{len(self._constants)}"
        self._constants[attribute] = source.value if isinstance(source, FromConst) else None
        return attribute

    def _add_path(self, names: tuple[str, ...], kind: Any) -> str:
        name, *rest = names
        if (name in self._branches) if not rest else (name in self._leaves):
            raise ValueError(f"the mapping reads `{name}` both as a value and as an object")
        if rest:
            attribute, branch = self._branches.setdefault(name, (f"branch_{len(self._branches)}", _Shape()))
            return f"{attribute}.{branch._add_path(tuple(rest), kind)}"
        # Two fields may be read from one place (say, ts and txn_id): the type must allow for both.
        attribute, known = self._leaves.get(name, (f"field_{len(self._leaves)}", kind))
        self._leaves[name] = (attribute, known | kind)
        return attribute

    def struct(self) -> type[msgspec.Struct]:
        """The Struct type of this level."""
        fields: list[tuple[str, Any, Any]] = []
        names = {}
        for name, (attribute, kind) in self._leaves.items():
            fields.append((attribute, kind, None))
            names[attribute] = name
        for name, (attribute, branch) in self._branches.items():
            nested = branch.struct()
            # A missing branch reads like an empty one.
            fields.append((attribute, nested, nested()))
            names[attribute] = name
        return msgspec.defstruct("Record", fields, rename=names, namespace=self._constants, frozen=True, gc=False)
