"""Every scenario on the real broker, judged through the installed daemon's API and /metrics alone.

All scenarios run side by side, once, at the original speed; each test then holds one part of what the daemon said
against truth.jsonl, which the simulator wrote from what it had injected, without the daemon's core.
"""

from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.harness.scenarios import Run, run_scenario
from txninsightd.tools.stack.broker import Broker
from txninsightd.vocabulary import Anomaly

NAMES = ["checkout", "payments-with-aborts", "stuck-orders", "hanging-producer", "messy-input"]
EXACT_S = 0.001
CLAMPED_S = 1.0
"""How far a duration may be off whose ts the daemon clamps to a record timestamp, which the replayer's jitter moves."""


@pytest.fixture(scope="module")
def runs(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Run]]:
    with ThreadPoolExecutor(len(NAMES)) as pool:
        return {
            name: pool.submit(run_scenario, name, tmp_path_factory.mktemp(name), broker.bootstrap) for name in NAMES
        }


@pytest.fixture(params=NAMES)
def run(request: pytest.FixtureRequest, runs: dict[str, Future[Run]]) -> Run:
    return runs[request.param].result()


def test_everything_ran_to_its_end(run: Run) -> None:
    assert run.replay_exit_code == 0
    assert run.daemon_exit_code == 0


def test_no_transaction_is_missing_or_invented(run: Run) -> None:
    assert set(run.transactions) == set(run.truth)


def test_every_transaction_is_told_as_it_was(run: Run) -> None:
    wrong = []
    for txn_id, truth in run.truth.items():
        said = run.transactions[txn_id]
        expected = {
            "state": truth["state"],
            "cause": truth["stuck"],
            "causes_passed": truth["causes"],
            "attempts": truth["attempts"],
            "outcome": truth["outcome"],
            "status": truth["status"],
            "partial": truth["partial"],
            "anomalies": truth["anomalies"],
            "txn_type": truth["txn_type"],
            "events": truth["events"],
        }
        for key, value in expected.items():
            if said[key] != value:
                wrong.append(f"{txn_id} ({truth['failure']}): {key}: {said[key]!r}, should be {value!r}")
    assert not wrong


def test_durations(run: Run) -> None:
    for txn_id, truth in run.truth.items():
        tolerance = EXACT_S if truth["duration_exact"] else CLAMPED_S
        expected = None if truth["duration_s"] is None else pytest.approx(truth["duration_s"], abs=tolerance)
        assert run.transactions[txn_id]["duration_s"] == expected, txn_id


def test_timelines_hold_every_event_with_a_verdict_that_fits_the_state(run: Run) -> None:
    for txn_id, said in run.transactions.items():
        verdicts = Counter((e["kind"], e["verdict"]) for e in run.timelines[txn_id])
        assert sum(verdicts.values()) == said["events"]
        assert (verdicts["transaction_close", "committed"] > 0) == (said["state"] == "closed"), txn_id
        if said["state"] == "tentatively_closed":
            assert verdicts["transaction_close", "pending"] > 0


def counts(rows: list[dict[str, Any]], *labels: str) -> dict[tuple[str, ...], float]:
    return {tuple(row[label] or "unspecified" for label in labels): row["count"] for row in rows}


def metric(run: Run, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """A metric's samples by these labels, zeros left out."""
    found: Counter[tuple[str, ...]] = Counter()
    for (sample, sample_labels), value in run.metrics.items():
        if sample == name and value:
            found[tuple(dict(sample_labels)[label] for label in labels)] += value
    return dict(found)


def test_counters_and_gauges(run: Run) -> None:
    totals = run.totals
    assert metric(run, "txninsight_transactions_opened_total", "txn_type") == counts(totals["opened"], "txn_type")
    finished = ("txn_type", "outcome", "status")
    assert metric(run, "txninsight_transactions_finished_total", *finished) == counts(totals["finished"], *finished)
    stuck = ("txn_type", "cause")
    assert metric(run, "txninsight_stuck_total", *stuck) == counts(totals["stuck_total"], *stuck)
    assert metric(run, "txninsight_stuck_transactions", *stuck) == counts(totals["live_stuck"], *stuck)
    live = ("txn_type", "state")
    assert metric(run, "txninsight_transactions", *live) == counts(totals["live"], *live)
    partial = metric(run, "txninsight_partial_transactions", "txn_type")
    assert partial == counts(totals["live_partial"], "txn_type")


def test_anomalies(run: Run) -> None:
    expected = {(kind,): count for kind, count in run.totals["anomalies"].items() if count}
    if run.totals["late_events"]:
        expected[Anomaly.LATE_EVENT.value,] = run.totals["late_events"]
    assert metric(run, "txninsight_anomalies_total", "kind") == expected


def test_records(run: Run) -> None:
    said = metric(run, "txninsight_records_total", "view", "topic", "result")
    monitored = {(topic, result): n for (view, topic, result), n in said.items() if view == "monitor"}
    expected = {(topic, result): n for topic, by in run.totals["records"].items() for result, n in by.items() if n}
    assert monitored == expected


@pytest.mark.parametrize("figure", ["durations", "step_durations", "step_gaps"])
def test_histograms(run: Run, figure: str) -> None:
    name = {
        "durations": "txninsight_transaction_duration_seconds",
        "step_durations": "txninsight_step_duration_seconds",
        "step_gaps": "txninsight_step_gap_seconds",
    }[figure]
    labels = ("txn_type",) if figure == "durations" else ("txn_type", "step")
    rows = run.totals[figure]
    assert metric(run, f"{name}_count", *labels) == counts(rows, *labels)
    sums = {tuple(row[label] for label in labels): row["sum_s"] for row in rows if row["sum_s"]}
    inexact = any(not truth["duration_exact"] for truth in run.truth.values())
    tolerance = CLAMPED_S * len(run.truth) if inexact else EXACT_S * len(run.truth)
    assert metric(run, f"{name}_sum", *labels) == pytest.approx(sums, abs=tolerance)


def test_the_scenarios_cover_what_they_promise(runs: dict[str, Future[Run]]) -> None:
    all_runs = [future.result() for future in runs.values()]
    truths = [truth for run in all_runs for truth in run.truth.values()]
    assert {c for t in truths for c in t["causes"]} >= {
        "idle",
        "overdue",
        "undecided",
        "commit_pending",
        "never_committed",
    }
    assert {t["state"] for t in truths} >= {"open", "tentatively_closed", "closed", "aborted"}
    assert max(t["attempts"] for t in truths) >= 2
    results = {result for run in all_runs for by in run.totals["records"].values() for result, n in by.items() if n}
    assert results >= {"ok", "malformed", "oversized", "foreign"}


def test_an_oldest_undecided_record_is_named_while_a_transaction_hangs(runs: dict[str, Future[Run]]) -> None:
    partitions = runs["hanging-producer"].result().partitions
    rows = partitions["partitions"] if isinstance(partitions, dict) else partitions
    waiting = [row for row in rows if row["undecided_records"]]
    assert waiting
    for row in waiting:
        oldest = row["oldest_undecided"]
        assert oldest["offset"] >= row["validator_offset"]
        assert oldest["txn_id"]
