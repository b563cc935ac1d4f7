"""What is measured of a closed transaction, case by case with the reason; and random lives against the plain model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.core import reference
from tests.harness.core.lives import judged, life, plainly, words
from txninsightd.core.kpis import Kpis, common_anomalies, kpis_of, type_of
from txninsightd.vocabulary import Anomaly, Kind, Signature, Verdict


def measured(*found: str, partial: bool = False) -> Kpis:
    return kpis_of(life(*found), partial)


def test_a_transaction_that_ran_as_it_should() -> None:
    kpis = measured("o+ @a:1 10", "s+x @a:2 11", "d+x @a:3 13", "s+y @a:4 14", "d+y @a:5 20", "c+ @a:6 21")
    assert kpis.duration_s == 11
    assert kpis.step_durations == [("x", 2), ("y", 6)]
    assert kpis.step_gaps == [("x", 1), ("y", 1)]
    assert kpis.anomalies == set()


def test_only_what_was_committed_counts() -> None:
    kpis = measured("o- @a:1 1", "o+ @a:2 10", "s-x @a:3 11", "s~x @a:4 12", "s?x @a:5 13", "c- @a:6 14", "c+ @a:7 15")
    assert (kpis.duration_s, kpis.step_gaps, kpis.anomalies) == (5, [], set())


def test_order_is_that_of_time_not_of_arrival() -> None:
    kpis = measured("c+ @a:1 21", "d+x @a:2 13", "s+x @b:9 11", "o+ @c:7 10")
    assert (kpis.duration_s, kpis.step_durations, kpis.step_gaps) == (11, [("x", 2)], [("x", 1)])


def test_the_duration_runs_from_the_earliest_open_to_the_first_close() -> None:
    kpis = measured("o+ @a:1 12", "o+ @a:2 10", "c+ @a:3 30", "c+ @a:4 20")
    assert kpis.duration_s == 10
    assert kpis.anomalies == {Anomaly.DUPLICATE_OPEN, Anomaly.DUPLICATE_CLOSE}


def test_the_kth_open_of_a_step_pairs_with_its_kth_done() -> None:
    kpis = measured("o+ @a:0 0", "s+x @a:1 1", "s+x @a:2 2", "d+x @a:3 5", "d+x @a:4 9", "s+y @a:5 3", "c+ @a:6 10")
    assert sorted(kpis.step_durations) == [("x", 4), ("x", 7)]
    assert kpis.anomalies == {Anomaly.STEP_NOT_DONE}


def test_a_steps_gap_runs_from_whatever_came_before_it() -> None:
    kpis = measured("s+x @a:1 1", "d+x @a:2 4", "s+y @a:3 9", "c+ @a:4 10")
    assert kpis.step_gaps == [("y", 5)]  # nothing came before x


ANOMALIES = [
    ("a close and no open at all", {Anomaly.CLOSE_WITHOUT_OPEN}, ["c+ @a:1 10"], None),
    ("an open that was aborted", {Anomaly.OPEN_NOT_COMMITTED}, ["o- @a:1 5", "c+ @a:2 10"], None),
    ("an open that is still pending", {Anomaly.OPEN_NOT_COMMITTED}, ["o~ @a:1 5", "c+ @a:2 10"], None),
    (
        "a close stamped before its open",
        {Anomaly.NEGATIVE_GAP, Anomaly.EVENT_AFTER_CLOSE},
        ["o+ @a:1 9", "c+ @a:2 8"],
        None,
    ),
    (
        "a step done before it was opened",
        {Anomaly.NEGATIVE_GAP},
        ["o+ @a:1 1", "d+x @a:2 2", "s+x @a:3 3", "c+ @a:4 4"],
        3,
    ),
    ("done, never opened", {Anomaly.DONE_WITHOUT_OPEN}, ["o+ @a:1 1", "d+x @a:2 2", "c+ @a:3 4"], 3),
    ("opened, never done", {Anomaly.STEP_NOT_DONE}, ["o+ @a:1 1", "s+x @a:2 2", "c+ @a:3 4"], 3),
    ("a step after the close", {Anomaly.EVENT_AFTER_CLOSE}, ["o+ @a:1 1", "c+ @a:2 4", "s+x @a:3 5", "d+x @a:4 6"], 3),
    ("an aborted step after the close is none", set(), ["o+ @a:1 1", "c+ @a:2 4", "s-x @a:3 5"], 3),
    (
        "a second close is no event after the close",
        {Anomaly.DUPLICATE_CLOSE},
        ["o+ @a:1 1", "c+ @a:2 4", "c+ @a:3 5"],
        3,
    ),
]


@pytest.mark.parametrize(
    ("anomalies", "found", "duration"), [case[1:] for case in ANOMALIES], ids=[case[0] for case in ANOMALIES]
)
def test_anomalies(anomalies: set[Anomaly], found: list[str], duration: float | None) -> None:
    kpis = measured(*found)
    assert kpis.anomalies == anomalies
    assert kpis.duration_s == duration


def test_a_partial_one_has_no_duration() -> None:
    assert measured("o+ @a:1 1", "c+ @a:2 4", partial=True).duration_s is None


def test_the_status_is_that_of_the_first_committed_close() -> None:
    def close(word: str, status: str) -> object:
        j = judged(word)
        signature = j.event.signature._replace(status=status)
        return j._replace(event=type(j.event)(j.event.ts, j.event.ref, j.event.offset, j.event.record_ts, signature))

    closes = [close("c- @a:1 1", "lost"), close("c+ @a:9 8", "late"), close("c+ @a:5 7", "ok")]
    assert kpis_of(closes, partial=False).status == "ok"  # type: ignore[arg-type]


def test_oddities_that_do_not_depend_on_the_end() -> None:
    j = judged("o+ @a:1 1")
    future = Signature(int(Kind.TRANSACTION_OPEN), None, None, None, True, False)
    early = j._replace(event=type(j.event)(1.0, j.event.ref, 1, 1.0, future))
    assert common_anomalies([early], colocated=True, late_retry=False) == {Anomaly.FUTURE_TIMESTAMP}
    apart = life("o+ @a:1 1", "c+ @a1:1 2")
    assert common_anomalies(apart, colocated=True, late_retry=False) == {Anomaly.NOT_COLOCATED}
    assert common_anomalies(apart, colocated=False, late_retry=True) == {Anomaly.LATE_RETRY}


def test_the_type_is_what_the_earliest_event_that_names_one_says() -> None:
    def typed(word: str, txn_type: str | None) -> object:
        event = judged(word).event
        signature = event.signature._replace(txn_type=txn_type)
        return type(event)(event.ts, event.ref, event.offset, event.record_ts, signature)

    events = [typed("c+ @a:9 9", "b"), typed("o+ @a:1 1", None), typed("s+x @a:3 3", "a"), typed("s+x @a:4 3", "c")]
    assert type_of(events) == "a"  # type: ignore[arg-type]
    assert type_of(events[1:2]) is None  # type: ignore[arg-type]


@given(st.lists(words, min_size=1, max_size=9), st.booleans())
def test_the_plain_model_measures_the_same(found: list[str], partial: bool) -> None:
    events = [j for k, j in enumerate(life(*found)) if j.event not in [o.event for o in life(*found)[:k]]]
    if not any(j.kind == Kind.TRANSACTION_CLOSE and j.verdict is Verdict.COMMITTED for j in events):
        events.append(judged("c+ @a:99 2"))
    kpis, plain = kpis_of(events, partial), reference.measure(plainly(events), partial)
    assert (kpis.duration_s, kpis.status, kpis.anomalies) == (plain.duration_s, plain.status, plain.anomalies)
    assert sorted(kpis.step_durations, key=repr_of) == sorted(plain.step_durations, key=repr_of)
    assert sorted(kpis.step_gaps, key=repr_of) == sorted(plain.step_gaps, key=repr_of)


def repr_of(figure: tuple[str | None, float]) -> str:
    return repr(tuple(figure))
