"""One business transaction as the API shows it, live or settled.

A live transaction is judged as of now. Its `state` is the present one (closed, but not `settled`, once a close is
committed), and its `status` comes from the committed close. Fields that only settlement decides (`outcome`,
`duration_s`, `anomalies`) are empty. A settled transaction shows what was counted. Times are epoch seconds.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from txninsightd.core.events import Judged, Life, event_order
from txninsightd.core.finished import Finished
from txninsightd.core.kpis import first_committed_close
from txninsightd.core.ledger import Ledger
from txninsightd.core.lifecycle import NEVER, attempts_of, last_activity
from txninsightd.core.transaction import Transaction
from txninsightd.expose.text_format import kind_name
from txninsightd.expose.why import why_live, why_settled
from txninsightd.vocabulary import Kind

Entry = Transaction | Finished


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction in a listing. `age_s`: seconds since its open, for live ones that are not closed."""

    txn_id: str
    txn_type: str | None
    state: str
    stuck: bool
    cause: str | None
    stuck_since: float | None
    opened_at: float | None
    last_event_at: float
    age_s: float | None
    attempts: int
    partial: bool
    replayed: bool
    settled: bool
    outcome: str | None
    status: str | None
    duration_s: float | None
    causes_passed: Sequence[str]
    anomalies: list[str]
    events: int


class TimelineEntry(msgspec.Struct, frozen=True):
    """One event of a transaction."""

    topic: str
    partition: int
    offset: int
    kind: str
    step: str | None
    status: str | None
    ts: float
    record_timestamp: float
    verdict: str


class Detail(Summary, frozen=True, kw_only=True):
    """A transaction with its events, by (ts, topic, partition, offset), and a sentence that explains its state."""

    why: str
    timeline: list[TimelineEntry]


def summary_of(ledger: Ledger, entry: Entry, now: float) -> Summary:
    """An entry of a listing."""
    return Summary(**_fields(ledger, entry, life_of(ledger, entry), now))


def detail_of(ledger: Ledger, entry: Entry, now: float) -> Detail:
    """All fields of one transaction."""
    life = life_of(ledger, entry)
    why = why_settled(entry) if isinstance(entry, Finished) else why_live(ledger, entry, life)
    timeline = [_timeline_entry(judged) for judged in sorted(life, key=lambda j: event_order(j.event))]
    return Detail(**_fields(ledger, entry, life, now), why=why, timeline=timeline)


def life_of(ledger: Ledger, entry: Entry) -> list[Judged]:
    """Its events with their verdicts: as of now, or as of settlement."""
    return entry.life if isinstance(entry, Finished) else ledger.life(entry)


def _fields(ledger: Ledger, entry: Entry, life: Life, now: float) -> dict[str, Any]:
    return _settled_fields(entry) if isinstance(entry, Finished) else _live_fields(entry, life, now)


def _live_fields(txn: Transaction, life: Life, now: float) -> dict[str, Any]:
    close = first_committed_close(life)
    opened_at = _opened_at(txn)
    # A closed transaction stops ageing; a replayed one has no age.
    aged = opened_at is not None and close is None and not txn.replayed
    return {
        **_common_fields(txn),
        "state": txn.state.value,
        "stuck": txn.cause is not None,
        "cause": txn.cause,
        "stuck_since": txn.since if txn.cause is not None else None,
        "last_event_at": txn.last_at,
        "age_s": max(0.0, now - txn.opened_at) if aged else None,
        "attempts": attempts_of(life),
        "partial": txn.partial,
        "settled": False,
        "outcome": None,
        "status": close.event.signature.status if close is not None else None,
        "duration_s": None,
        "anomalies": [],
        "events": len(life),
    }


def _settled_fields(finished: Finished) -> dict[str, Any]:
    txn, life = finished.txn, finished.life
    return {
        **_common_fields(txn),
        "state": finished.outcome.value,
        "stuck": False,
        "cause": None,
        "stuck_since": None,
        "last_event_at": last_activity(life),
        "age_s": None,
        "attempts": finished.attempts,
        "partial": txn.early or not any(j.kind == Kind.TRANSACTION_OPEN for j in life),
        "settled": True,
        "outcome": finished.outcome,
        "status": finished.kpis.status,
        "duration_s": finished.kpis.duration_s,
        "anomalies": sorted(finished.kpis.anomalies),
        "events": len(life),
    }


def _common_fields(txn: Transaction) -> dict[str, Any]:
    return {
        "txn_id": txn.txn_id,
        "txn_type": txn.txn_type,
        "opened_at": _opened_at(txn),
        "replayed": txn.replayed,
        "causes_passed": txn.causes,
    }


def _opened_at(txn: Transaction) -> float | None:
    return None if txn.opened_at == NEVER else txn.opened_at


def _timeline_entry(judged: Judged) -> TimelineEntry:
    event = judged.event
    return TimelineEntry(
        event.ref.topic,
        event.ref.partition,
        event.offset,
        kind_name(event.signature.kind),
        event.signature.step,
        event.signature.status,
        event.ts,
        event.record_ts,
        judged.verdict,
    )
