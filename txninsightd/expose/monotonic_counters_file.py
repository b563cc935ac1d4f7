"""The file of exposed values: what each counter has shown, where the kill of a process cannot take it.

It is written anew as a whole, beside the old one, and renamed: a reader finds the one or the other. No fsync: what must
be survived is the death of processes, not of the machine; a file that a crash of the machine has torn is recognised by
its checksum. Its size is that of the exposed series, about 25 to 50 bytes for each sample.
"""

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
    """The file holds something else, or is damaged; the message says which."""


class KeptFamily(msgspec.Struct, array_like=True, frozen=True):
    """One counter or histogram. `base` has a number for each sample, or none at all where all would be 0.

    `keys` holds for each sample the end of its name (`_total`, `_bucket`), then its label values, `le` last.
    """

    labels: tuple[str, ...]
    keys: msgspec.Raw
    shown: list[float]
    base: list[float]


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """Everything, and which life of the parent it is from."""

    session: str
    families: dict[str, KeptFamily]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode
_decode_keys = msgspec.msgpack.Decoder(list[tuple[str, ...]]).decode


def packed_keys(keys: list[tuple[str, ...]]) -> msgspec.Raw:
    """Keys as a family keeps them."""
    return msgspec.Raw(_encode(keys))


def keys_of(family: KeptFamily) -> list[tuple[str, ...]]:
    """The same way back. Raises Unreadable, too, if there is not one of each for every sample."""
    try:
        keys = _decode_keys(family.keys)
    except ValueError as e:
        raise Unreadable(f"it is damaged: {e}") from e
    if len(family.shown) != len(keys) or len(family.base) not in (0, len(keys)):
        raise Unreadable("it is damaged: numbers are missing")
    # Infinity is never passed, and nothing is greater than what is no number: neither would ever go away.
    if not all(map(isfinite, chain(family.shown, family.base))):
        raise Unreadable("it is damaged: a number is none")
    plain = 1 + len(family.labels)
    if any(len(key) != plain + (key[:1] == BUCKET) or key[0] not in SUFFIXES for key in keys):
        raise Unreadable("it is damaged: it names what is no sample")
    return keys


def write(path: Path, kept: Kept) -> None:
    """Replace the file. Raises OSError, and then leaves the old one as it was."""
    body = _encode(kept)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.writelines((MAGIC, crc32(body).to_bytes(CHECKSUM_BYTES, "big"), body))
    fresh.replace(path)


def read(path: Path) -> Kept:
    """The file's content. Raises OSError or Unreadable."""
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
