"""The book of truth: every transaction's story, told as soon as it is final, and the sums over all of them.

It holds what the daemon must say once everything was replayed at speed 1 and `observe_after_s` more have passed. A
story that is told and written is forgotten, so memory is bounded by the transactions that are open. Each is held
against what the scenario expects of it; what fits nothing there is a contradiction.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET

from txninsightd.tools.simulation.figures import Figures, opens_of
from txninsightd.tools.simulation.kafkalog import KafkaTransaction, Record
from txninsightd.tools.simulation.scenario import Expected, Scenario
from txninsightd.tools.simulation.telling import (
    Judge,
    LifeTold,
    Told,
    calm_state,
    is_borderline,
    tell,
    tell_calm,
)
from txninsightd.vocabulary import Anomaly, Cause, Outcome


class Story:
    """All that one business transaction wrote."""

    def __init__(self, truth: "Truth", txn_id: str, txn_type: str, failure: str | None) -> None:
        self.txn_id = txn_id
        self.txn_type = txn_type
        self.failure = failure
        self.records: list[Record] = []
        self.undecided = 0
        self._truth = truth
        self._written = False

    def add(self, record: Record) -> None:
        """It wrote this."""
        self.records.append(record)

    def all_written(self) -> None:
        """It will write nothing more."""
        self._written = True
        if not self.undecided:
            self._truth.ripe(self)

    def all_decided(self) -> None:
        """Nothing of it is undecided at present."""
        if self._written:
            self._truth.ripe(self)


@dataclass
class Totals:
    """Sums over the whole run, as the daemon's counters and gauges must have them."""

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
        """One record was written."""
        self.records[topic, result] += 1

    def add(self, txn_type: str, told: Told) -> None:
        """One transaction's story is told."""
        self.transactions += 1
        self.late_events += told.late_events
        if told.late_events:
            self.anomalies[Anomaly.LATE_EVENT] += told.late_events
        self.anomalies.update(told.anomalies)
        for life in told.lives:
            self._add_life(txn_type, life, told)
        if told.figures is not None:
            self._add_figures(txn_type, told.figures)

    def _add_life(self, txn_type: str, life: LifeTold, told: Told) -> None:
        self.opened[txn_type] += bool(opens_of(life.records))
        self.stuck.update((txn_type, cause) for cause in life.causes)
        if life.outcome is not None:
            # Figures are of the last life: those before it were aborted.
            status = told.figures.status if told.figures is not None and life is told.lives[-1] else None
            self.finished[txn_type, life.outcome, status] += 1
        elif life.cause is not None:
            self.live[txn_type, "stuck"] += 1
            self.live_stuck[txn_type, life.cause] += 1
        else:
            self.live[txn_type, life.state.value] += 1
            self.live_partial[txn_type] += told.partial

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
    # With one label the keys are bare.
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
    """Tells each story as soon as it is final, the rest at the end. `write` gets one plain object a line."""

    def __init__(
        self, scenario: Scenario, write: Callable[[dict[str, Any]], object], last_at: Callable[[], float]
    ) -> None:
        self.totals = Totals()
        self.hanging: dict[KafkaTransaction, float] = {}  # those of dead producers, and when the broker will abort them
        self.contradictions: list[str] = []
        self._scenario = scenario
        self._write = write
        self._last_at = last_at
        self._stories: dict[str, Story] = {}

    def begin(self, txn_id: str, txn_type: str, failure: str | None) -> Story:
        """A transaction begins."""
        story = Story(self, txn_id, txn_type, failure)
        self._stories[txn_id] = story
        return story

    def ripe(self, story: Story) -> None:
        """All of it is written and decided: tell it, if nothing that is still to come can change it."""
        # The run ends no earlier than this; what is settled by then, and not borderline, stays as it is.
        judge = self._judge(story, self._last_at() + self._scenario.observe_after_s)
        told, borderline = _tell_surely(story, judge)
        if told.lives[-1].settled and not borderline:
            self._tell(story, told, False)

    def close(self, until: float) -> None:
        """Tell all that is left, and the totals."""
        # The broker may just have ended these, or not, when all is judged: who waits for them could be either.
        about_to_end = any(
            at - self._scenario.timeout_check_s / 2 - self._scenario.margin_s < until for at in self.hanging.values()
        )
        for story in list(self._stories.values()):
            told, borderline = _tell_surely(story, self._judge(story, until))
            self._tell(story, told, borderline or (about_to_end and story.undecided > 0))
        self._write({"totals": self._totals(until)})

    def _judge(self, story: Story, until: float) -> Judge:
        rules = self._scenario.rules
        idle, overdue, pending = self._scenario.thresholds(story.txn_type)
        return Judge(
            idle_after_s=idle,
            overdue_after_s=overdue,
            commit_pending_after_s=pending,
            retry_grace_s=rules.retry_grace_s,
            settle_lateness_s=rules.settle_lateness_s,
            margin_s=self._scenario.margin_s,
            colocated=self._scenario.colocated,
            until=until,
        )

    def _tell(self, story: Story, told: Told, borderline: bool) -> None:
        del self._stories[story.txn_id]
        self.totals.add(story.txn_type, told)
        if borderline:
            self.totals.borderline.append(story.txn_id)
        line = _line(story, told)
        line["reason"] = self._reason(story, line)
        self._write(line)
        # Records know their story: cut apart, both are freed at once.
        story.records = []

    def _reason(self, story: Story, line: dict[str, Any]) -> str | None:
        expected = self._scenario.expected_of(story.failure)
        for one in expected:
            if meets(line, one):
                return one.reason
        shown = {key: line[key] for key in ("state", "stuck", "causes", "attempts", "outcome", "anomalies")}
        came_to = msgspec.json.encode(shown).decode()
        self.contradictions.append(f"{story.txn_id} ({story.failure or 'healthy'}) came to {came_to}")
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


def _tell_surely(story: Story, judge: Judge) -> tuple[Told, bool]:
    # Most are calm, and need not be told five times.
    calm = None if story.undecided else calm_state(story.records, judge)
    if calm is not None:
        return tell_calm(story.records, calm, judge), False
    told = tell(story.records, judge)
    return told, is_borderline(told, story.records, judge)


def _line(story: Story, told: Told) -> dict[str, Any]:
    last, figures = told.lives[-1], told.figures
    return {
        "txn_id": story.txn_id,
        "txn_type": story.txn_type,
        "state": last.state,
        "stuck": last.cause,
        "causes": list(last.causes),
        "attempts": told.attempts,
        "duration_s": figures.duration_s if figures else None,
        "duration_exact": figures.exact if figures else True,
        "outcome": last.outcome,
        "status": figures.status if figures else None,
        "partial": told.partial,
        "anomalies": list(told.anomalies),
        "late_events": told.late_events,
        "earlier_outcomes": [life.outcome for life in told.lives[:-1]],
        "events": len(last.records),
        "failure": story.failure,
    }


def meets(line: dict[str, Any], expected: Expected) -> bool:
    """Whether a truth line is what a scenario expects: in all that it names."""
    shown = {**line, "has_duration": line["duration_s"] is not None}
    named = {key: getattr(expected, key) for key in expected.__struct_fields__ if key != "reason"}
    return all(value is UNSET or shown[key] == value for key, value in named.items())
