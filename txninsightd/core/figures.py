"""The figures that the aggregator keeps: counters, histograms and live gauges, as plain numbers.

They are part of the aggregator's state, not of a metrics library, because counters about records travel with their
batch and must survive what a library's registry does not. `expose/` turns them into metrics at each scrape. Every label
value that comes from events passes a `LabelCap` first.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from txninsightd.vocabulary import OVERFLOW, Anomaly

UNNAMED = "unspecified"
"""The label value of what events leave out."""


PAIRS_A_VALUE = 5
"""Pairs of type and step, or type and status, that are named for each label value that may be."""


LIMITS = (
    "open_transactions",
    "events_per_transaction",
    "kept_events",
    "undecided_records",
    "lingering",
    "remembered_ids",
)
"""The limits that bite here, by their keys in the config."""


class LabelCap:
    """The first `most` distinct values keep their names, all later ones become `__overflow__`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str | None, str] = {None: UNNAMED, "": UNNAMED}
        self.cut = 0

    def saved(self) -> tuple[list[str], int]:
        """The values that keep their names, and how often one was cut."""
        return [value for value in self._known if value], self.cut

    def resume(self, known: list[str], cut: int) -> None:
        """Go on with the names of before a restart; those that are named always stay named."""
        self._known.update({value: value for value in known})
        self.cut = cut

    def name_at_most(self, most: int) -> None:
        """Name so many from now on; what has a name keeps it."""
        self._most = most

    def name(self, value: str) -> None:
        """Let this value keep its name from now on, if there is room. No event had it, so nothing is cut."""
        if self._has_room():
            self._known.setdefault(value, value)

    def __call__(self, value: str | None) -> str:
        label = self._known.get(value)
        if label is not None:
            return label
        if value is None or not self._has_room():
            self.cut += 1
            return OVERFLOW
        self._known[value] = value
        return value

    def _has_room(self) -> bool:
        # The two of UNNAMED take none.
        return len(self._known) - 2 < self._most


class PairCap:
    """The same for the second of two labels, so that their product is bounded too: at most `most` pairs are named."""

    def __init__(self, most: int, second: LabelCap) -> None:
        self._most = most
        self._second = second
        self._known: dict[tuple[str, str | None], str] = {}
        self._cut = 0

    @property
    def cut(self) -> int:
        """How often a value was cut."""
        return self._cut + self._second.cut

    def saved(self) -> tuple[list[tuple[str, str | None, str]], int, list[str], int]:
        """The pairs that are named, how often one was not, and the same of the second label alone."""
        return (
            [(first, value, label) for (first, value), label in self._known.items()],
            self._cut,
            *self._second.saved(),
        )

    def resume(self, pairs: list[tuple[str, str | None, str]], cut: int, known: list[str], known_cut: int) -> None:
        """Go on with the names of before a restart."""
        self._known = {(first, value): label for first, value, label in pairs}
        self._cut = cut
        self._second.resume(known, known_cut)

    def name_at_most(self, most: int, most_second: int) -> None:
        """Name so many pairs, and values of the second, from now on; what has a name keeps it."""
        self._most = most
        self._second.name_at_most(most_second)

    def __call__(self, first: str, value: str | None) -> str:
        label = self._known.get((first, value))
        return label if label is not None else self._name(first, value)

    def _name(self, first: str, value: str | None) -> str:
        label = self._second(value)
        # What is cut is not kept, here or below: of that there is no end.
        if label == OVERFLOW:
            return label
        if len(self._known) >= self._most:
            self._cut += 1
            return OVERFLOW
        self._known[first, value] = label
        return label


class Exemplar(msgspec.Struct, frozen=True, gc=False):
    """One transaction that fell into a bucket."""

    txn_id: str
    value: float
    at: float


class Histogram:
    """Counts by upper bound (seconds, ascending; the last, infinite one is implied), sum, and an exemplar a bucket."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, exemplar: tuple[str, float] | None = None) -> None:
        """Count one value; `exemplar` is (txn_id, moment)."""
        i = bisect_left(self.bounds, value)
        self.counts[i] += 1
        self.sum += value
        if exemplar is not None:
            self.exemplars[i] = Exemplar(exemplar[0], value, exemplar[1])


class Shown(msgspec.Struct, frozen=True, gc=False):
    """What a live transaction contributes to the gauges. `opened_s`: the whole second of its open, None without one."""

    txn_type: str
    state: str | None
    cause: str | None
    opened_s: int | None
    partial: bool


class Figures:
    """All counters, histograms and live gauges of transactions. `txn_types`: those that are named always."""

    def __init__(self, bounds: Sequence[float], most_label_values: int, txn_types: Iterable[str] = ()) -> None:
        self.bounds = tuple(bounds)
        self.txn_types = LabelCap(most_label_values)
        for name in txn_types:
            self.txn_types.name(name)
        self.steps = PairCap(most_label_values * PAIRS_A_VALUE, LabelCap(most_label_values))
        self.statuses = PairCap(most_label_values * PAIRS_A_VALUE, LabelCap(most_label_values))
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
        self.live: Counter[tuple[str, str]] = Counter()
        self.live_stuck: Counter[tuple[str, str]] = Counter()
        self.live_partial: Counter[str] = Counter()
        self.opened_seconds: dict[str, Counter[int]] = defaultdict(Counter)

    def name_at_most(self, most_label_values: int) -> None:
        """Name so many values of each label from now on; what has a name keeps it."""
        self.txn_types.name_at_most(most_label_values)
        for pairs in (self.steps, self.statuses):
            pairs.name_at_most(most_label_values * PAIRS_A_VALUE, most_label_values)

    def show(self, before: Shown | None, after: Shown | None) -> None:
        """Move one live transaction from one place in the gauges to another."""
        if before is not None:
            self._shift(before, -1)
        if after is not None:
            self._shift(after, 1)

    def _shift(self, shown: Shown, by: int) -> None:
        if shown.state is not None:
            self.live[shown.txn_type, shown.state] += by
        if shown.cause is not None:
            self.live_stuck[shown.txn_type, shown.cause] += by
        if shown.partial:
            self.live_partial[shown.txn_type] += by
        if shown.opened_s is not None:
            seconds = self.opened_seconds[shown.txn_type]
            seconds[shown.opened_s] += by
            # Else every second in which ever one was opened would stay, with a 0.
            if not seconds[shown.opened_s]:
                del seconds[shown.opened_s]

    def count_records(self, view: str, topic: str, results: dict[str, int]) -> None:
        """Add what became of a batch's records."""
        for result, count in results.items():
            self.records[view, topic, result] += count
