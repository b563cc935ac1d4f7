"""The figures: counters, histograms and live gauges of transactions as plain numbers, folded from the ledger's facts.

They are part of the aggregator's state, not of a metrics library: counters of records must survive exactly what the
ledger survives. `expose/` turns them into metrics at each scrape. Every label value that comes from events passes a cap
(labels.py) first. The gauges are rebuilt after a restore and are not part of the saved state.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from txninsightd.core.facts import (
    EventsLate,
    Fact,
    LimitHit,
    Opened,
    RecordsRead,
    Settled,
    StandingChanged,
    StuckChanged,
)
from txninsightd.core.figures_saved import (
    COUNTERS,
    HISTOGRAMS,
    SavedCounters,
    SavedFigures,
    SavedHistograms,
    SavedPairs,
    restore_histogram,
    saved_histograms,
    visible_labels,
)
from txninsightd.core.gauges import Gauges
from txninsightd.core.histogram import Histogram
from txninsightd.core.labels import PAIRS_A_VALUE, LabelCap, PairCap
from txninsightd.core.sinks import StatefulSink
from txninsightd.core.transaction import Standing
from txninsightd.vocabulary import OVERFLOW, Anomaly

LIMITS = (
    "open_transactions",
    "events_per_transaction",
    "kept_events",
    "undecided_records",
    "lingering",
    "remembered_ids",
)
"""The limits that bite here, by their keys in the config."""

MOST_EXEMPLAR_CHARS = 100
"""An exemplar shows so much of a txn_id. OpenMetrics allows 128 characters for all its labels, names included."""


class Figures(StatefulSink):
    """All counters, histograms and live gauges of transactions. `txn_types`: types that are always named."""

    name = "figures"

    def __init__(self, bounds: Sequence[float], most_label_values: int, txn_types: Iterable[str] = ()) -> None:
        self.bounds = tuple(bounds)
        self.txn_types = LabelCap(most_label_values)
        self.steps = PairCap(most_label_values * PAIRS_A_VALUE, LabelCap(most_label_values))
        self.statuses = PairCap(most_label_values * PAIRS_A_VALUE, LabelCap(most_label_values))
        self.name_types(txn_types)
        self.gauges = Gauges(self.txn_types)
        self.opened: Counter[str] = Counter()
        self.finished: Counter[tuple[str, str, str]] = Counter()
        self.replayed: Counter[tuple[str, str]] = Counter()
        self.objective_missed: Counter[str] = Counter()
        self.stuck: Counter[tuple[str, str]] = Counter()
        # All at 0 from the start: of a series that begins at 1, Prometheus sees no increase.
        self.anomalies: Counter[str] = Counter({a.value: 0 for a in Anomaly})
        self.records: Counter[tuple[str, str, str]] = Counter()
        self.limit_hits: Counter[str] = Counter(dict.fromkeys(LIMITS, 0))
        self.settled_by_timeout = 0
        self.durations: dict[str, Histogram] = defaultdict(lambda: Histogram(bounds))
        self.commit_delays: dict[str, Histogram] = defaultdict(lambda: Histogram(bounds))
        self.step_durations: dict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(bounds))
        self.step_gaps: dict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(bounds))
        self._fold: dict[type, Callable[[Any], None]] = {
            Settled: self._settled,
            Opened: self._opened,
            StuckChanged: self._stuck_changed,
            RecordsRead: self._records_read,
            EventsLate: self._events_late,
            LimitHit: self._limit_hit,
        }

    def name_types(self, txn_types: Iterable[str]) -> None:
        """Name these types from now on, if there is room."""
        for txn_type in txn_types:
            self.txn_types.name(txn_type)

    def name_at_most(self, most_label_values: int) -> None:
        """Name so many values of each label from now on; a value that has a name keeps it."""
        self.txn_types.name_at_most(most_label_values)
        for pairs in (self.steps, self.statuses):
            pairs.name_at_most(most_label_values * PAIRS_A_VALUE, most_label_values)

    def rebuild(self, standings: Iterable[Standing]) -> None:
        """Count the gauges anew."""
        self.gauges.rebuild(standings)

    def label_overflow(self, standings: Iterable[Standing]) -> None:
        """Give types in overflow a label if there is room, and count the gauges anew if one gets it.

        `standings`: where every live transaction stands. To be called when more values may have a label.
        """
        self.name_types(self.gauges.overflow_types)
        if any(self.txn_types.label(txn_type) != OVERFLOW for txn_type in self.gauges.overflow_types):
            self.gauges.rebuild(standings)

    # --- Facts --------------------------------------------------------------------------------------------------------

    def take(self, facts: Sequence[Fact], now: float) -> None:
        """Count what has happened."""
        move, fold_of = self.gauges.move, self._fold.get
        for fact in facts:
            # More than half of all facts.
            if type(fact) is StandingChanged:
                move(fact.before, fact.after)
            elif (fold := fold_of(type(fact))) is not None:
                fold(fact)

    def _opened(self, fact: Opened) -> None:
        self.opened[self.txn_types(fact.txn_type)] += 1

    def _stuck_changed(self, fact: StuckChanged) -> None:
        if fact.is_new and fact.cause is not None:
            self.stuck[self.txn_types(fact.txn_type), fact.cause.value] += 1

    def _records_read(self, fact: RecordsRead) -> None:
        for result, count in fact.results.items():
            self.records[fact.view, fact.topic, result] += count

    def _events_late(self, fact: EventsLate) -> None:
        self.anomalies[Anomaly.LATE_EVENT.value] += fact.count

    def _limit_hit(self, fact: LimitHit) -> None:
        self.limit_hits[fact.limit] += fact.count

    def _settled(self, fact: Settled) -> None:
        finished = fact.finished
        txn, kpis = finished.txn, finished.kpis
        label = self.txn_types(txn.txn_type)
        self.finished[label, finished.outcome.value, self.statuses(label, kpis.status)] += 1
        if txn.replayed:
            self.replayed[label, finished.outcome.value] += 1
        # One more than is shown, so that the cut can be seen.
        exemplar = (txn.txn_id[: MOST_EXEMPLAR_CHARS + 1], finished.settled_at)
        if kpis.duration_s is not None:
            self.durations[label].observe(kpis.duration_s, exemplar)
        if fact.missed_objective:
            self.objective_missed[label] += 1
        if finished.commit_delay_s is not None:
            self.commit_delays[label].observe(finished.commit_delay_s, exemplar)
        for step, seconds in kpis.step_durations:
            self.step_durations[label, self.steps(label, step)].observe(seconds)
        for step, seconds in kpis.step_gaps:
            self.step_gaps[label, self.steps(label, step)].observe(seconds)
        for anomaly in kpis.anomalies:
            self.anomalies[anomaly.value] += 1
        if finished.late_events:
            self.anomalies[Anomaly.LATE_EVENT.value] += finished.late_events
        self.settled_by_timeout += txn.overtime

    # --- Saved and restored -------------------------------------------------------------------------------------------

    def save(self) -> Iterator[bytes]:
        """All but the gauges, as MessagePack in one part."""
        saved = SavedFigures(
            bounds=list(self.bounds),
            counters=SavedCounters(*(list(getattr(self, name).items()) for name in COUNTERS)),
            histograms=SavedHistograms(*(saved_histograms(getattr(self, name)) for name in HISTOGRAMS)),
            settled_by_timeout=self.settled_by_timeout,
            txn_types=self.txn_types.saved(),
            pairs=SavedPairs(self.steps.saved(), self.statuses.saved()),
        )
        yield msgspec.msgpack.encode(saved)

    def restore(self, parts: list[bytes]) -> None:
        """Go on from what was saved. What other buckets counted stands in the first own bucket that reaches as far."""
        figures = msgspec.msgpack.decode(b"".join(parts), type=SavedFigures)
        for name in COUNTERS:
            counter: Counter[Any] = getattr(self, name)
            for labels, count in getattr(figures.counters, name):
                counter[visible_labels(labels)] += count
        for name in HISTOGRAMS:
            for histogram in getattr(figures.histograms, name):
                restore_histogram(getattr(self, name)[visible_labels(histogram.labels)], histogram, figures.bounds)
        self.settled_by_timeout = figures.settled_by_timeout
        self.txn_types.restore(*figures.txn_types)
        self.steps.restore(*figures.pairs.steps)
        self.statuses.restore(*figures.pairs.statuses)
