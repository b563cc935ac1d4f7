"""What the daemon and Prometheus say in the end, held against the truth: each difference in words.

The daemon answers for every transaction, with the verdict of every event, and for its counters. Prometheus answers for
what it has scraped through all the faults: no series of a counter may ever have fallen, what a series gained must be
the truth exactly, and what `increase()` makes of it must come close, since it extrapolates to the ends of its window.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from tests.harness.campaign.load import LABELS, Counts, Truth
from tests.harness.metrics import Samples
from tests.harness.oracle import Log, differences, log_entries, reported_events
from tests.harness.prometheus import Prometheus, Series
from txninsightd.expose.catalogue import CATALOGUE
from txninsightd.vocabulary import Verdict

EXACT_S = 0.001
EXTRAPOLATED = 0.02
TOLD = {
    "state": "state",
    "cause": "stuck",
    "causes_passed": "causes",
    "attempts": "attempts",
    "outcome": "outcome",
    "status": "status",
    "partial": "partial",
    "anomalies": "anomalies",
    "txn_type": "txn_type",
    "events": "events",
}
"""What the API says of a transaction, and the truth's word for it."""

COUNTERS = tuple(d.name for d in CATALOGUE if d.counted)
"""The names of the counters and histograms."""


# --- Transactions -----------------------------------------------------------------------------------------------------


Details = Mapping[str, dict[str, Any]]
"""What the API says of each transaction, with its timeline."""


def transaction_differences(told: Details, known: int, truth: Truth) -> list[str]:
    """Each transaction that is missing, invented, or told otherwise than it was. `known`: how many the daemon knows."""
    found = [f"{txn_id} is missing" for txn_id in truth.transactions.keys() - told.keys()]
    for txn_id, said in told.items():
        found += _told_wrongly(txn_id, said, truth.transactions[txn_id])
    if known != len(truth.transactions):
        found.append(f"{known} transactions are known, there were {len(truth.transactions)}")
    return found


def _told_wrongly(txn_id: str, said: dict[str, Any], true: dict[str, Any]) -> list[str]:
    found = [
        f"{txn_id} ({true['failure']}): {key}: {said[key]!r}, should be {true[word]!r}"
        for key, word in TOLD.items()
        if said[key] != true[word]
    ]
    has, should = said["duration_s"], true["duration_s"]
    if (has is None) != (should is None) or (has is not None and abs(has - should) > EXACT_S):
        found.append(f"{txn_id} ({true['failure']}): duration_s: {has}, should be {should}")
    return found


def event_differences(details: Details, logs: Iterable[Log]) -> list[str]:
    """Each event that is missing, told twice, invented, or whose verdict is not that of the broker's log."""
    return differences(log_entries(logs, events_only=True), reported_events(details.values()))


# --- Counters ---------------------------------------------------------------------------------------------------------


def with_validator(counts: Counts, logs: Iterable[Log]) -> Counts:
    """The truth about counters, with what the validator must have been given: all that was committed."""
    records = Counter(counts["txninsight_records_total"])
    for log in logs:
        committed = sum(verdict is Verdict.COMMITTED for verdict in log.verdicts().values())
        records["validator", log.ref.topic, "ok"] += committed
    return {**counts, "txninsight_records_total": records}


def counter_differences(said: Counts, truth: Counts) -> list[str]:
    """Each counter that is not what it must be; one that is not there counts as 0."""
    return [
        f"{name}{labels}: {said[name][labels]:g}, should be {truth[name][labels]:g}"
        for name in LABELS
        for labels in sorted(said[name].keys() | truth[name].keys())
        if said[name][labels] != truth[name][labels]
    ]


def counts_of(metrics: Samples) -> Counts:
    """What /metrics shows of the counters that the log determines."""
    counts: Counts = {name: Counter() for name in LABELS}
    for (name, labels), value in metrics.items():
        if name in LABELS:
            by_label = dict(labels)
            counts[name][tuple(by_label[label] for label in LABELS[name])] = round(value)
    return counts


# --- What Prometheus saw ----------------------------------------------------------------------------------------------


class Scraped(NamedTuple):
    """What Prometheus holds of counters and histograms, from before the first event up to `until` (epoch seconds)."""

    series: list[Series]
    began: float
    until: float

    @property
    def window_s(self) -> int:
        """The length of a range selector that holds it all."""
        return int(self.until - self.began) + 60

    def fallen(self, began: float = 0.0, ended: float = float("inf")) -> list[str]:
        """Each series that fell between these moments, by its raw samples."""
        return [
            f"{series.labels} fell from {before:g} to {after:g} at {moment:.1f}"
            for series in self.series
            for (_, before), (moment, after) in pairwise(series.samples)
            if after < before and began <= moment <= ended
        ]

    def gained(self) -> Counts:
        """How much each series gained. One that came later than the first scrape began at 0."""
        counts: Counts = {name: Counter() for name in LABELS}
        first = min(series.samples[0][0] for series in self.series)
        for series in self.series:
            if series.name in LABELS:
                began_at, began_with = series.samples[0]
                gained = series.samples[-1][1] - (began_with if began_at == first else 0.0)
                counts[series.name][_labels(series, series.name)] = round(gained)
        return counts

    def later_born(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """Series that came later than the first scrape, and what they showed at once."""
        first = min(series.samples[0][0] for series in self.series)
        return {
            (series.name, _labels(series, series.name)): series.samples[0][1]
            for series in self.series
            if series.name in LABELS and series.samples[0][0] > first
        }


def scraped(prometheus: Prometheus, began: float, until: float) -> Scraped:
    """Everything, raw."""
    names = "|".join(COUNTERS)
    window_s = int(until - began) + 60
    series = prometheus.query(f'{{__name__=~"({names})(_bucket|_count|_sum)?"}}[{window_s}s]', until)
    return Scraped(series, began, until)


def prometheus_differences(prometheus: Prometheus, seen: Scraped, truth: Counts) -> list[str]:
    """What the raw samples gained must be the truth; `increase()` comes close; `resets()` finds none."""
    found = [f"gained: {text}" for text in counter_differences(seen.gained(), truth)]
    born = seen.later_born()
    for name in LABELS:
        for series in prometheus.query(f"increase({name}[{seen.window_s}s])", seen.until):
            labels = _labels(series, name)
            increase, should = series.value, truth[name][labels] - born.get((name, labels), 0.0)
            if abs(increase - should) > max(1.0, EXTRAPOLATED * should):
                found.append(f"increase of {name}{labels}: {increase:.1f}, should be {should:g}")
    for name in sorted({series.name for series in seen.series}):
        for series in prometheus.query(f"resets({name}[{seen.window_s}s]) > 0", seen.until):
            found.append(f"{name}{series.labels} was reset {series.value:g} times")
    return found


def _labels(series: Series, metric: str) -> tuple[str, ...]:
    return tuple(series.labels[label] for label in LABELS[metric])
