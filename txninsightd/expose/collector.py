"""The aggregator's own metrics, read from the ledger's figures at each scrape.

This module counts nothing: the figures are part of the aggregator's state. The names come from `catalogue.py`. Series
start at 0 wherever their labels are known beforehand: for configured and seen transaction types, for all outcomes,
causes and anomalies, and for the topics of all known partitions.

Each family is built without an `await`, so its samples belong to one moment. Between families the figures may change
(`rendering.py`). With many open transactions, their age is the most expensive family: about 0.1 us for each distinct
second in which a transaction of a type was opened.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from operator import mul
from typing import NamedTuple, TypeVar

from prometheus_client.core import Exemplar, Metric, Sample
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from txninsightd import __version__
from txninsightd.core.figures import MOST_EXEMPLAR_CHARS, Figures
from txninsightd.core.histogram import Histogram
from txninsightd.core.labels import UNNAMED
from txninsightd.core.lifecycle import NEVER
from txninsightd.core.verdicts import PartitionState
from txninsightd.expose import catalogue
from txninsightd.expose.catalogue import Definition
from txninsightd.expose.partitions import lag_records, lso_age_s
from txninsightd.expose.source import Source
from txninsightd.visible_text import visible, visible_start
from txninsightd.vocabulary import OVERFLOW, Cause, Outcome, RecordResult, View

STATES = ("open", "tentatively_closed", "stuck", "aborted")
"""The values of the label `state`."""

RESULTS_BY_VIEW = {View.MONITOR: tuple(RecordResult), View.VALIDATOR: (RecordResult.OK, RecordResult.GAP)}
"""The possible results of a record in each view. The validator decodes nothing."""

Values = tuple[str, ...]
_go_string: Callable[[float], str] = floatToGoString
V = TypeVar("V", bound=Values)


class LedgerCollector(Collector):
    """Exposes the figures of one ledger. `bounds` are the figures' histogram bounds in seconds.

    `most_topics` caps the label `topic`: the first topics keep their names, the others share `__overflow__`.
    """

    def __init__(self, source: Source, bounds: Sequence[float], most_topics: int) -> None:
        self._source = source
        self._bounds = bounds
        self._most_topics = most_topics

    def collect(self) -> Iterator[Metric]:
        """All families of the aggregator, built lazily one after the other."""
        types = known_types(self._source.figures, self._source.ledger.rules.stuck_by_type)
        yield from self._live(types)
        yield from self._ages(types)
        yield from self._counted(types)
        yield from self._objectives(types)
        yield from self._histograms(types)
        yield from self._topics()
        yield from self._daemon()

    # --- Business transactions ----------------------------------------------------------------------------------------

    def _live(self, types: list[str]) -> Iterator[Metric]:
        gauges, archive = self._source.figures.gauges, self._source.ledger.archive
        yield simple(catalogue.TRANSACTIONS, {**zeros(types, STATES), **gauges.live})
        partial = gauges.partial
        yield simple(catalogue.PARTIAL_TRANSACTIONS, {(t,): partial.get(t, 0) for t in types})
        yield simple(catalogue.STUCK_TRANSACTIONS, {**zeros(types, Cause), **gauges.stuck})
        yield simple(catalogue.LINGERING_TRANSACTIONS, {(): len(archive.lingering)})
        yield simple(catalogue.REMEMBERED_TRANSACTIONS, {(): len(archive.tombstones)})

    def _ages(self, types: list[str]) -> Iterator[Metric]:
        opened = self._source.figures.gauges.opened_seconds
        now = self._source.now()
        ages = {t: Ages.of(opened.get(t, NONE_OPEN), self._bounds, now) for t in types}
        family = catalogue.OPEN_AGE.family()
        for txn_type, age in ages.items():
            family.samples += _buckets(catalogue.OPEN_AGE, (txn_type,), self._bounds, age.cumulative)
            family.samples.append(_sample(catalogue.OPEN_AGE, (txn_type,), age.cumulative[-1], "_gcount"))
            family.samples.append(_sample(catalogue.OPEN_AGE, (txn_type,), age.sum_s, "_gsum"))
        yield family
        yield simple(catalogue.OLDEST_OPEN_AGE, {(t,): age.oldest_s for t, age in ages.items()})

    def _counted(self, types: list[str]) -> Iterator[Metric]:
        figures = self._source.figures
        yield simple(catalogue.TRANSACTIONS_OPENED, {(t,): figures.opened.get(t, 0) for t in types})
        # Statuses are not known beforehand, so the zeros have the unnamed status.
        unfinished = {(t, outcome.value, UNNAMED): 0 for t in types for outcome in Outcome}
        yield simple(catalogue.TRANSACTIONS_FINISHED, {**unfinished, **figures.finished})
        replayed = {**zeros(types, Outcome), **figures.replayed}
        yield simple(catalogue.REPLAYED_TRANSACTIONS_FINISHED, replayed)
        yield simple(catalogue.STUCK, {**zeros(types, Cause), **figures.stuck})
        yield simple(catalogue.ANOMALIES, {(kind,): count for kind, count in figures.anomalies.items()})
        yield simple(catalogue.SETTLED_BY_TIMEOUT, {(): figures.settled_by_timeout})

    def _objectives(self, types: list[str]) -> Iterator[Metric]:
        missed = self._source.figures.objective_missed
        objectives = self._source.ledger.rules.objectives
        by_label = {visible(txn_type): objective for txn_type, objective in objectives.by_type.items()}
        # The types behind `__overflow__` share no objective.
        wanted = {t: by_label.get(t, objectives.usual) for t in types if t != OVERFLOW}
        durations = {(t,): o.duration_s for t, o in wanted.items() if o.duration_s is not None}
        ages = {(t,): o.open_age_s for t, o in wanted.items() if o.open_age_s is not None}
        yield simple(catalogue.OBJECTIVE, durations)
        yield simple(catalogue.OBJECTIVE_RATIO, {(t,): wanted[t].ratio for (t,) in durations})
        yield simple(catalogue.OBJECTIVE_MISSED, {(t,): missed.get(t, 0) for t in types})
        yield simple(catalogue.OPEN_AGE_OBJECTIVE, ages)

    def _histograms(self, types: list[str]) -> Iterator[Metric]:
        figures, nothing = self._source.figures, Histogram(self._bounds)
        yield histograms(catalogue.TRANSACTION_DURATION, {(t,): figures.durations.get(t, nothing) for t in types})
        yield histograms(catalogue.COMMIT_DELAY, {(t,): figures.commit_delays.get(t, nothing) for t in types})
        yield histograms(catalogue.STEP_DURATION, figures.step_durations)
        yield histograms(catalogue.STEP_GAP, figures.step_gaps)

    # --- Topics -------------------------------------------------------------------------------------------------------

    def _topics(self) -> Iterator[Metric]:
        ledger, figures = self._source.ledger, self._source.figures
        topics = TopicLabels((ref.topic for ref in ledger.partitions), self._most_topics)
        # Counters continue for deleted topics; lags and ages exist only for present ones.
        present = [(topics.label(p.ref.topic), p) for p in ledger.partitions.values() if not p.gone]
        yield simple(catalogue.RECORDS, self._records(topics))
        yield simple(catalogue.CONSUMER_LAG, _lags(topics, present))
        yield simple(catalogue.VIEW_AGE, {(view.value,): self._view_age_s(view) for view in View})
        undecided = {(label,): 0 for label in topics.labels}
        ages = {(label,): 0.0 for label in topics.labels}
        for label, partition in present:
            age = lso_age_s(partition, self._source.now())
            undecided[label,] += partition.undecided_records()
            ages[label,] = max(ages[label,], age)
        yield simple(catalogue.UNDECIDED_RECORDS, undecided)
        yield simple(catalogue.LSO_AGE, ages)
        cuts = {
            "txn_type": figures.txn_types.cut,
            "step": figures.steps.cut,
            "status": figures.statuses.cut,
            "topic": topics.cut,
        }
        yield simple(catalogue.LABEL_VALUES_CUT, {(label,): n for label, n in cuts.items()})
        yield simple(catalogue.LIMIT_HITS, {(limit,): n for limit, n in limit_hits(figures).items()})

    def _records(self, topics: "TopicLabels") -> dict[Values, int]:
        counts: Counter[Values] = Counter()
        for view, results in RESULTS_BY_VIEW.items():
            counts.update({(view.value, label, result.value): 0 for label in topics.labels for result in results})
        for (view_name, topic, result_name), count in self._source.figures.records.items():
            counts[view_name, topics.label(topic), result_name] += count
        return counts

    def _view_age_s(self, view: View) -> float:
        seen = self._source.ledger.watermark.seen_by(view)
        # Before a view's first catch-up (UNSEEN is minus infinity), and without a partition (NEVER), its age is that of
        # the aggregator.
        seen = self._source.started_at if seen == NEVER else max(seen, self._source.started_at)
        return max(0.0, self._source.now() - seen)

    # --- The daemon ---------------------------------------------------------------------------------------------------

    def _daemon(self) -> Iterator[Metric]:
        children = self._source.children()
        yield simple(catalogue.BUILD_INFO, {(__version__,): 1})
        yield simple(catalogue.READY, {(): int(not self._source.missing())})
        reloads = self._source.reloads
        yield simple(catalogue.CONFIG_RELOADS, {("applied",): reloads.applied, ("refused",): reloads.refused})
        yield simple(catalogue.CONFIG_LAST_RELOAD_SUCCESSFUL, {(): int(reloads.good)})
        yield simple(catalogue.CLOCK_STEPS, {(): self._source.clock_steps})
        yield simple(catalogue.CHILD_UP, {(child.name,): int(child.up) for child in children})
        yield simple(catalogue.CHILD_RESTARTS, {(child.name,): child.restarts for child in children})
        ages_s = self._source.heartbeat_ages_s()
        yield simple(catalogue.CHILD_HEARTBEAT_AGE, {(name,): age_s for name, age_s in ages_s.items()})
        dropped = self._source.dropped_log_lines()
        yield simple(catalogue.LOG_LINES_DROPPED, {(process,): lines for process, lines in dropped.items()})
        yield simple(catalogue.WARMING_UP, {(): int(self._source.warming_up())})
        yield from self._checkpoints()

    def _checkpoints(self) -> Iterator[Metric]:
        health = self._source.checkpoints
        age_s = max(0.0, self._source.now() - (health.written_at or self._source.started_at))
        yield simple(catalogue.CHECKPOINT_AGE, {(): age_s})
        yield simple(catalogue.CHECKPOINT_INTERVAL, {(): health.every_s})
        yield simple(catalogue.CHECKPOINT_BYTES, {(): health.bytes})
        yield simple(catalogue.CHECKPOINT_DURATION, {(): health.duration_s})
        yield simple(catalogue.CHECKPOINT_FAILURES, {(): health.failures})
        yield simple(catalogue.CHECKPOINT_FALLBACKS, {(): health.fallbacks})


def known_types(figures: Figures, configured: Iterable[str]) -> list[str]:
    """The values of the label `txn_type`: configured types and seen types."""
    gauges = figures.gauges
    named = [*map(visible, configured), *figures.txn_types.named]
    seen = [txn_type for counts in (figures.opened, figures.durations, gauges.partial) for txn_type in counts]
    by_state = [key[0] for counts in (gauges.live, figures.finished) for key in counts]
    # A dict keeps the order of samples stable, which monotonic_counters.py handles fastest.
    return list(dict.fromkeys([*named, *seen, *by_state]))


def limit_hits(figures: Figures) -> dict[str, int]:
    """How often each limit was hit, by its key in the config."""
    # Two limits are counted elsewhere: oversized records with the records, label values at their caps.
    oversized = [n for (_, _, result), n in figures.records.items() if result == RecordResult.OVERSIZED]
    cut = figures.txn_types.cut + figures.steps.cut + figures.statuses.cut
    return {**figures.limit_hits, "label_values": cut, "value_bytes": sum(oversized)}


class TopicLabels:
    """Label values of topics: the first `most` distinct topics by name, the others as `__overflow__`."""

    def __init__(self, topics: Iterable[str], most: int) -> None:
        distinct = list(dict.fromkeys(map(visible, topics)))
        self._named = set(distinct[:most])
        self.cut = max(0, len(distinct) - most)
        self.labels = distinct[:most] + ([OVERFLOW] if self.cut else [])

    def label(self, topic: str) -> str:
        """The label value of this topic."""
        name = visible(topic)
        return name if name in self._named else OVERFLOW


def _lags(topics: TopicLabels, present: list[tuple[str, PartitionState]]) -> dict[tuple[str, str], int]:
    lags = {(view.value, label): 0 for view in View for label in topics.labels}
    for label, partition in present:
        for view in View:
            lags[view.value, label] += lag_records(partition, view)
    return lags


# --- Families ---------------------------------------------------------------------------------------------------------


def zeros(types: Iterable[str], others: Iterable[str]) -> dict[tuple[str, str], int]:
    """A 0 for each pair of label values."""
    others = tuple(others)
    return {(txn_type, str(other)): 0 for txn_type in types for other in others}


def simple(definition: Definition, values: Mapping[V, float]) -> Metric:
    """A family of counters or gauges, with one number for each tuple of label values."""
    family = definition.family()
    family.samples = [_sample(definition, labels, value) for labels, value in values.items()]
    return family


def histograms(definition: Definition, values: Mapping[V, Histogram]) -> Metric:
    """A family of histograms, with their exemplars."""
    family = definition.family()
    for labels, histogram in values.items():
        # The ledger's buckets are not cumulative, Prometheus' are.
        cumulative = list(accumulate(histogram.counts))
        exemplars = {
            i: Exemplar({"txn_id": visible_start(exemplar.txn_id, MOST_EXEMPLAR_CHARS)}, exemplar.value, exemplar.at)
            for i, exemplar in histogram.exemplars.items()
        }
        family.samples += _buckets(definition, labels, histogram.bounds, cumulative, exemplars)
        family.samples.append(_sample(definition, labels, cumulative[-1], "_count"))
        family.samples.append(_sample(definition, labels, histogram.sum, "_sum"))
    return family


def _sample(definition: Definition, labels: Values, value: float, suffix: str = "") -> Sample:
    return Sample(definition.name + suffix, dict(zip(definition.labels, labels, strict=True)), value)


@cache
def _le(bound: float) -> str:
    return _go_string(bound)


NO_EXEMPLARS: dict[int, Exemplar] = {}


def _buckets(
    definition: Definition,
    labels: Values,
    bounds: Sequence[float],
    cumulative: list[int],
    exemplars: dict[int, Exemplar] = NO_EXEMPLARS,
) -> list[Sample]:
    name, named = definition.name + "_bucket", dict(zip(definition.labels, labels, strict=True))
    return [
        Sample(name, {**named, "le": _le(bound)}, cumulative[i], None, exemplars.get(i))
        for i, bound in enumerate((*bounds, float("inf")))
    ]


# --- Ages -------------------------------------------------------------------------------------------------------------

NONE_OPEN: Counter[int] = Counter()


class Ages(NamedTuple):
    """The ages of one type's open transactions. `cumulative`: how many are at most as old as each bound, then all."""

    cumulative: list[int]
    sum_s: float
    oldest_s: float

    @classmethod
    def of(cls, opened: Mapping[int, int], bounds: Sequence[float], now: float) -> "Ages":
        """Ages from the number of transactions opened in each second. An open in the future has the age 0."""
        if not opened:
            return cls([0] * (len(bounds) + 1), 0.0, 0.0)
        seconds = sorted(opened)
        counts = [opened[second] for second in seconds]
        # before[i] counts the transactions opened in the first i seconds. Seconds from index `past` on lie in the
        # future and add no age.
        before = [0, *accumulate(counts)]
        past = bisect_right(seconds, now)
        sum_s = before[past] * now - sum(map(mul, seconds[:past], counts))
        # At most `bound` old: all except those opened before now - bound.
        cumulative = [before[-1] - before[bisect_left(seconds, now - bound)] for bound in bounds]
        return cls([*cumulative, before[-1]], sum_s, max(0.0, now - seconds[0]))
