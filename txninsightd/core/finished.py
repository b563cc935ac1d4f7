"""The end of a transaction: its outcome and what is measured of it, worked out once."""

import msgspec

from txninsightd.core.events import STEP_KINDS, Judged
from txninsightd.core.kpis import (
    Kpis,
    common_anomalies,
    first_committed_close,
    in_order,
    kpis_of,
    measure,
    type_of,
)
from txninsightd.core.lifecycle import attempts_of, outcome_of, up_to_first_close
from txninsightd.core.transaction import NO_NOTES, Transaction
from txninsightd.vocabulary import Anomaly, Kind, Outcome, Verdict


class Finished(msgspec.Struct, frozen=True, gc=False):
    """A settled transaction. `late_events`: sightings beyond the close that ended it (colocated only).

    `doubtful_life`: its events with their verdicts, None where all are committed.
    """

    txn: Transaction
    doubtful_life: list[Judged] | None
    outcome: Outcome
    attempts: int
    kpis: Kpis
    commit_delay_s: float | None
    late_events: int
    settled_at: float

    @property
    def life(self) -> list[Judged]:
        """Its events with their verdicts."""
        if self.doubtful_life is not None:
            return self.doubtful_life
        return [Judged(event, Verdict.COMMITTED) for event in self.txn.events]


def is_plain(txn: Transaction, colocated: bool) -> bool:
    """Whether a closed transaction is the plain case: all committed (the caller knows), and one close at the end."""
    # Of committed events only closes have notes, so two notes are two closes.
    if txn.doubtful or txn.future or txn.given_up_steps or len(txn.notes) > 1 or txn.pending_closes or txn.late_retry:
        return False
    if not colocated:
        return True
    refs = [event.ref for event in txn.events]
    return txn.events[-1].signature.kind == Kind.TRANSACTION_CLOSE and refs.count(refs[0]) == len(refs)


def finish_plain(txn: Transaction, now: float) -> Finished:
    """Evaluate a transaction of which `is_plain` holds."""
    kpis = measure(in_order(txn.events), txn.sighted_open, txn.partial)
    # Its open may lie before the moment at which reading began.
    if txn.early:
        kpis.anomalies.discard(Anomaly.CLOSE_WITHOUT_OPEN)
    [note] = txn.notes.values()
    txn.notes = NO_NOTES
    return Finished(txn, None, Outcome.CLOSED, 1, kpis, max(0.0, note.decided_at - note.sighted_at), 0, now)


def finish(
    txn: Transaction, life: list[Judged], colocated: bool, start_at: float, retry_maybe_unread: bool, now: float
) -> Finished:
    """Evaluate a transaction whose outcome is final. Events beyond the close that ended it do not count."""
    counted = list(up_to_first_close(life)) if colocated else life
    # The events beyond the close are late, even if sighted in time: what they have influenced is computed again.
    if len(counted) < len(life):
        txn.events = [j.event for j in counted]
        txn.txn_type = type_of(txn.events)
        txn.sighted_open = any(j.kind == Kind.TRANSACTION_OPEN for j in counted)
        txn.early = any(event.ts < start_at for event in txn.events)
    partial = txn.partial
    outcome = outcome_of(counted, partial, retry_maybe_unread or txn.given_up_steps > 0)
    # If steps were dropped, the k-th open and the k-th done that are left need not belong together.
    measured = [j for j in counted if j.kind not in STEP_KINDS] if txn.given_up_steps else counted
    kpis = kpis_of(measured, partial) if outcome is Outcome.CLOSED else no_kpis()
    kpis.anomalies.update(common_anomalies(counted, colocated, txn.late_retry))
    if txn.early:
        kpis.anomalies.discard(Anomaly.CLOSE_WITHOUT_OPEN)
    return Finished(
        txn, counted, outcome, attempts_of(counted), kpis, _commit_delay(txn, counted), len(life) - len(counted), now
    )


def give_up(txn: Transaction, life: list[Judged], outcome: Outcome, now: float) -> Finished:
    """End a transaction whose outcome will never be known: evicted, or forgotten. Nothing is measured of it."""
    # It may have waited for `settle_max_s` and then for a verdict: it is not counted as settled by time-out.
    txn.overtime = False
    return Finished(txn, life, outcome, attempts_of(life), no_kpis(), None, 0, now)


def no_kpis() -> Kpis:
    """The figures of a transaction that did not close."""
    return Kpis(None, None, [], [], set())


def _commit_delay(txn: Transaction, life: list[Judged]) -> float | None:
    close = first_committed_close(life)
    if close is None:
        return None
    # Each reader notes its own moment, and the validator may be first: hence not below 0.
    note = txn.notes[close.event.ref, close.event.offset]
    return max(0.0, note.decided_at - note.sighted_at)
