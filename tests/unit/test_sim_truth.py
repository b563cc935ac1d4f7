"""Each failure by itself, played once, and what must come of it, worked out by hand.

The transaction is always the same: an open at 0 s, the step `pack` from 1.0 to 1.5 s (on another topic), the close at
2.0 s. Thresholds: idle 10 s, overdue 30 s, commit pending 6 s, grace 5 s, lateness 5 s, future tolerance 10 s; the
broker ends a dead producer's Kafka transaction 40 s after it began. Commits take 0.01 s, so that they move nothing.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.paths import ROOT
from txninsightd.tools.sim import main
from txninsightd.vocabulary import Anomaly, Cause

EPOCH = 1_750_000_000.0

HEALTHY = {
    "state": "closed",
    "stuck": None,
    "causes": [],
    "attempts": 1,
    "duration_s": 2.0,
    "duration_exact": True,
    "outcome": "closed",
    "status": "ok",
    "partial": False,
    "anomalies": [],
    "late_events": 0,
    "earlier_outcomes": [],
    "events": 4,
}
UNFINISHED = HEALTHY | {"state": "open", "duration_s": None, "outcome": None, "status": None}
ABORTED = UNFINISHED | {"state": "aborted", "outcome": "aborted"}


def document(per: str, **more: Any) -> dict[str, Any]:
    """A scenario of one healthy transaction."""
    flow = {
        "types": {"order": 1},
        "arrivals": {"rate_per_s": 1, "count": 1},
        "kafka": {"per": per, "producers": 1, "commit_after_s": 0.01},
        "mix": {"healthy": 1},
    }
    return {
        "name": "by-hand",
        "description": "one transaction",
        "duration_s": 1000,
        "observe_after_s": 20,
        "transaction_timeout_s": 40,
        "timeout_check_s": 1,
        "rules": {
            "idle_after_s": 10,
            "overdue_after_s": 30,
            "commit_pending_after_s": 6,
            "settle_lateness_s": 5,
            "settle_max_s": 60,
            "retry_grace_s": 5,
            "future_tolerance_s": 10,
        },
        "topics": {"orders": {"partitions": 1}, "steps": {"partitions": 1}},
        "types": {
            "order": {
                "topic": "orders",
                "steps": [{"name": "pack", "topic": "steps", "pause_s": 1.0, "lasts_s": 0.5}],
                "close_after_s": 0.5,
                "statuses": {"ok": 1},
            }
        },
        "flows": {"flow": flow},
        "healthy": {"expected": [{"reason": "nothing was done to it"}]},
        **more,
    }


def failing(per: str, failure: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The same, with a failure."""
    scenario = document(per, **more)
    scenario["failures"] = {"it": failure | {"expected": [{"reason": "by hand"}]}}
    scenario["flows"]["flow"]["mix"] = {"it": 1}
    return scenario


def play(scenario: dict[str, Any], out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """The events without the header, the truth lines by txn_id, and the totals."""
    path = out / "scenario.yaml"
    path.write_text(yaml.safe_dump(scenario))
    assert main([str(path), "--out", str(out), "--quiet"]) == 0
    _, *events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    *truth, last = [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]
    return events, sorted(truth, key=lambda line: line["txn_id"]), last["totals"]


def gist(line: dict[str, Any]) -> dict[str, Any]:
    """What is worked out by hand; durations to the hundredth, which is where commits are."""
    shown = {key: line[key] for key in HEALTHY}
    return shown | {"duration_s": None if line["duration_s"] is None else round(line["duration_s"], 1)}


def stuck(*causes: str) -> dict[str, Any]:
    return {"stuck": causes[-1], "causes": list(causes)}


CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("silent", "none", {"kind": "stuck", "after_events": 3}, UNFINISHED | stuck("idle") | {"events": 3}),
    (
        "silent, in Kafka transactions",
        "event",
        {"kind": "stuck", "after_events": 1},
        UNFINISHED | stuck("idle") | {"events": 1},
    ),
    # Silent for 16 s in the place of the 1 s before its step: idle from 10 s on, closed well before 30 s.
    (
        "woken",
        "none",
        {"kind": "stuck", "after_events": 1, "wakes_after_s": 16},
        HEALTHY | {"causes": ["idle"], "duration_s": 17.0},
    ),
    # Events every 6.5 s: never idle (10), open for more than 30 s, closed 0.5 s after the last.
    (
        "slow",
        "none",
        {"kind": "slow", "lasts_s": 39, "pace_s": 6.5},
        HEALTHY | {"causes": ["overdue"], "duration_s": 39.5, "events": 8},
    ),
    (
        "slow, then silent",
        "event",
        {"kind": "slow", "lasts_s": 39, "pace_s": 6.5, "closes": False},
        UNFINISHED | stuck("overdue", "idle") | {"events": 7},
    ),
    ("aborted", "transaction", {"kind": "abort"}, ABORTED),
    (
        "given up",
        "transaction",
        {"kind": "abort", "retries": 1, "gives_up": True},
        ABORTED | {"attempts": 2, "events": 8},
    ),
    # A retry with new timestamps lasts as long as the first attempt; the open that was aborted is not its beginning.
    ("retried", "transaction", {"kind": "abort", "retries": 1}, HEALTHY | {"attempts": 2, "events": 8}),
    ("retried twice", "transaction", {"kind": "abort", "retries": 2}, HEALTHY | {"attempts": 3, "events": 12}),
    (
        "retried, same timestamps",
        "transaction",
        {"kind": "abort", "retries": 1, "timestamps": "same", "retry_after_s": 2},
        HEALTHY | {"attempts": 2, "events": 8},
    ),
    # 5 s of grace, 2 to settle, 2 of margin: after 15 s it has long been settled as aborted. The new life's step waits
    # 2 s for its open; its events are its own.
    (
        "retried too late",
        "transaction",
        {"kind": "abort", "retries": 1, "retry_after_s": 15},
        HEALTHY | {"anomalies": ["late_retry"], "earlier_outcomes": ["aborted"], "duration_s": 3.0},
    ),
    ("close lost", "close", {"kind": "close_abort"}, UNFINISHED | {"state": "aborted"} | stuck("never_committed")),
    (
        "close retried",
        "close",
        {"kind": "close_abort", "retries": 1},
        HEALTHY | {"attempts": 2, "duration_s": 2.5, "events": 5},
    ),
    (
        "close retried, same timestamp",
        "event",
        {"kind": "close_abort", "retries": 1, "timestamps": "same"},
        HEALTHY | {"attempts": 2, "events": 5},
    ),
    (
        "close retried too late",
        "close",
        {"kind": "close_abort", "retries": 1, "retry_after_s": 15},
        HEALTHY | {"attempts": 2, "duration_s": 17.0, "events": 5, "causes": ["never_committed"]},
    ),
    (
        "a step retried",
        "event",
        {"kind": "event_abort", "of": "step_done", "retried": True},
        HEALTHY | {"events": 5, "duration_s": 2.2},
    ),
    (
        "a step lost",
        "event",
        {"kind": "event_abort", "of": "step_done", "retried": False},
        HEALTHY | {"anomalies": ["step_not_done"]},
    ),
    (
        "the open lost",
        "event",
        {"kind": "event_abort", "of": "open", "retried": False},
        HEALTHY | {"anomalies": ["open_not_committed"], "duration_s": None},
    ),
    # Open and close lie in one partition, in one Kafka transaction: the LSO stands at the open.
    (
        "dies closing",
        "transaction",
        {"kind": "crash", "at": "close"},
        UNFINISHED | {"state": "tentatively_closed"} | stuck("undecided"),
    ),
    # The close has a Kafka transaction of its own: the LSO stands at it.
    (
        "dies closing alone",
        "close",
        {"kind": "crash", "at": "close"},
        UNFINISHED | {"state": "tentatively_closed"} | stuck("commit_pending"),
    ),
    # The same, but the broker aborts it within the 60 s that are watched.
    (
        "dies closing alone, timed out",
        "close",
        {"kind": "crash", "at": "close", "watched": 60},
        UNFINISHED | {"state": "aborted"} | stuck("commit_pending", "never_committed"),
    ),
    (
        "dies closing, timed out",
        "transaction",
        {"kind": "crash", "at": "close", "watched": 60},
        ABORTED | {"causes": ["undecided"]},
    ),
    (
        "dies half-way, timed out",
        "transaction",
        {"kind": "crash", "at": "half", "after_events": 2, "watched": 60},
        ABORTED | {"causes": ["idle"], "events": 2},
    ),
    # Its second attempt is committed, but behind what its first producer left open.
    (
        "dies half-way, retried",
        "transaction",
        {"kind": "crash", "at": "half", "after_events": 3, "retry_after_s": 2},
        UNFINISHED | {"state": "tentatively_closed", "events": 7} | stuck("undecided"),
    ),
    (
        "dies half-way, retried, timed out",
        "transaction",
        {"kind": "crash", "at": "half", "after_events": 3, "retry_after_s": 2, "watched": 60},
        HEALTHY | {"causes": ["undecided"], "attempts": 2, "events": 7},
    ),
    (
        "open twice",
        "none",
        {"kind": "duplicate", "of": "open"},
        HEALTHY | {"anomalies": ["duplicate_open"], "events": 5},
    ),
    (
        "step opened twice",
        "event",
        {"kind": "duplicate", "of": "step_open"},
        HEALTHY | {"anomalies": ["step_not_done"], "events": 5},
    ),
    (
        "step done twice",
        "transaction",
        {"kind": "duplicate", "of": "step_done"},
        HEALTHY | {"anomalies": ["done_without_open"], "events": 5},
    ),
    (
        "close twice",
        "close",
        {"kind": "duplicate", "of": "close"},
        HEALTHY | {"anomalies": ["duplicate_close"], "events": 5},
    ),
    (
        "no open",
        "none",
        {"kind": "missing", "of": "open"},
        HEALTHY | {"anomalies": ["close_without_open"], "duration_s": None, "partial": True, "events": 3},
    ),
    (
        "no step opened",
        "none",
        {"kind": "missing", "of": "step_open"},
        HEALTHY | {"anomalies": ["done_without_open"], "events": 3, "duration_s": 1.0},
    ),
    (
        "no step done",
        "none",
        {"kind": "missing", "of": "step_done"},
        HEALTHY | {"anomalies": ["step_not_done"], "events": 3, "duration_s": 1.5},
    ),
    ("neither end", "none", {"kind": "missing", "of": "ends"}, UNFINISHED | {"partial": True, "events": 2}),
    ("out of order", "event", {"kind": "out_of_order", "by_s": 1.5}, HEALTHY),
    (
        "event after the close",
        "transaction",
        {"kind": "event_after_close"},
        HEALTHY | {"anomalies": ["event_after_close"], "duration_s": 1.5},
    ),
    # Clamped to its record's timestamp, so it does not matter how far ahead it was.
    (
        "open ahead",
        "none",
        {"kind": "skew", "of": "open", "by_s": 100},
        HEALTHY | {"anomalies": ["future_timestamp"], "duration_exact": False},
    ),
    (
        "close ahead",
        "none",
        {"kind": "skew", "of": "close", "by_s": 11},
        HEALTHY | {"anomalies": ["future_timestamp"], "duration_exact": False},
    ),
    (
        "step ahead",
        "none",
        {"kind": "skew", "of": "step_done", "by_s": 11},
        HEALTHY | {"anomalies": ["future_timestamp"]},
    ),
    (
        "step behind",
        "none",
        {"kind": "skew", "of": "step_done", "by_s": -0.75},
        HEALTHY | {"anomalies": ["negative_gap"]},
    ),
    (
        "close behind",
        "none",
        {"kind": "skew", "of": "close", "by_s": -1.2},
        HEALTHY | {"anomalies": ["event_after_close"], "duration_s": 0.8},
    ),
    (
        "close before the open",
        "none",
        {"kind": "skew", "of": "close", "by_s": -5},
        HEALTHY | {"anomalies": ["event_after_close", "negative_gap"], "duration_s": None},
    ),
    ("late event", "transaction", {"kind": "late_event", "after_s": 12}, HEALTHY | {"late_events": 1}),
]


@pytest.mark.parametrize(("per", "failure", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_failure_comes_to_what_it_must(
    per: str, failure: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    watched = failure.get("watched", 20)
    scenario = failing(per, {k: v for k, v in failure.items() if k != "watched"}, observe_after_s=watched)
    _, (line,), totals = play(scenario, tmp_path)
    assert gist(line) == expected
    assert line["failure"] == "it"
    assert line["reason"] == "by hand"
    assert totals["borderline"] == []


@pytest.mark.parametrize("per", ["transaction", "close", "event", "none"])
def test_a_healthy_transaction(per: str, tmp_path: Path) -> None:
    events, (line,), totals = play(document(per), tmp_path)
    assert gist(line) == HEALTHY
    assert line["failure"] is None
    assert [e["value"]["event"] for e in events if "value" in e] == [
        "transaction_open",
        "step_open",
        "step_done",
        "transaction_close",
    ]
    commits = {"transaction": 1, "close": 2, "event": 4, "none": 0}[per]
    assert totals["kafka"] == ({"begin": commits, "commit": commits} if commits else {})
    assert totals["records"] == {"orders": {"ok": 2}, "steps": {"ok": 2}}
    assert totals["finished"] == [{"txn_type": "order", "outcome": "closed", "status": "ok", "count": 1}]
    assert totals["live"] == totals["stuck_total"] == []


def test_every_failure_and_every_cause_has_a_case() -> None:
    schema = json.loads((ROOT / "txninsightd/tools/scenario.schema.json").read_text())
    kinds = set(schema["properties"]["failures"]["additionalProperties"]["properties"]["kind"]["enum"])
    assert {failure["kind"] for _, _, failure, _ in CASES} == kinds
    causes = {cause for *_, expected in CASES for cause in expected["causes"]}
    assert causes == set(Cause)
    anomalies = {anomaly for *_, expected in CASES for anomaly in expected["anomalies"]}
    assert anomalies == set(Anomaly) - {Anomaly.NOT_COLOCATED, Anomaly.LATE_EVENT}


# --- What one does to another -----------------------------------------------------------------------------------------


def with_a_bystander(per: str, watched: float) -> dict[str, Any]:
    """One transaction dies at about 2 s; a healthy one of another flow begins at 10 s in the same partitions."""
    scenario = failing("transaction", {"kind": "crash", "at": "close"}, observe_after_s=watched)
    scenario["flows"]["flow"]["arrivals"] = {"rate_per_s": 1000, "count": 1}
    other = document(per)["flows"]["flow"]
    scenario["flows"]["other"] = other | {"arrivals": {"rate_per_s": 1000, "from_s": 10, "count": 1}}
    return scenario


@pytest.mark.parametrize("per", ["transaction", "close", "event", "none"])
def test_a_close_behind_a_hanging_producer_is_undecided(per: str, tmp_path: Path) -> None:
    _, (_, bystander), totals = play(with_a_bystander(per, 14), tmp_path)
    assert gist(bystander) == UNFINISHED | {"state": "tentatively_closed"} | stuck("undecided")
    assert totals["live_stuck"] == [{"txn_type": "order", "cause": "undecided", "count": 2}]


@pytest.mark.parametrize("per", ["transaction", "close", "event", "none"])
def test_it_closes_once_the_broker_has_ended_the_hanging_one(per: str, tmp_path: Path) -> None:
    _, (hanging, bystander), totals = play(with_a_bystander(per, 40), tmp_path)
    assert gist(hanging) == ABORTED | {"causes": ["undecided"]}
    assert gist(bystander) == HEALTHY | {"causes": ["undecided"]}
    assert totals["stuck_total"] == [{"txn_type": "order", "cause": "undecided", "count": 2}]


def test_a_step_behind_a_hanging_producer_keeps_a_closed_one_from_settling(tmp_path: Path) -> None:
    scenario = with_a_bystander("none", 14)
    scenario["topics"]["elsewhere"] = {"partitions": 1}
    scenario["types"]["other"] = scenario["types"]["order"] | {"topic": "elsewhere"}
    scenario["flows"]["other"]["types"] = {"other": 1}
    _, (_, bystander), _ = play(scenario, tmp_path)
    assert gist(bystander) == UNFINISHED | {"state": "closed"}


def test_two_that_die_closing_come_to_the_lso_one_after_the_other(tmp_path: Path) -> None:
    scenario = failing("close", {"kind": "crash", "at": "close"}, observe_after_s=60)
    scenario["flows"]["flow"]["arrivals"] = {"rate_per_s": 1000, "count": 1}
    second = scenario["flows"]["flow"]
    scenario["flows"]["other"] = second | {"arrivals": {"rate_per_s": 1000, "from_s": 12, "count": 1}}
    _, (first_line, second_line), _ = play(scenario, tmp_path)
    assert first_line["causes"] == ["commit_pending", "never_committed"]
    assert second_line["causes"] == ["undecided", "commit_pending", "never_committed"]


def test_what_hangs_on_a_second_is_called_borderline(tmp_path: Path) -> None:
    """The broker ends the hanging one at about 42 s; a close at 36 s would be undecided at 42 s, or just not."""
    scenario = with_a_bystander("none", 20)
    scenario["flows"]["other"]["arrivals"]["from_s"] = 34
    _, (_, bystander), totals = play(scenario, tmp_path)
    assert totals["borderline"] == [bystander["txn_id"]]


def test_a_pause_is_moved_away_from_thresholds(tmp_path: Path) -> None:
    """It would wake when idle holds for a moment; it wakes a margin before, or after."""
    scenario = failing("none", {"kind": "stuck", "wakes_after_s": {"uniform": [9.2, 10.8]}})
    scenario["flows"]["flow"]["arrivals"]["count"] = 30
    scenario["flows"]["flow"]["kafka"]["concurrent"] = 30
    _, truth, totals = play(scenario, tmp_path)
    assert totals["borderline"] == []
    assert {tuple(line["causes"]) for line in truth} == {(), ("idle",)}


def test_colocated_what_lies_beyond_the_close_is_late(tmp_path: Path) -> None:
    scenario = failing("transaction", {"kind": "duplicate", "of": "close"}, colocated=True)
    del scenario["types"]["order"]["steps"][0]["topic"]
    _, (line,), totals = play(scenario, tmp_path)
    assert gist(line) == HEALTHY | {"late_events": 1}
    assert totals["anomalies"] == {"late_event": 1}


def test_a_type_has_thresholds_of_its_own(tmp_path: Path) -> None:
    scenario = failing("none", {"kind": "stuck", "after_events": 2}, observe_after_s=40)
    scenario["types"]["order"]["thresholds"] = {"idle_after_s": 500, "overdue_after_s": 20}
    _, (line,), _ = play(scenario, tmp_path)
    assert line["causes"] == ["overdue"]


def test_noise_is_counted_by_what_it_is(tmp_path: Path) -> None:
    scenario = document("none", value_bytes=30_000)
    words = [
        "truncated",
        "not_utf8",
        "too_deep",
        "empty",
        "wrong_type",
        "oversized",
        "tombstone",
        "heartbeat",
        "other_json",
    ]
    scenario["noise"] = {"junk": {"topic": "steps", "records": words, "arrivals": {"rate_per_s": 5, "count": 18}}}
    events, _, totals = play(scenario, tmp_path)
    assert totals["records"]["steps"] == {"foreign": 6, "malformed": 10, "ok": 2, "oversized": 2}
    tombstones = [e for e in events if e["producer"] == "junk" and "raw" not in e]
    assert len(tombstones) == 2
    assert all("value" not in e for e in tombstones)


def test_a_mapping_decides_what_values_look_like(tmp_path: Path) -> None:
    scenario = document("none")
    scenario["topics"]["orders"]["mapping"] = {
        "event": "meta.action",
        "kinds": {"created": "transaction_open", "done": "transaction_close"},
        "txn_id": {"key": True},
        "ts": "meta.when",
        "ts_unit": "ms",
        "txn_type": {"const": "order"},
        "status": {"path": "result"},
    }
    scenario["topics"]["steps"] = {"partitions": 1, "ts_format": "rfc3339", "mapping": {"txn_id": {"header": "x-id"}}}
    events, (line,), _ = play(scenario, tmp_path)
    opened, step, _, closed = events
    when = opened["value"]["meta"]["when"]
    assert opened["value"] == {"meta": {"action": "created", "when": when}}
    assert when == pytest.approx(opened["at"] * 1000)
    assert opened["key"] == line["txn_id"]
    assert closed["value"]["result"] == "ok"
    assert step["headers"] == {"x-id": line["txn_id"]}
    assert step["value"]["ts"].startswith("2025-06-15T15:06:")
    assert step["value"]["ts"].endswith("Z")
    assert line["duration_s"] == pytest.approx(2.0)
