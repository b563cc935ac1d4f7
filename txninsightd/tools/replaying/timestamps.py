"""Finds, reads and shifts event timestamps in a payload, and keeps their format.

A shift is a whole number of seconds. So an integer stays an integer, a fraction keeps its digits, an RFC 3339 string
keeps its separators, fraction and zone, and the difference between two timestamps stays exact. Numbers above 1e11 are
milliseconds. Values that are not times stay unchanged.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

DEFAULT_TS_PATHS = ("ts",)
MILLISECONDS_ABOVE = 1e11
BEYOND_TIME = 1e17

_RFC3339 = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)(?P<sep>[Tt ])(?P<time>\d\d:\d\d:\d\d)(?P<fraction>\.\d+)?(?P<zone>[Zz]|[+-]\d\d:\d\d)"
)

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def value_at(tree: object, path: str) -> Any:
    """The value at a dotted path of objects; None if the path does not exist."""
    for name in path.split("."):
        if not isinstance(tree, dict):
            return None
        tree = tree.get(name)
    return tree


def epoch_s(timestamp: object) -> float | None:
    """Convert a timestamp (epoch seconds or milliseconds, or RFC 3339) to epoch seconds; None if it is invalid."""
    if isinstance(timestamp, str):
        return _rfc3339_epoch_s(timestamp)
    number = _number(timestamp)
    return number / 1000 if number is not None and abs(number) > MILLISECONDS_ABOVE else number


def shift_timestamps(payload: bytes, paths: Sequence[str], shift_s: int) -> bytes:
    """Shift the timestamps at `paths` of a JSON payload; returns the same bytes if there are none."""
    try:
        tree = _decode(payload)
    except (ValueError, RecursionError):
        return payload
    # A list, because any() on a generator stops at the first shift.
    moved = [_move(tree, path, shift_s) for path in paths]
    return _encode(tree) if any(moved) else payload


def _move(tree: object, path: str, shift_s: int) -> bool:
    *folders, name = path.split(".")
    holder = value_at(tree, ".".join(folders)) if folders else tree
    moved = shifted(holder.get(name), shift_s) if isinstance(holder, dict) else None
    if moved is None:
        return False
    holder[name] = moved  # type: ignore[index]
    return True


def shifted(timestamp: object, shift_s: int) -> int | float | str | None:
    """The timestamp, `shift_s` later, in its own format; None if it is invalid."""
    if isinstance(timestamp, str):
        return _shifted_rfc3339(timestamp, shift_s)
    number = _number(timestamp)
    if number is None:
        return None
    moved = number + (shift_s * 1000 if abs(number) > MILLISECONDS_ABOVE else shift_s)
    # The sum of two floats is inexact beyond microseconds.
    return moved if isinstance(moved, int) else round(moved, 6)


def _number(timestamp: object) -> int | float | None:
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float):
        return None
    return timestamp if abs(timestamp) < BEYOND_TIME else None


def _rfc3339_epoch_s(text: str) -> float | None:
    if not _RFC3339.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def _shifted_rfc3339(text: str, shift_s: int) -> str | None:
    parts = _RFC3339.fullmatch(text)
    if not parts:
        return None
    try:
        # Whole seconds change neither the fraction nor the zone.
        moved = datetime.fromisoformat(f"{parts['date']}T{parts['time']}") + timedelta(seconds=shift_s)
    except (ValueError, OverflowError):
        return None
    return f"{moved.date()}{parts['sep']}{moved.time()}{parts['fraction'] or ''}{parts['zone']}"


def first_time(payload: bytes, paths: Sequence[str]) -> float | None:
    """The first timestamp (epoch seconds) of a JSON payload at any of the paths."""
    try:
        tree = _decode(payload)
    except (ValueError, RecursionError):
        return None
    times = (epoch_s(value_at(tree, path)) for path in paths)
    return next((time for time in times if time is not None), None)
