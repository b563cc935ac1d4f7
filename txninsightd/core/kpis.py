"""What is measured of a settled transaction: duration, steps, gaps, and what was odd about it.

All figures come from committed events in the order (ts, topic, partition, offset), so that neither order of arrival
nor the broker's batching can change them. A figure that would be negative is no figure: it is the anomaly
`negative_gap` instead. The k-th step_open of a step pairs with its k-th step_done; a step's gap runs from the event
before it to its open.
"""

from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

from txninsightd.core.events import Event, Judged, Life, event_order
from txninsightd.vocabulary import Anomaly, Kind, Verdict


class StepFigure(NamedTuple):
    """One duration or gap of one step, in seconds."""

    step: str | None
    seconds: float


class Kpis(NamedTuple):
    """The figures of one closed transaction. `duration_s` is None where no honest one exists."""

    duration_s: float | None
    status: str | None
    step_durations: list[StepFigure]
    step_gaps: list[StepFigure]
    anomalies: set[Anomaly]


def committed_events(life: Life) -> list[Event]:
    """The committed events of a life, ordered."""
    return sorted((j.event for j in life if j.verdict is Verdict.COMMITTED), key=event_order)


def kpis_of(life: Life, partial: bool) -> Kpis:
    """The figures and anomalies of a closed life (one that has a committed close)."""
    events = committed_events(life)
    anomalies: set[Anomaly] = set()
    opens = [e for e in events if e.signature.kind == Kind.TRANSACTION_OPEN]
    closing = [e for e in events if e.signature.kind == Kind.TRANSACTION_CLOSE]
    durations = _step_durations(events, anomalies)
    _judge_ends(life, opens, closing, anomalies)
    if any(e.signature.kind != Kind.TRANSACTION_CLOSE and event_order(e) > event_order(closing[0]) for e in events):
        anomalies.add(Anomaly.EVENT_AFTER_CLOSE)
    duration = None if partial or not opens else closing[0].ts - opens[0].ts
    if duration is not None and duration < 0:
        anomalies.add(Anomaly.NEGATIVE_GAP)
        duration = None
    return Kpis(duration, closing[0].signature.status, durations, _step_gaps(events), anomalies)


def _judge_ends(life: Life, opens: list[Event], closing: list[Event], anomalies: set[Anomaly]) -> None:
    if len(opens) > 1:
        anomalies.add(Anomaly.DUPLICATE_OPEN)
    if len(closing) > 1:
        anomalies.add(Anomaly.DUPLICATE_CLOSE)
    if not opens:
        sighted = any(j.kind == Kind.TRANSACTION_OPEN for j in life)
        anomalies.add(Anomaly.OPEN_NOT_COMMITTED if sighted else Anomaly.CLOSE_WITHOUT_OPEN)


def _step_durations(events: list[Event], anomalies: set[Anomaly]) -> list[StepFigure]:
    opened: dict[str | None, list[float]] = defaultdict(list)
    done: dict[str | None, list[float]] = defaultdict(list)
    for event in events:
        kind = event.signature.kind
        if kind == Kind.STEP_OPEN:
            opened[event.signature.step].append(event.ts)
        elif kind == Kind.STEP_DONE:
            done[event.signature.step].append(event.ts)
    figures = []
    for step, starts in opened.items():
        ends = done.get(step, [])
        if len(starts) > len(ends):
            anomalies.add(Anomaly.STEP_NOT_DONE)
        for start, end in zip(starts, ends, strict=False):
            if end < start:
                anomalies.add(Anomaly.NEGATIVE_GAP)
            else:
                figures.append(StepFigure(step, end - start))
    if any(len(ends) > len(opened.get(step, ())) for step, ends in done.items()):
        anomalies.add(Anomaly.DONE_WITHOUT_OPEN)
    return figures


def _step_gaps(events: list[Event]) -> list[StepFigure]:
    return [
        StepFigure(event.signature.step, event.ts - before.ts)
        for before, event in pairwise(events)
        if event.signature.kind == Kind.STEP_OPEN
    ]


def common_anomalies(life: Life, colocated: bool, late_retry: bool) -> set[Anomaly]:
    """Oddities that do not depend on how the transaction ended."""
    found: set[Anomaly] = set()
    if any(j.event.signature.future for j in life):
        found.add(Anomaly.FUTURE_TIMESTAMP)
    if colocated and len({j.event.place for j in life}) > 1:
        found.add(Anomaly.NOT_COLOCATED)
    if late_retry:
        found.add(Anomaly.LATE_RETRY)
    return found


def type_of(events: list[Event]) -> str | None:
    """The type that the earliest event with a type names."""
    typed = [e for e in events if e.signature.txn_type is not None]
    return min(typed, key=event_order).signature.txn_type if typed else None


def first_committed_close(life: Life) -> Judged | None:
    """The close that ended a closed life."""
    committed = [j for j in life if j.kind == Kind.TRANSACTION_CLOSE and j.verdict is Verdict.COMMITTED]
    return min(committed, key=lambda j: event_order(j.event), default=None)
