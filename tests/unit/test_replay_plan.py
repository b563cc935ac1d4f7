"""The first pass over a file, and the moments at which its lines are due."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txninsightd.tools.events_file import PlainEvents, read_lines
from txninsightd.tools.replaying.plan import NAMED_BAD_LINES, Survey, Timeline, TsPaths, rebase_start, survey


def record(at: float, producer: str = "p", topic: str = "t", **more: Any) -> dict[str, Any]:
    return {"at": at, "producer": producer, "topic": topic} | more


def control(at: float, action: str, producer: str = "p") -> dict[str, Any]:
    return {"at": at, "producer": producer, "kafka": action}


def survey_of(*lines: dict[str, Any], ts_paths: TsPaths | None = None) -> Survey:
    text = [json.dumps(line).encode() for line in lines]
    return survey(read_lines(text, PlainEvents()), ts_paths or TsPaths())


def test_what_is_found() -> None:
    found = survey_of(
        {"header": {"transaction_timeout_s": 7}},
        record(5, "plain", partition=3),
        control(6, "begin"),
        record(4, topic="u"),
        control(9, "commit"),
        record(7, "plain", partition=1),
    )
    assert (found.lines, found.events, found.bad.count) == (6, 5, 0)
    assert (found.first_at, found.last_at) == (4, 9)
    assert found.topics == {"t": 3, "u": -1}
    assert found.transactional == {"p"}
    assert found.header.transaction_timeout_s == 7
    sessions = {
        session.producer: (session.first_line, session.last_line, session.transactional, session.crashes)
        for session in found.sessions
    }
    assert sessions == {"plain": (2, 6, False, False), "p": (3, 5, True, False)}


def test_a_name_that_goes_on_after_its_crash_begins_another_life() -> None:
    found = survey_of(control(1, "begin"), record(2), control(3, "crash"), control(4, "begin"), control(5, "abort"))
    assert [
        (session.first_line, session.last_line, session.crashes, session.after_crash) for session in found.sessions
    ] == [
        (1, 3, True, False),
        (4, 5, False, True),
    ]


def test_control_lines_that_make_no_sense_are_bad_lines() -> None:
    found = survey_of(
        control(1, "commit"), control(2, "begin"), control(3, "begin"), control(4, "abort"), control(5, "abort")
    )
    assert [number for number, _ in found.bad.named] == [1, 3, 5]
    assert "has no open Kafka transaction" in found.bad.named[0][1]
    assert "has not ended its previous Kafka transaction" in found.bad.named[1][1]
    assert found.events == 2


def test_records_outside_a_kafka_transaction_are_bad_only_for_transactional_producers() -> None:
    found = survey_of(record(1), record(1, "plain"), record(2), control(3, "begin"), record(4), control(5, "commit"))
    assert found.bad.count == 2
    assert found.bad.named == [(1, "a record of the transactional producer 'p' outside begin ... commit (and 1 more)")]
    assert found.events == 4


def test_only_the_first_bad_lines_are_kept() -> None:
    found = survey_of(*({"at": 1, "producer": "p"} for _ in range(NAMED_BAD_LINES + 5)))
    assert found.bad.count == NAMED_BAD_LINES + 5
    assert [number for number, _ in found.bad.named] == list(range(1, NAMED_BAD_LINES + 1))


@pytest.mark.parametrize(
    ("lines", "epoch"),
    [
        ([{"header": {"epoch": 1.75e9}}, record(1.75e9 + 1)], 0.0),
        ([{"header": {"epoch": 1.75e9}}, record(1)], 1.75e9),
        ([record(1), record(2, value={"ts": 1.75e9}), record(9, value={"ts": 1})], 1.75e9 - 2),
        ([record(1, value={"ts": 1})], 0.0),
        ([record(1)], 0.0),
    ],
)
def test_where_at_0_lies(lines: list[dict[str, Any]], epoch: float) -> None:
    assert survey_of(*lines).epoch == epoch


def test_timestamp_paths_of_the_operator_come_before_those_of_the_header() -> None:
    header = {"header": {"topics": {"t": {"ts_path": "meta.when"}, "u": {"partitions": 2}}}}
    found = survey_of(header, record(1))
    assert [found.ts_paths.of(topic) for topic in "tuv"] == [("meta.when",), ("ts",), ("ts",)]
    told = survey_of(header, record(1), ts_paths=TsPaths(("a", "b")))
    assert told.ts_paths.of("t") == ("a", "b")


def test_an_empty_file_has_no_events() -> None:
    assert survey_of().events == 0


@given(now=st.floats(1.7e9, 2.1e9), first=st.floats(0, 2.2e9), span=st.floats(0, 1e6), speed=st.floats(0.01, 1000))
def test_rebased_times_are_whole_shifts_and_never_in_the_future(
    now: float, first: float, span: float, speed: float
) -> None:
    last = first + span
    start, shift_s = rebase_start(now, first, last, speed)
    assert isinstance(shift_s, int)
    assert -1e-6 <= start - now <= 1 + 1e-6
    for at in (first, (first + last) / 2, last):
        published = start + Timeline(first, speed).offset(at)
        assert at + shift_s <= published + 1e-5
    if speed == 1:
        assert math.isclose(first + shift_s, start, abs_tol=1e-5)


def test_at_the_original_speed_every_timestamp_is_its_moment_of_publication() -> None:
    start, shift_s = rebase_start(2e9 + 0.25, 1.75e9 + 0.5, 1.75e9 + 60, 1.0)
    assert (start, shift_s) == (2e9 + 0.5, 250_000_000)


def test_at_full_speed_the_last_line_is_about_now() -> None:
    assert rebase_start(2e9 + 0.25, 1.75e9, 1.75e9 + 60, math.inf) == (2e9 + 0.25, 249_999_940)
