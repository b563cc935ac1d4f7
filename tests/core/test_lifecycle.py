"""The tables of states and causes, case by case with the reason for each; the specification and the plain model agree.

Events are written in words (tests/harness/core/lives.py): `c- @a1:7 20` is an aborted close in topic a, partition 1,
offset 7, ts 20.
"""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.core import reference
from tests.harness.core.lives import life, plainly, words
from txninsightd.core import lifecycle
from txninsightd.core.lifecycle import Outage, Situation, Stuck
from txninsightd.vocabulary import Cause, Outcome, PartitionRef, State, Thresholds

STATES = [
    # Rules 1 to 3: a decided or pending close rules, in this order.
    ("a committed close closes", State.CLOSED, ["o+ @a:1 10", "c+ @a:2 20"]),
    (
        "one committed close is enough, whatever became of others",
        State.CLOSED,
        ["c- @a:1 9", "c~ @b:1 8", "c+ @a:2 20"],
    ),
    ("even of nothing else", State.CLOSED, ["c+ @a:2 20"]),
    ("a committed close rules over one of unknown verdict", State.CLOSED, ["c? @a:1 9", "c+ @a:2 20"]),
    ("a written close is hope, not proof", State.TENTATIVELY_CLOSED, ["o+ @a:1 10", "c~ @a:2 20"]),
    ("a second try may still be committed", State.TENTATIVELY_CLOSED, ["o+ @a:1 10", "c- @a:2 20", "c~ @a:3 30"]),
    ("a pending close rules over an unknown one", State.TENTATIVELY_CLOSED, ["c? @a:2 20", "c~ @a:3 30"]),
    ("where we could not see, nothing is claimed", State.UNKNOWN, ["o+ @a:1 10", "c? @a:2 20"]),
    ("an unknown close rules over an aborted one", State.UNKNOWN, ["o+ @a:1 10", "c? @a:2 20", "c- @a:3 30"]),
    # Rule 4: all aborted.
    ("all events aborted", State.ABORTED, ["o- @a:1 10", "s-x @a:2 11"]),
    ("all events aborted, the close too", State.ABORTED, ["o- @a:1 10", "c- @a:2 11"]),
    ("one of unknown verdict is not known to be aborted", State.OPEN, ["o- @a:1 10", "s?x @a:2 11"]),
    ("one still pending may yet be committed", State.OPEN, ["o- @a:1 10", "s~x @a:2 11"]),
    # Rule 4: an aborted close, and no sign of a retry since.
    ("its close was aborted and nothing followed", State.ABORTED, ["o+ @a:1 10", "c- @a:2 20"]),
    ("an unknown event is no sign of a retry", State.ABORTED, ["o+ @a:1 10", "c- @a:2 20", "s?x @a:3 30"]),
    ("an aborted event is no sign of a retry either", State.ABORTED, ["o+ @a:1 10", "c- @a:2 20", "s-x @a:3 30"]),
    ("in the close's partition a later offset is a sign", State.OPEN, ["o+ @a:1 10", "c- @a:2 20", "s~x @a:3 19"]),
    ("in the close's partition a later ts is none", State.ABORTED, ["o+ @a:1 30", "c- @a:2 20"]),
    ("elsewhere a later ts is a sign", State.OPEN, ["o+ @a:1 10", "c- @a:2 20", "s+x @b:1 21"]),
    ("elsewhere the same ts is none", State.ABORTED, ["o+ @a:1 10", "c- @a:2 20", "s+x @b:1 20"]),
    ("another partition of the topic is elsewhere", State.OPEN, ["o+ @a:1 10", "c- @a:2 20", "s+x @a1:1 21"]),
    (
        "elsewhere a new copy of an aborted event is a sign, though it keeps its old ts",
        State.OPEN,
        ["s-x @b:1 15", "o+ @a:1 10", "c- @a:2 20", "s+x @b:7 15"],
    ),
    (
        "a copy stamped before the aborted one was not made after it",
        State.ABORTED,
        ["s-x @b:7 15", "o+ @a:1 10", "c- @a:2 20", "s+x @b:1 14"],
    ),
    (
        "a copy is of the same kind and step",
        State.ABORTED,
        ["s-x @b:1 15", "o+ @a:1 10", "c- @a:2 20", "s+y @b:7 15", "d+x @b:8 15"],
    ),
    (
        "the earliest aborted copy is enough",
        State.OPEN,
        ["s-x @b:1 12", "s-x @b:2 16", "o+ @a:1 10", "c- @a:2 20", "s+x @b:7 14"],
    ),
    (
        "in the close's partition a copy before the close is no sign",
        State.ABORTED,
        ["s-x @b:1 12", "s+x @a:1 15", "c- @a:2 20"],
    ),
    ("the last aborted close counts", State.ABORTED, ["c- @a:2 20", "s+x @a:3 21", "c- @a:4 25"]),
    ("the last close is the last in ts, not in offset", State.OPEN, ["c- @a:4 20", "c- @a:2 25", "s+x @a:3 21"]),
    ("of equal ts the later topic is last", State.ABORTED, ["c- @a:9 20", "c- @b:5 20", "s+x @b:4 20"]),
    ("of equal ts and place the later offset is last", State.ABORTED, ["c- @a:2 20", "c- @a:5 20", "s+x @a:4 25"]),
    # Rule 5.
    ("otherwise open", State.OPEN, ["o+ @a:1 10"]),
    ("open, though its open is only written", State.OPEN, ["o~ @a:1 10"]),
    ("a step alone is open too", State.OPEN, ["d+x @a:1 10"]),
    ("a lost step keeps it open", State.OPEN, ["o+ @a:1 10", "s?x @a:2 11"]),
]


@pytest.mark.parametrize(("state", "words"), [case[1:] for case in STATES], ids=[case[0] for case in STATES])
def test_states(state: State, words: list[str]) -> None:
    for order in itertools.islice(itertools.permutations(life(*words)), 24):
        assert lifecycle.state_of(order) == state
        assert reference.state_of(plainly(order)) == state


ATTEMPTS = [
    ("one try", 1, ["o+ @a:1 1", "c+ @a:2 2"]),
    ("nothing but a step is one try", 1, ["s+x @a:1 1"]),
    ("an aborted try alone", 1, ["o- @a:1 1", "c- @a:2 2"]),
    ("aborted, then open again", 2, ["o- @a:1 1", "o+ @a:2 2"]),
    ("a pending copy stands", 2, ["c- @a:1 1", "c~ @a:2 2"]),
    ("two aborted tries and a last one", 3, ["o- @a:1 1", "o- @a:2 2", "o+ @a:3 3", "c+ @a:4 4"]),
    ("only the close was tried again", 3, ["o+ @a:1 1", "c- @a:2 2", "c- @a:3 3", "c+ @a:4 4"]),
    ("duplicates that stand are one try", 1, ["o+ @a:1 1", "o+ @a:2 2"]),
    ("aborted steps are retries of the step", 1, ["o+ @a:1 1", "s-x @a:2 2", "s-x @a:3 3", "s+x @a:4 4"]),
    ("a copy of unknown verdict neither stands nor was aborted", 1, ["o- @a:1 1", "o? @a:2 2"]),
]


@pytest.mark.parametrize(("attempts", "words"), [case[1:] for case in ATTEMPTS], ids=[case[0] for case in ATTEMPTS])
def test_attempts(attempts: int, words: list[str]) -> None:
    assert lifecycle.attempts_of(life(*words)) == attempts
    assert reference.attempts_of(plainly(life(*words))) == attempts


OUTCOMES = [
    ("a committed close", Outcome.CLOSED, ["o+ @a:1 1", "c+ @a:2 2"], False, False),
    ("a committed close, though its beginning is missing", Outcome.CLOSED, ["c+ @a:2 2"], True, True),
    ("an unknown close", Outcome.UNKNOWN, ["o+ @a:1 1", "c? @a:2 2"], False, False),
    ("all aborted", Outcome.ABORTED, ["o- @a:1 1", "c- @a:2 2"], False, False),
    ("all aborted but one that we could not see", Outcome.UNKNOWN, ["o- @a:1 1", "s?x @a:2 2"], False, False),
    ("all aborted of what we read, which is not all", Outcome.UNKNOWN, ["c- @a:2 2"], True, False),
    ("all aborted, and a retry may lie in a gap", Outcome.UNKNOWN, ["o- @a:1 1"], False, True),
]


@pytest.mark.parametrize(
    ("outcome", "words", "partial", "maybe_unread"), [case[1:] for case in OUTCOMES], ids=[case[0] for case in OUTCOMES]
)
def test_outcomes(outcome: Outcome, words: list[str], partial: bool, maybe_unread: bool) -> None:
    assert lifecycle.outcome_of(life(*words), partial, maybe_unread) == outcome


def test_the_deciding_close_is_the_first_by_record_timestamp() -> None:
    # The record's timestamp (the last number), not ts: "read past" is told in record timestamps.
    events = life("c+ @b:1 10 30", "c? @a:9 20 29", "c- @a:1 1 1", "c~ @a:2 2 2", "c+ @a:3 40 29", "s+x @a:0 0 0")
    close = lifecycle.deciding_close(events)
    assert close is not None
    assert (close.event.ref, close.event.offset) == (PartitionRef("a", 0), 3)
    assert lifecycle.deciding_close(life("c- @a:1 1", "c~ @a:2 2")) is None


def test_what_lies_beyond_the_first_decided_close_does_not_count() -> None:
    events = life("o+ @a:1 1", "c- @a:2 2", "s+x @a:3 3", "c? @a:4 4", "c+ @a:5 5", "o+ @a:6 6")
    assert [j.event.offset for j in lifecycle.up_to_first_close(events)] == [1, 2, 3, 4]
    assert len(lifecycle.up_to_first_close(life("o+ @a:1 1", "c- @a:2 2", "c~ @a:3 3"))) == 3


# --- Causes -----------------------------------------------------------------------------------------------------------

THRESHOLDS = Thresholds(idle_after_s=10, overdue_after_s=50, commit_pending_after_s=5)


def stuck(words: list[str], *, watermark: float = 0, both: float = 0, lso: int = 0, **more: object) -> Stuck | None:
    """The cause of a life, its grace being 6 seconds; verdicts were given at 100."""
    events = life(*words)
    situation = Situation(
        life=events,
        state=lifecycle.state_of(events),
        thresholds=THRESHOLDS,
        retry_grace_s=6,
        watermark=watermark,
        both_as_of=lambda ref: both,
        last_stable_offset=lambda ref: lso,
        maybe_unread=False,
    )
    return lifecycle.cause_of(replace(situation, **more))  # type: ignore[arg-type]


def test_idle_needs_silence_that_was_seen() -> None:
    words = ["o+ @a:1 10", "s+x @a:2 12 15"]
    assert stuck(words, watermark=25) is None  # 10 s after the larger of ts and record timestamp, not longer
    assert stuck(words, watermark=25.5) == (Cause.IDLE, 25)
    assert stuck(words, watermark=25.5, maybe_unread=True) is None  # something of it may lie where we could not read


def test_overdue_counts_from_the_earliest_standing_open() -> None:
    busy = ["o- @a:1 2", "o+ @a:2 10", "o~ @a:3 20", "s+x @a:4 60"]
    assert stuck(busy, watermark=60) is None
    assert stuck(busy, watermark=61) == (Cause.OVERDUE, 60)
    assert stuck(busy, watermark=61, maybe_unread=True) is None
    assert stuck(busy, watermark=71) == (Cause.IDLE, 70)  # idle comes first in the table
    assert stuck(["o- @a:1 2", "s+x @a:4 60"], watermark=69) is None  # no open stands


def test_a_late_pending_close_is_told_by_where_it_lies() -> None:
    words = ["o+ @a:1 10", "c~ @a:5 20"]
    assert stuck(words, both=25, lso=5) is None
    assert stuck(words, both=26, lso=5) == (Cause.COMMIT_PENDING, 25)  # at the LSO: its own producer holds it
    assert stuck(words, both=26, lso=4) == (Cause.UNDECIDED, 25)  # behind something else
    assert stuck(words, watermark=999, both=25, lso=4) is None  # neither idle nor overdue: it is not Open
    assert stuck(words, both=26, lso=4, maybe_unread=True) == (Cause.UNDECIDED, 25)  # a gap suspends not this
    two = ["c~ @a:5 30", "c~ @b:7 20"]
    assert stuck(two, both=40, lso=7) == (Cause.UNDECIDED, 35)  # the first cause that holds, of any close


def test_never_committed_needs_an_aborted_close_and_something_left_behind() -> None:
    words = ["o+ @a:1 10", "c- @a:2 20"]
    assert stuck(words, watermark=106) is None
    assert stuck(words, watermark=107) == (Cause.NEVER_COMMITTED, 106)
    assert stuck(words, watermark=107, maybe_unread=True) is None
    assert stuck(["o- @a:1 10", "c- @a:2 20"], watermark=999) is None  # wholly aborted never sticks
    assert stuck(["o+ @a:1 10", "c- @a:2 20", "s~x @a:3 21"], watermark=20) is None  # tried again: Open


@pytest.mark.parametrize("words", [["o+ @a:1 1", "c+ @a:2 2"], ["o+ @a:1 1", "c? @a:2 2"]])
def test_what_has_ended_is_not_stuck(words: list[str]) -> None:
    assert stuck(words, watermark=9999, both=9999) is None


WAITS = [
    ("no outage", [], 20),
    ("over before it began", [Outage(1, 10)], 20),
    ("after the wait was over", [Outage(20, 90)], 20),
    ("all of it within the wait", [Outage(12, 13)], 21),
    ("a grace is left after it", [Outage(15, 19)], 25),
    ("it began before the wait: only what fell into it", [Outage(5, 14)], 24),
    ("two of them", [Outage(11, 12), Outage(20, 23)], 29),
]


@pytest.mark.parametrize(("outages", "due"), [case[1:] for case in WAITS], ids=[case[0] for case in WAITS])
def test_an_outage_prolongs_a_wait_that_was_running(outages: list[Outage], due: float) -> None:
    assert lifecycle.due_after(10, 10, outages, grace_s=6) == due


@given(st.lists(words, min_size=1, max_size=7))
def test_the_plain_model_reads_the_tables_the_same(found: list[str]) -> None:
    events = life(*found)
    assert reference.state_of(plainly(events)) == lifecycle.state_of(events)
    assert reference.attempts_of(plainly(events)) == lifecycle.attempts_of(events)
    ours, theirs = reference.deciding_close(plainly(events)), lifecycle.deciding_close(events)
    assert (ours and (ours.event.ref, ours.event.offset)) == (theirs and (theirs.event.ref, theirs.event.offset))
