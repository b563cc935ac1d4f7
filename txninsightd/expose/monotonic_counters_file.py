"""The file of exposed values: the last exposed value of each counter, safe from the death of a process.

Each write makes a new file and renames it over the old one, so a reader finds one or the other. There is no fsync: the
file must survive the death of processes, not of the machine. A checksum detects a file that a machine crash has torn.
The file takes about 25 to 50 bytes for each exposed sample.
"""

import os
from itertools import chain
from math import isfinite
from pathlib import Path
from zlib import crc32

import msgspec

MAGIC = b"txninsightd exposed values 1\n"
CHECKSUM_BYTES = 4
SUFFIXES = ("_total", "_bucket", "_count", "_sum")
BUCKET = ("_bucket",)


class Unreadable(ValueError):
    """The file is damaged or of another format; the message says which."""


class ExposedFamily(msgspec.Struct, array_like=True, frozen=True):
    """One counter or histogram. `base` has a number for each sample, or is empty where all would be 0.

    `keys` holds for each sample the suffix of its name (`_total`, `_bucket`), then its label values, `le` last.
    """

    labels: tuple[str, ...]
    keys: msgspec.Raw
    shown: list[float]
    base: list[float]


class ExposedValues(msgspec.Struct, array_like=True, frozen=True):
    """All families, and the parent's session that wrote them."""

    session: str
    families: dict[str, ExposedFamily]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ExposedValues).decode
_decode_keys = msgspec.msgpack.Decoder(list[tuple[str, ...]]).decode


def packed_keys(keys: list[tuple[str, ...]]) -> msgspec.Raw:
    """Encode keys for an `ExposedFamily`."""
    return msgspec.Raw(_encode(keys))


def keys_of(family: ExposedFamily) -> list[tuple[str, ...]]:
    """Decode a family's keys. Raises Unreadable, also when the rows differ in length."""
    try:
        keys = _decode_keys(family.keys)
    except ValueError as e:
        raise Unreadable(f"it is damaged: {e}") from e
    if len(family.shown) != len(keys) or len(family.base) not in (0, len(keys)):
        raise Unreadable("it is damaged: numbers are missing")
    # `max` would keep infinity or NaN for ever.
    if not all(map(isfinite, chain(family.shown, family.base))):
        raise Unreadable("it is damaged: a value is not a finite number")
    plain = 1 + len(family.labels)
    if any(len(key) != plain + (key[:1] == BUCKET) or key[0] not in SUFFIXES for key in keys):
        raise Unreadable("it is damaged: a sample's name is invalid")
    return keys


def write(path: Path, kept: ExposedValues) -> None:
    """Replace the file. Raises OSError and then leaves the old one untouched."""
    body = _encode(kept)
    fresh = path.with_name(path.name + ".new")
    # The labels come from events: only the daemon's user may read them.
    with open(fresh, "wb", opener=_owner_only) as file:
        # One that an older version left behind may have another mode.
        os.fchmod(file.fileno(), 0o600)
        file.writelines((MAGIC, crc32(body).to_bytes(CHECKSUM_BYTES, "big"), body))
    fresh.replace(path)


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read(path: Path) -> ExposedValues:
    """Read the file. Raises OSError or Unreadable."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise Unreadable("it was not written by this version")
        checksum, body = file.read(CHECKSUM_BYTES), file.read()
    if crc32(body).to_bytes(CHECKSUM_BYTES, "big") != checksum:
        raise Unreadable("it is damaged: its checksum is wrong")
    try:
        return _decode(body)
    except ValueError as e:
        raise Unreadable(f"it is damaged: {e}") from e
