"""The truth: the expected result of every transaction, written as soon as it is final, and the totals.

It is what the daemon must report `observe_after_s` after a complete replay at speed 1. A trace is dropped once its
result is written, so only open transactions take memory. Each result is compared with the scenario's expectations. A
result that matches none of them is a contradiction.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET

from txninsightd.tools.simulation.evaluation import (
    EvaluationRules,
    LifeResult,
    Result,
    evaluate,
    evaluate_undisturbed,
    is_borderline,
    undisturbed_state,
)
from txninsightd.tools.simulation.figures import Figures, opens_of
from txninsightd.tools.simulation.kafkalog import KafkaTransaction, Record
from txninsightd.tools.simulation.scenario import Expected, Scenario
from txninsightd.vocabulary import Anomaly, Cause, Outcome


class Trace:
    """The records that one business transaction wrote."""

    def __init__(self, truth: "Truth", txn_id: str, txn_type: str, failure: str | None) -> None:
        self.txn_id = txn_id
        self.txn_type = txn_type
        self.failure = failure
        self.records: list[Record] = []
        self.undecided = 0
        self._truth = truth
        self._written = False

    def add(self, record: Record) -> None:
        """Add a record."""
        self.records.append(record)

    def all_written(self) -> None:
        """No further record will follow."""
        self._written = True
        if not self.undecided:
            self._truth.complete(self)

    def all_decided(self) -> None:
        """All records so far are decided."""
        if self._written:
            self._truth.complete(self)


@dataclass
class Totals:
    """Totals of the whole run, as the daemon's counters and gauges must show them."""

    records: Counter[tuple[str, str]] = field(default_factory=Counter)
    kafka: Counter[str] = field(default_factory=Counter)
    opened: Counter[str] = field(default_factory=Counter)
    finished: Counter[tuple[str, Outcome, str | None]] = field(default_factory=Counter)
    stuck: Counter[tuple[str, Cause]] = field(default_factory=Counter)
    live: Counter[tuple[str, str]] = field(default_factory=Counter)
    live_stuck: Counter[tuple[str, Cause]] = field(default_factory=Counter)
    live_partial: Counter[str] = field(default_factory=Counter)
    anomalies: Counter[Anomaly] = field(default_factory=Counter)
    durations: dict[tuple[str], list[float]] = field(default_factory=dict)
    step_durations: dict[tuple[str, str | None], list[float]] = field(default_factory=dict)
    step_gaps: dict[tuple[str, str | None], list[float]] = field(default_factory=dict)
    late_events: int = 0
    transactions: int = 0
    borderline: list[str] = field(default_factory=list)

    def record(self, topic: str, result: str) -> None:
        """Count a record."""
        self.records[topic, result] += 1

    def add(self, txn_type: str, result: Result) -> None:
        """Add one transaction's result."""
        self.transactions += 1
        self.late_events += result.late_events
        if result.late_events:
            self.anomalies[Anomaly.LATE_EVENT] += result.late_events
        self.anomalies.update(result.anomalies)
        for life in result.lives:
            self._add_life(txn_type, life, result)
        if result.figures is not None:
            self._add_figures(txn_type, result.figures)

    def _add_life(self, txn_type: str, life: LifeResult, result: Result) -> None:
        self.opened[txn_type] += bool(opens_of(life.records))
        self.stuck.update((txn_type, cause) for cause in life.causes)
        if life.outcome is not None:
            # Only the last life has figures: earlier lives were aborted.
            status = result.figures.status if result.figures is not None and life is result.lives[-1] else None
            self.finished[txn_type, life.outcome, status] += 1
        elif life.cause is not None:
            self.live[txn_type, "stuck"] += 1
            self.live_stuck[txn_type, life.cause] += 1
        else:
            self.live[txn_type, life.state.value] += 1
            self.live_partial[txn_type] += result.partial

    def _add_figures(self, txn_type: str, figures: Figures) -> None:
        if figures.duration_s is not None:
            _observe(self.durations, (txn_type,), figures.duration_s)
        for step, seconds in figures.step_durations:
            _observe(self.step_durations, (txn_type, step), seconds)
        for step, seconds in figures.step_gaps:
            _observe(self.step_gaps, (txn_type, step), seconds)


def _observe(into: dict[Any, list[float]], key: tuple[str | None, ...], seconds: float) -> None:
    both = into.setdefault(key, [0, 0.0])
    both[0] += 1
    both[1] += seconds


def _rows(counts: Counter[Any], *names: str) -> list[dict[str, Any]]:
    # With one label, keys are not tuples.
    keys = sorted((key if isinstance(key, tuple) else (key,) for key in counts), key=str)
    return [dict(zip(names, key, strict=True)) | {"count": counts[key if len(key) > 1 else key[0]]} for key in keys]


def _by_topic(records: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (topic, result), count in sorted(records.items()):
        nested.setdefault(topic, {})[result] = count
    return nested


def _sums(observed: dict[Any, list[float]], *names: str) -> list[dict[str, Any]]:
    keys = sorted(observed, key=str)
    return [
        dict(zip(names, key, strict=True)) | {"count": observed[key][0], "sum_s": round(observed[key][1], 6)}
        for key in keys
    ]


class Truth:
    """Writes each result as soon as it is final, and the rest at the end. `write` gets one plain object per line."""

    def __init__(
        self, scenario: Scenario, write: Callable[[dict[str, Any]], object], last_at: Callable[[], float]
    ) -> None:
        self.totals = Totals()
        self.hanging: dict[KafkaTransaction, float] = {}  # transactions of dead producers, by the time of their abort
        self.contradictions: list[str] = []
        self._scenario = scenario
        self._write = write
        self._last_at = last_at
        self._traces: dict[str, Trace] = {}

    def begin(self, txn_id: str, txn_type: str, failure: str | None) -> Trace:
        """Start a transaction's trace."""
        trace = Trace(self, txn_id, txn_type, failure)
        self._traces[txn_id] = trace
        return trace

    def complete(self, trace: Trace) -> None:
        """All records are written and decided: write the result if later lines cannot change it."""
        # The run ends no earlier than this. A result that is settled by then, and not borderline, is final.
        rules = self._rules_for(trace, self._last_at() + self._scenario.observe_after_s)
        result, borderline = _evaluate(trace, rules)
        if result.lives[-1].settled and not borderline:
            self._write_truth(trace, result, False)

    def close(self, until: float) -> None:
        """Write the remaining results and the totals."""
        # At the time of evaluation the broker may or may not have aborted these. Transactions behind them are
        # borderline.
        about_to_end = any(
            at - self._scenario.timeout_check_s / 2 - self._scenario.margin_s < until for at in self.hanging.values()
        )
        for trace in list(self._traces.values()):
            result, borderline = _evaluate(trace, self._rules_for(trace, until))
            self._write_truth(trace, result, borderline or (about_to_end and trace.undecided > 0))
        self._write({"totals": self._totals(until)})

    def _rules_for(self, trace: Trace, until: float) -> EvaluationRules:
        rules = self._scenario.rules
        idle, overdue, pending = self._scenario.thresholds(trace.txn_type)
        return EvaluationRules(
            idle_after_s=idle,
            overdue_after_s=overdue,
            commit_pending_after_s=pending,
            retry_grace_s=rules.retry_grace_s,
            settle_lateness_s=rules.settle_lateness_s,
            margin_s=self._scenario.margin_s,
            colocated=self._scenario.colocated,
            until=until,
        )

    def _write_truth(self, trace: Trace, result: Result, borderline: bool) -> None:
        del self._traces[trace.txn_id]
        self.totals.add(trace.txn_type, result)
        if borderline:
            self.totals.borderline.append(trace.txn_id)
        line = _line(trace, result)
        line["reason"] = self._reason(trace, line)
        self._write(line)
        # Break the reference cycle with the records, so both are freed at once.
        trace.records = []

    def _reason(self, trace: Trace, line: dict[str, Any]) -> str | None:
        expected = self._scenario.expected_of(trace.failure)
        for expectation in expected:
            if meets(line, expectation):
                return expectation.reason
        shown = {key: line[key] for key in ("state", "stuck", "causes", "attempts", "outcome", "anomalies")}
        came_to = msgspec.json.encode(shown).decode()
        self.contradictions.append(f"{trace.txn_id} ({trace.failure or 'healthy'}) came to {came_to}")
        return None

    def _totals(self, until: float) -> dict[str, Any]:
        t = self.totals
        return {
            "transactions": t.transactions,
            "judged_at": round(until, 6),
            "records": _by_topic(t.records),
            "kafka": dict(sorted(t.kafka.items())),
            "opened": _rows(t.opened, "txn_type"),
            "finished": _rows(t.finished, "txn_type", "outcome", "status"),
            "stuck_total": _rows(t.stuck, "txn_type", "cause"),
            "anomalies": dict(sorted(t.anomalies.items())),
            "late_events": t.late_events,
            "live": _rows(t.live, "txn_type", "state"),
            "live_stuck": _rows(t.live_stuck, "txn_type", "cause"),
            "live_partial": _rows(t.live_partial, "txn_type"),
            "durations": _sums(t.durations, "txn_type"),
            "step_durations": _sums(t.step_durations, "txn_type", "step"),
            "step_gaps": _sums(t.step_gaps, "txn_type", "step"),
            "borderline": sorted(t.borderline),
        }


def _evaluate(trace: Trace, rules: EvaluationRules) -> tuple[Result, bool]:
    # Most are undisturbed, and one evaluation is enough.
    calm = None if trace.undecided else undisturbed_state(trace.records, rules)
    if calm is not None:
        return evaluate_undisturbed(trace.records, calm, rules), False
    result = evaluate(trace.records, rules)
    return result, is_borderline(result, trace.records, rules)


def _line(trace: Trace, result: Result) -> dict[str, Any]:
    last, figures = result.lives[-1], result.figures
    return {
        "txn_id": trace.txn_id,
        "txn_type": trace.txn_type,
        "state": last.state,
        "stuck": last.cause,
        "causes": list(last.causes),
        "attempts": result.attempts,
        "duration_s": figures.duration_s if figures else None,
        "duration_exact": figures.exact if figures else True,
        "outcome": last.outcome,
        "status": figures.status if figures else None,
        "partial": result.partial,
        "anomalies": list(result.anomalies),
        "late_events": result.late_events,
        "earlier_outcomes": [life.outcome for life in result.lives[:-1]],
        "events": len(last.records),
        "failure": trace.failure,
    }


def meets(line: dict[str, Any], expected: Expected) -> bool:
    """Whether a truth line matches all keys of an expectation."""
    shown = {**line, "has_duration": line["duration_s"] is not None}
    named = {key: getattr(expected, key) for key in expected.__struct_fields__ if key != "reason"}
    return all(value is UNSET or shown[key] == value for key, value in named.items())
