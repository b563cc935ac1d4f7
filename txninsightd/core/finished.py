"""The end of a transaction: its outcome and figures, counted once; then a while in the archive, then only a hash."""

from collections import Counter, OrderedDict
from collections.abc import Iterator

import msgspec

from txninsightd.core.events import STEP_KINDS, Judged
from txninsightd.core.figures import Figures
from txninsightd.core.kpis import (
    Kpis,
    StepFigure,
    common_anomalies,
    first_committed_close,
    in_order,
    kpis_of,
    measure,
    type_of,
)
from txninsightd.core.lifecycle import attempts_of, outcome_of, up_to_first_close
from txninsightd.core.tombstones import Tombstones
from txninsightd.core.transaction import NO_NOTES, Transaction
from txninsightd.vocabulary import Anomaly, Kind, Objective, Outcome, Verdict

MOST_EXEMPLAR_CHARS = 100
"""OpenMetrics allows 128 characters for an exemplar's labels, names included."""

DROPPED_A_STEP = 1000
"""Lingering transactions let go in one step, where new bounds leave no room for them."""


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
    """Whether a closed transaction went as it should: all committed (the caller knows), one close, and no more."""
    # Of what is committed only closes have notes: more than one note, more than one close.
    if txn.doubtful or txn.future or txn.given_up_steps or len(txn.notes) > 1 or txn.pending_closes or txn.late_retry:
        return False
    events = txn.events
    # Comparing by identity is enough: a partition's events share one PartitionRef, and if not, `finish` gives the same.
    return not colocated or (
        events[-1].signature.kind == Kind.TRANSACTION_CLOSE and all(event.ref is events[0].ref for event in events)
    )


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
    """Evaluate a transaction whose outcome is final. What lies beyond the close that ended it counts for nothing."""
    counted = list(up_to_first_close(life)) if colocated else life
    # All that the events beyond the close had a say in is worked out anew: they are late, sighted in time or not.
    if len(counted) < len(life):
        txn.events = [j.event for j in counted]
        txn.txn_type = type_of(txn.events)
        txn.sighted_open = any(j.kind == Kind.TRANSACTION_OPEN for j in counted)
        txn.early = any(event.ts < start_at for event in txn.events)
    partial = txn.partial
    outcome = outcome_of(counted, partial, retry_maybe_unread or txn.given_up_steps > 0)
    # Where steps were not kept, the k-th open and the k-th done that are left need not belong together.
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
    # It may have passed `settle_max_s` and then waited for a verdict: that is no settlement to be counted.
    txn.overtime = False
    return Finished(txn, life, outcome, attempts_of(life), no_kpis(), None, 0, now)


def no_kpis() -> Kpis:
    """The figures of what did not close."""
    return Kpis(None, None, [], [], set())


def _commit_delay(txn: Transaction, life: list[Judged]) -> float | None:
    close = first_committed_close(life)
    if close is None:
        return None
    # Each reader notes when it came by, and the validator may be the first of the two: hence not below 0.
    note = txn.notes[close.event.ref, close.event.offset]
    return max(0.0, note.decided_at - note.sighted_at)


def record(figures: Figures, finished: Finished, objective: Objective) -> None:
    """Count a settled transaction. One that was replayed with its original time misses no objective."""
    label = figures.txn_types(finished.txn.txn_type)
    kpis = finished.kpis
    figures.finished[label, finished.outcome.value, figures.statuses(label, kpis.status)] += 1
    if finished.txn.replayed:
        figures.replayed[label, finished.outcome.value] += 1
    exemplar = (finished.txn.txn_id[:MOST_EXEMPLAR_CHARS], finished.settled_at)
    if kpis.duration_s is not None:
        figures.durations[label].observe(kpis.duration_s, exemplar)
        if objective.duration_s is not None and kpis.duration_s > objective.duration_s and not finished.txn.replayed:
            figures.objective_missed[label] += 1
    if finished.commit_delay_s is not None:
        figures.commit_delays[label].observe(finished.commit_delay_s, exemplar)
    for step, seconds in kpis.step_durations:
        figures.step_durations[label, figures.steps(label, step)].observe(seconds)
    for step, seconds in kpis.step_gaps:
        figures.step_gaps[label, figures.steps(label, step)].observe(seconds)
    for anomaly in kpis.anomalies:
        figures.anomalies[anomaly.value] += 1
    if finished.late_events:
        figures.anomalies[Anomaly.LATE_EVENT.value] += finished.late_events
    figures.settled_by_timeout += finished.txn.overtime


class Archive:
    """Finished transactions: whole for `linger_s` (at most `most_lingering`), as hashes for `remember_s`.

    What goes before its time is counted in `limit_hits`. `kept_events`: the events of all that linger.
    """

    def __init__(
        self, linger_s: float, most_lingering: int, remember_s: float, most_remembered: int, limit_hits: Counter[str]
    ) -> None:
        self.lingering: OrderedDict[str, Finished] = OrderedDict()
        self.kept_events = 0
        self._limit_hits = limit_hits
        self._linger_s = linger_s
        self._most_lingering = most_lingering
        self._tombstones = Tombstones(remember_s, most_remembered)

    @property
    def remembered(self) -> int:
        """How many ids are remembered."""
        return len(self._tombstones)

    @property
    def memory(self) -> Tombstones:
        """The ids that are remembered."""
        return self._tombstones

    def resume(self, finished: Finished) -> None:
        """Let one linger on as it did before a restart."""
        self.lingering[finished.txn.txn_id] = finished
        self.kept_events += len(finished.txn.events)

    def add(self, finished: Finished, now: float) -> None:
        """Keep a settled transaction."""
        txn_id = finished.txn.txn_id
        # Tombstones from its settlement on, not from when it leaves the archive: `was_aborted` asks the memory alone.
        forgotten = self._tombstones.add(txn_id, finished.outcome is Outcome.ABORTED, now)
        if forgotten:
            self._limit_hits["remembered_ids"] += forgotten
        # Another life of the id (a late retry) goes to the end: those settled first stand first, which `_drop` goes by.
        before = self.lingering.pop(txn_id, None)
        if before is not None:
            self.kept_events -= len(before.txn.events)
        self.lingering[txn_id] = _slim(finished)
        self.kept_events += len(finished.txn.events)
        while len(self.lingering) > self._most_lingering:
            self._drop_first()
            self._limit_hits["lingering"] += 1

    def shrink(self, most_events: int) -> None:
        """Let go of the oldest, until at most so many events are kept here."""
        while self.lingering and self.kept_events > most_events:
            self._drop_first()
            self._limit_hits["kept_events"] += 1

    def _drop_first(self) -> None:
        _, finished = self.lingering.popitem(last=False)
        self.kept_events -= len(finished.txn.events)

    def keep(
        self, linger_s: float, most_lingering: int, remember_s: float, most_remembered: int, now: float
    ) -> Iterator[None]:
        """Go by other bounds. What they leave no room for goes in portions, one a step."""
        self._limit_hits["remembered_ids"] += self._tombstones.keep(remember_s, most_remembered)
        while self._drop(DROPPED_A_STEP, linger_s, most_lingering, now):
            yield
        self._linger_s, self._most_lingering = linger_s, most_lingering

    def _drop(self, at_once: int, linger_s: float, most_lingering: int, now: float) -> int:
        """Let go of what has lingered for long enough, or is too many; gives how many were."""
        lingering, dropped = self.lingering, 0
        while lingering and dropped < at_once:
            too_old = now - next(iter(lingering.values())).settled_at > linger_s
            if not too_old and len(lingering) <= most_lingering:
                break
            self._limit_hits["lingering"] += not too_old
            self._drop_first()
            dropped += 1
        return dropped

    def was_aborted(self, txn_id: str) -> bool | None:
        """Whether a transaction that is over ended as Aborted; None when it is not known to be over."""
        return self._tombstones.was_aborted(txn_id)

    def age(self, now: float) -> None:
        """Let go of what has lingered, and forget what has been remembered, for long enough."""
        self._drop(len(self.lingering), self._linger_s, self._most_lingering, now)
        self._tombstones.age(now)


NO_FIGURES: list[StepFigure] = []
NO_ANOMALIES: set[Anomaly] = set()


def _slim(finished: Finished) -> Finished:
    """The same without what only the histograms need."""
    kpis = finished.kpis
    return Finished(
        finished.txn,
        finished.doubtful_life,
        finished.outcome,
        finished.attempts,
        Kpis(kpis.duration_s, kpis.status, NO_FIGURES, NO_FIGURES, kpis.anomalies or NO_ANOMALIES),
        finished.commit_delay_s,
        finished.late_events,
        finished.settled_at,
    )
