"""Finished transactions after their settlement: shown for a while, then remembered by a hash (tombstones.py).

What leaves before its time, because a limit leaves no room for it, is reported.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec

from txninsightd.core.finished import Finished
from txninsightd.core.kpis import Kpis, StepFigure
from txninsightd.core.tombstones import Tombstones
from txninsightd.vocabulary import Anomaly, Outcome

DROPPED_A_STEP = 1000
"""Lingering transactions dropped in one step, when new bounds leave no room for them."""

AGED_AT_ONCE = 25_000
"""Those dropped by one call of `age`, which comes every second. If more settle, `add` still keeps to the bound."""


class Archive:
    """Whole transactions for `linger_s` (at most `most_lingering`), as tombstones for `remember_s`.

    `limit_hit(limit, count)` is called for what a limit drops early. `kept_events`: the events of all that linger.
    """

    def __init__(
        self,
        linger_s: float,
        most_lingering: int,
        remember_s: float,
        most_remembered: int,
        limit_hit: Callable[[str, int], None],
    ) -> None:
        self.lingering: OrderedDict[str, Finished] = OrderedDict()
        self.tombstones = Tombstones(remember_s, most_remembered)
        self.kept_events = 0
        self._limit_hit = limit_hit
        self._linger_s = linger_s
        self._most_lingering = most_lingering

    def restore(self, finished: Finished) -> None:
        """Keep a transaction that lingered when the snapshot was taken."""
        self.lingering[finished.txn.txn_id] = finished
        self.kept_events += len(finished.txn.events)

    def add(self, finished: Finished, now: float) -> None:
        """Keep a settled transaction."""
        txn_id = finished.txn.txn_id
        # The tombstone is set at the settlement, not when the transaction leaves: `was_aborted` asks tombstones alone.
        forgotten = self.tombstones.add(txn_id, finished.outcome is Outcome.ABORTED, now)
        if forgotten:
            self._limit_hit("remembered_ids", forgotten)
        # `_drop` relies on the order of settlement, so a later life of the same id (a late retry) goes to the end.
        before = self.lingering.pop(txn_id, None)
        if before is not None:
            self.kept_events -= len(before.txn.events)
        self.lingering[txn_id] = _slim(finished)
        self.kept_events += len(finished.txn.events)
        while len(self.lingering) > self._most_lingering:
            self._drop_first()
            self._limit_hit("lingering", 1)

    def shrink(self, most_events: int) -> None:
        """Drop the oldest until at most `most_events` events are kept here."""
        while self.lingering and self.kept_events > most_events:
            self._drop_first()
            self._limit_hit("kept_events", 1)

    def keep(
        self, linger_s: float, most_lingering: int, remember_s: float, most_remembered: int, now: float
    ) -> Iterator[None]:
        """Go by other bounds. What has no room is dropped in portions, one for each step."""
        self._limit_hit("remembered_ids", self.tombstones.keep(remember_s, most_remembered))
        while self._drop(DROPPED_A_STEP, linger_s, most_lingering, now):
            yield
        self._linger_s, self._most_lingering = linger_s, most_lingering

    def move_moments(self, move: Callable[[float], float]) -> None:
        """Our clock was wrong: replace each moment that it gave."""
        self.tombstones.move_moments(move)
        for txn_id, finished in self.lingering.items():
            finished.txn.move_moments(move)
            life = finished.doubtful_life
            self.lingering[txn_id] = msgspec.structs.replace(
                finished,
                settled_at=move(finished.settled_at),
                doubtful_life=[j._replace(decided_at=move(j.decided_at) if j.decided_at else 0.0) for j in life]
                if life is not None
                else None,
            )

    def was_aborted(self, txn_id: str) -> bool | None:
        """Whether a finished transaction ended as Aborted; None when no finished one of this id is remembered."""
        return self.tombstones.was_aborted(txn_id)

    def age(self, now: float) -> None:
        """Drop what has lingered, and forget what has been remembered, for long enough; not very much at a time."""
        self._drop(AGED_AT_ONCE, self._linger_s, self._most_lingering, now)
        self.tombstones.age(now)

    def _drop(self, at_most: int, linger_s: float, most_lingering: int, now: float) -> int:
        """Drop what has lingered for long enough or exceeds the bound; returns how many were dropped."""
        lingering, dropped = self.lingering, 0
        while lingering and dropped < at_most:
            too_old = now - next(iter(lingering.values())).settled_at > linger_s
            if not too_old and len(lingering) <= most_lingering:
                break
            if not too_old:
                self._limit_hit("lingering", 1)
            self._drop_first()
            dropped += 1
        return dropped

    def _drop_first(self) -> None:
        _, finished = self.lingering.popitem(last=False)
        self.kept_events -= len(finished.txn.events)


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
