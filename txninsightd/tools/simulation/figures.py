"""Measurements of a closed transaction: duration, steps, gaps and anomalies.

They come from committed events in the order (ts, topic, partition, offset). The k-th open of a step pairs with its k-th
done. A gap runs from the event before a step's open to that open. A negative time counts as an anomaly, not as a value.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from txninsightd.tools.simulation.kafkalog import Record
from txninsightd.vocabulary import Anomaly, Kind


def event_order(record: Record) -> tuple[float, str, int, int]:
    """The sort key by event time."""
    return record.ts, record.partition.topic, record.partition.index, record.offset


def closes_of(records: list[Record]) -> list[Record]:
    """The closes among them."""
    return [r for r in records if r.kind == Kind.TRANSACTION_CLOSE]


def opens_of(records: list[Record]) -> list[Record]:
    """The opens among them."""
    return [r for r in records if r.kind == Kind.TRANSACTION_OPEN]


class Figures(NamedTuple):
    """The figures of a closed life. Steps: (step, seconds)."""

    duration_s: float | None
    exact: bool  # False: a clamped ts is part of it, so it is only as exact as the replay's timing
    status: str | None
    step_durations: tuple[tuple[str | None, float], ...]
    step_gaps: tuple[tuple[str | None, float], ...]
    anomalies: frozenset[Anomaly]


def figures_of(life: list[Record], committed: list[Record]) -> Figures:
    """The figures of a closed life from its committed events; `life` also has the aborted ones."""
    events = sorted(committed, key=event_order)
    opens, closes = opens_of(events), closes_of(events)
    first = closes[0]
    found = _anomalies(life, events, opens, closes)
    durations = []
    for step, starts, ends in _steps(events):
        if len(starts) > len(ends):
            found.add(Anomaly.STEP_NOT_DONE)
        if len(ends) > len(starts):
            found.add(Anomaly.DONE_WITHOUT_OPEN)
        for start, done in zip(starts, ends, strict=False):
            if done < start:
                found.add(Anomaly.NEGATIVE_GAP)
            else:
                durations.append((step, round(done - start, 6)))
    gaps = [(r.step, round(r.ts - before.ts, 6)) for before, r in pairwise(events) if r.kind == Kind.STEP_OPEN]
    duration = round(first.ts - opens[0].ts, 6) if opens else None
    if duration is not None and duration < 0:
        found.add(Anomaly.NEGATIVE_GAP)
        duration = None
    exact = not (first.future or any(r.future for r in opens[:1]))
    return Figures(duration, exact, first.status, tuple(durations), tuple(gaps), frozenset(found))


def _anomalies(life: list[Record], events: list[Record], opens: list[Record], closes: list[Record]) -> set[Anomaly]:
    found = set()
    if len(opens) > 1:
        found.add(Anomaly.DUPLICATE_OPEN)
    if len(closes) > 1:
        found.add(Anomaly.DUPLICATE_CLOSE)
    if not opens:
        found.add(Anomaly.OPEN_NOT_COMMITTED if opens_of(life) else Anomaly.CLOSE_WITHOUT_OPEN)
    if any(r.ts > closes[0].ts for r in events if r.kind != Kind.TRANSACTION_CLOSE):
        found.add(Anomaly.EVENT_AFTER_CLOSE)
    return found


def _steps(events: list[Record]) -> Iterator[tuple[str | None, list[float], list[float]]]:
    """Each step with the ts of its opens and its dones, in order."""
    stepping = [r for r in events if r.kind in (Kind.STEP_OPEN, Kind.STEP_DONE)]
    for step in dict.fromkeys(r.step for r in stepping):
        yield (
            step,
            [r.ts for r in stepping if r.step == step and r.kind == Kind.STEP_OPEN],
            [r.ts for r in stepping if r.step == step and r.kind == Kind.STEP_DONE],
        )
