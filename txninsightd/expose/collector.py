"""All metrics that the aggregator itself knows, read from the ledger's figures at each scrape.

Nothing is counted here: the figures are the aggregator's state, and this module only shows them, with the names of
`catalogue.py`. Series exist from the start at 0 wherever their labels can be known: for the configured and all seen
transaction types, for all outcomes, causes and anomalies, for the topics of all known partitions.

Each family is built in one go, without an `await`, so its samples belong to one moment; between families the figures
may move on (`rendering.py`). Where many transactions are open, the dearest family is the age of the open ones: about
0.1 us for each distinct second in which one of a type was opened.
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
from txninsightd.core.figures import Figures
from txninsightd.core.histogram import Histogram
from txninsightd.core.labels import UNNAMED
from txninsightd.core.verdicts import PartitionState
from txninsightd.expose import catalogue
from txninsightd.expose.catalogue import Definition
from txninsightd.expose.partitions import as_of, lag_records, lso_age_s
from txninsightd.expose.source import Source
from txninsightd.vocabulary import OVERFLOW, Cause, Outcome, RecordResult, View

STATES = ("open", "tentatively_closed", "stuck", "aborted")
"""The values of the label `state`."""

RESULTS_BY_VIEW = {View.MONITOR: tuple(RecordResult), View.VALIDATOR: (RecordResult.OK, RecordResult.GAP)}
"""What can become of a record in each view: the validator decodes nothing."""

Values = tuple[str, ...]
_go_string: Callable[[float], str] = floatToGoString
V = TypeVar("V", bound=Values)


class LedgerCollector(Collector):
    """Shows the figures of one ledger. `bounds` are the histograms' upper bounds in seconds, as the figures have them.

    `most_topics` caps the label `topic`: the first ones keep their names, all others together are `__overflow__`.
    """

    def __init__(self, source: Source, bounds: Sequence[float], most_topics: int) -> None:
        self._source = source
        self._bounds = bounds
        self._most_topics = most_topics

    def collect(self) -> Iterator[Metric]:
        """All families that need no reader's help, built one after the other as they are asked for."""
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
        ages = {t: Ages.of(opened.get(t, NOBODY), self._bounds, now) for t in types}
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
        # Which statuses there will be, nobody knows before: the zeros stand at the one without a name.
        unfinished = {(t, outcome.value, UNNAMED): 0 for t in types for outcome in Outcome}
        yield simple(catalogue.TRANSACTIONS_FINISHED, {**unfinished, **figures.finished})
        replayed = {**zeros(types, Outcome), **figures.replayed}
        yield simple(catalogue.REPLAYED_TRANSACTIONS_FINISHED, replayed)
        yield simple(catalogue.STUCK, {**zeros(types, Cause), **figures.stuck})
        yield simple(catalogue.ANOMALIES, {(kind,): count for kind, count in figures.anomalies.items()})
        yield simple(catalogue.SETTLED_BY_TIMEOUT, {(): figures.settled_by_timeout})

    def _objectives(self, types: list[str]) -> Iterator[Metric]:
        missed = self._source.figures.objective_missed
        # `__overflow__` stands for many types, which share no objective.
        wanted = {t: self._source.ledger.rules.objectives.of(t) for t in types if t != OVERFLOW}
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
        # Counters go on for topics that are gone; lags and ages are of those that are there.
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
        present = [as_of(p, view) for p in self._source.ledger.partitions.values() if not p.gone]
        # A view that has not caught up once (UNSEEN is minus infinity) is as blind as the aggregator is old.
        seen = max(min(present, default=0.0), self._source.started_at)
        return max(0.0, self._source.now() - seen)

    # --- The daemon ---------------------------------------------------------------------------------------------------

    def _daemon(self) -> Iterator[Metric]:
        children = self._source.children()
        yield simple(catalogue.BUILD_INFO, {(__version__,): 1})
        yield simple(catalogue.READY, {(): int(not self._source.missing())})
        reloads = self._source.reloads
        yield simple(catalogue.CONFIG_RELOADS, {("applied",): reloads.applied, ("refused",): reloads.refused})
        yield simple(catalogue.CONFIG_LAST_RELOAD_SUCCESSFUL, {(): int(reloads.good)})
        yield simple(catalogue.CHILD_UP, {(child.name,): int(child.up) for child in children})
        yield simple(catalogue.CHILD_RESTARTS, {(child.name,): child.restarts for child in children})
        ages_s = self._source.heartbeat_ages_s()
        yield simple(catalogue.CHILD_HEARTBEAT_AGE, {(name,): age_s for name, age_s in ages_s.items()})
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
    """The values of the label `txn_type`: the configured types, and all that were seen."""
    gauges = figures.gauges
    seen = (figures.opened, figures.durations, gauges.partial)
    by_state = (gauges.live, figures.finished)
    # Not a set: while the samples keep their order, monotonic_counters.py has little to do.
    return list(
        dict.fromkeys(
            [
                *configured,
                *figures.txn_types.named,
                *(t for f in seen for t in f),
                *(key[0] for f in by_state for key in f),
            ]
        )
    )


def limit_hits(figures: Figures) -> dict[str, int]:
    """What was given up, by the limit's key in the config."""
    # Two of the limits are counted elsewhere: oversized records with the records, label values at their caps.
    oversized = [n for (_, _, result), n in figures.records.items() if result == RecordResult.OVERSIZED]
    cut = figures.txn_types.cut + figures.steps.cut + figures.statuses.cut
    return {**figures.limit_hits, "label_values": cut, "value_bytes": sum(oversized)}


class TopicLabels:
    """The label values of topics: the first `most` distinct ones by name, the others as `__overflow__`."""

    def __init__(self, topics: Iterable[str], most: int) -> None:
        distinct = list(dict.fromkeys(topics))
        self._named = set(distinct[:most])
        self.cut = max(0, len(distinct) - most)
        self.labels = distinct[:most] + ([OVERFLOW] if self.cut else [])

    def label(self, topic: str) -> str:
        """What stands for this topic."""
        return topic if topic in self._named else OVERFLOW


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
    """A family of counters or gauges, from one number for each tuple of label values."""
    family = definition.family()
    family.samples = [_sample(definition, labels, value) for labels, value in values.items()]
    return family


def histograms(definition: Definition, values: Mapping[V, Histogram]) -> Metric:
    """A family of histograms, with exemplars where there are some."""
    family = definition.family()
    for labels, histogram in values.items():
        # The ledger's buckets count each for itself, those of Prometheus all up to their bound.
        cumulative = list(accumulate(histogram.counts))
        exemplars = {
            i: Exemplar({"txn_id": exemplar.txn_id}, exemplar.value, exemplar.at)
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

NOBODY: Counter[int] = Counter()


class Ages(NamedTuple):
    """The ages of the open transactions of one type: how many are at most as old as each bound (the last: all)."""

    cumulative: list[int]
    sum_s: float
    oldest_s: float

    @classmethod
    def of(cls, opened: Mapping[int, int], bounds: Sequence[float], now: float) -> "Ages":
        """Ages from how many were opened in which second. What was opened in the future has the age 0."""
        if not opened:
            return cls([0] * (len(bounds) + 1), 0.0, 0.0)
        seconds = sorted(opened)
        counts = [opened[second] for second in seconds]
        # before[i]: how many were opened in the first i of these seconds; from `past` on they lie in the future, and
        # add no age.
        before = [0, *accumulate(counts)]
        past = bisect_right(seconds, now)
        sum_s = before[past] * now - sum(map(mul, seconds[:past], counts))
        # At most `bound` old: all but those opened before now - bound.
        cumulative = [before[-1] - before[bisect_left(seconds, now - bound)] for bound in bounds]
        return cls([*cumulative, before[-1]], sum_s, max(0.0, now - seconds[0]))
