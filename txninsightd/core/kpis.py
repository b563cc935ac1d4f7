"""What is measured of a settled transaction: duration, steps, gaps, and what was odd about it.

All figures come from committed events in the order (ts, topic, partition, offset), so that neither order of arrival
nor the broker's batching can change them. A figure that would be negative is no figure: it is the anomaly
`negative_gap` instead. The k-th step_open of a step pairs with its k-th step_done; a step's gap runs from the event
before it to its open.
"""

from collections.abc import Iterable, Mapping

import msgspec

from txninsightd.core.events import Event, Judged, Life, event_order
from txninsightd.vocabulary import Anomaly, Kind, Verdict

# In the order in which Kind names them.
OPEN, STEP_OPEN, STEP_DONE, CLOSE = map(int, Kind)

StepFigure = tuple[str | None, float]
"""One duration or gap of one step, in seconds."""


class Kpis(msgspec.Struct, frozen=True, gc=False):
    """The figures of one closed transaction. `duration_s` is None where it cannot be measured."""

    duration_s: float | None
    status: str | None
    step_durations: list[StepFigure]
    step_gaps: list[StepFigure]
    anomalies: set[Anomaly]


def in_order(events: Iterable[Event]) -> list[Event]:
    """Events as figures are taken from them."""
    return sorted(events, key=event_order)


def kpis_of(life: Life, partial: bool) -> Kpis:
    """The figures and anomalies of a closed life (one that has a committed close)."""
    committed = in_order(j.event for j in life if j.verdict is Verdict.COMMITTED)
    return measure(committed, any(j.kind == Kind.TRANSACTION_OPEN for j in life), partial)


def measure(events: list[Event], open_sighted: bool, partial: bool) -> Kpis:
    """The same from the committed events, in order. `open_sighted`: whether an open was, committed or not."""
    opens: list[float] = []
    closes: list[Event] = []
    opened: dict[str | None, list[float]] = {}
    done: dict[str | None, list[float]] = {}
    gaps: list[StepFigure] = []
    before = None
    for event in events:
        signature, ts = event.signature, event.ts
        kind = signature.kind
        if kind == STEP_OPEN:
            opened.setdefault(signature.step, []).append(ts)
            if before is not None:
                gaps.append((signature.step, ts - before))
        elif kind == STEP_DONE:
            done.setdefault(signature.step, []).append(ts)
        elif kind == OPEN:
            opens.append(ts)
        else:
            closes.append(event)
        before = ts
    anomalies: set[Anomaly] = set()
    durations = _step_durations(opened, done, anomalies)
    # Events are in order, so the first of each list is the earliest; a closed life has a close.
    duration = None if partial or not opens else closes[0].ts - opens[0]
    if duration is not None and duration < 0:
        anomalies.add(Anomaly.NEGATIVE_GAP)
        duration = None
    if not opens:
        anomalies.add(Anomaly.OPEN_NOT_COMMITTED if open_sighted else Anomaly.CLOSE_WITHOUT_OPEN)
    if len(opens) > 1:
        anomalies.add(Anomaly.DUPLICATE_OPEN)
    if len(closes) > 1:
        anomalies.add(Anomaly.DUPLICATE_CLOSE)
    # Mostly the close is the last event.
    if events[-1] is not closes[0] and any(e.signature.kind != CLOSE for e in events[events.index(closes[0]) :]):
        anomalies.add(Anomaly.EVENT_AFTER_CLOSE)
    return Kpis(duration, closes[0].signature.status, durations, gaps, anomalies)


Moments = Mapping[str | None, list[float]]


def _step_durations(opened: Moments, done: Moments, anomalies: set[Anomaly]) -> list[StepFigure]:
    figures = []
    for step, starts in opened.items():
        ends = done.get(step, [])
        if len(starts) > len(ends):
            anomalies.add(Anomaly.STEP_NOT_DONE)
        for start, end in zip(starts, ends, strict=False):
            if end < start:
                anomalies.add(Anomaly.NEGATIVE_GAP)
            else:
                figures.append((step, end - start))
    for step, ends in done.items():
        if len(ends) > len(opened.get(step, ())):
            anomalies.add(Anomaly.DONE_WITHOUT_OPEN)
    return figures


def common_anomalies(life: Life, colocated: bool, late_retry: bool) -> set[Anomaly]:
    """Oddities that do not depend on how the transaction ended."""
    found: set[Anomaly] = set()
    if any(j.event.signature.future for j in life):
        found.add(Anomaly.FUTURE_TIMESTAMP)
    # Without the incarnation: a recreated topic keeps a key in the same partition.
    if colocated and len({(j.event.ref.topic, j.event.ref.partition) for j in life}) > 1:
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
