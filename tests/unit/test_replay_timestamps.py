"""Timestamps in payloads: read, and shifted in the form in which they were written."""

import json
import math
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txninsightd.tools.replaying.timestamps import epoch_s, first_time, shift_timestamps, shifted, value_at


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        (1750000000, 1750000000.0),
        (1750000000.25, 1750000000.25),
        (1750000000250, 1750000000.25),
        ("2025-06-15T15:06:40Z", 1750000000.0),
        ("2025-06-15t15:06:40.250z", 1750000000.25),
        ("2025-06-15 17:06:40.25+02:00", 1750000000.25),
        ("2025-06-15T15:06:40.123456789Z", 1750000000.123456),
        ("2025-06-15T15:06:40", None),
        ("2025-13-15T15:06:40Z", None),
        ("1750000000", None),
        (True, None),
        (None, None),
        ({"seconds": 1}, None),
        (10**400, None),
    ],
)
def test_reading(timestamp: object, seconds: float | None) -> None:
    assert epoch_s(timestamp) == seconds


@pytest.mark.parametrize(
    ("timestamp", "later"),
    [
        (1750000000, 1750000100),
        (1750000000.123456, 1750000100.123456),
        (1750000000123, 1750000100123),
        (1750000000123.5, 1750000100123.5),
        ("2025-06-15T23:59:59Z", "2025-06-16T00:01:39Z"),
        ("2025-06-15t15:06:40.100000009z", "2025-06-15t15:08:20.100000009z"),
        ("2025-06-15 15:06:40.5-03:30", "2025-06-15 15:08:20.5-03:30"),
        ("9999-12-31T23:59:59Z", None),
        ("2025-06-15", None),
        (False, None),
        ([], None),
    ],
)
def test_shifting_keeps_the_form(timestamp: object, later: object) -> None:
    moved = shifted(timestamp, 100)
    assert (moved, type(moved)) == (later, type(later))


times = st.one_of(
    st.integers(10**9, 2**33),
    st.integers(10**12, 2 * 10**12),
    st.floats(10**9, 2 * 10**9).map(lambda ts: round(ts, 6)),
    st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(lambda when: when.isoformat() + "Z"),
)


@given(times, st.integers(-(10**8), 10**8))
def test_a_shift_moves_by_exactly_that(timestamp: float | str, shift_s: int) -> None:
    before, after = epoch_s(timestamp), epoch_s(shifted(timestamp, shift_s))
    assert before is not None
    assert after is not None
    assert math.isclose(after - before, shift_s, abs_tol=1e-6)


def test_nested_paths_are_shifted_and_all_else_stays() -> None:
    payload = b'{"meta":{"when":1750000000,"id":12345678901234567890123},"ts":1.5,"text":"\xc3\xa4"}'
    moved = shift_timestamps(payload, ("meta.when", "ts", "meta.when.deeper", "nowhere.at.all"), 10)
    assert moved == payload.replace(b"1750000000", b"1750000010").replace(b"1.5", b"11.5")


@pytest.mark.parametrize(
    "payload", [b"[1,  2]", b'{"a":  1}', b'{"ts": "soon"}', b"\xff", b"", b"[" * 100_000, b'{"ts":  null}']
)
def test_a_payload_without_a_timestamp_keeps_its_bytes(payload: bytes) -> None:
    assert shift_timestamps(payload, ("ts",), 10) == payload


@pytest.mark.parametrize(
    ("tree", "path", "value"),
    [({"a": {"b": 1}}, "a.b", 1), ({"a": 1}, "a.b", None), ([], "a", None), ({}, "a", None), ({"a": None}, "a", None)],
)
def test_value_at(tree: Any, path: str, value: object) -> None:
    assert value_at(tree, path) == value


def test_first_time_takes_the_first_path_that_leads_to_one() -> None:
    payload = json.dumps({"ts": "soon", "meta": {"when": 7}}).encode()
    assert first_time(payload, ("ts", "meta.when")) == 7.0
    assert first_time(payload, ("ts",)) is None
    assert first_time(b"\xff", ("ts",)) is None
