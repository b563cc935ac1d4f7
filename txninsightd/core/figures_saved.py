"""The figures as a snapshot holds them. The names of fields are keys in snapshots, and must not change."""

from bisect import bisect_left
from collections.abc import Mapping
from math import inf
from operator import add
from typing import Any, Generic, TypeVar

import msgspec

from txninsightd.core.histogram import Exemplar, Histogram
from txninsightd.core.saved_values import Count
from txninsightd.visible_text import visible

MOST_COUNTED = 2**53
"""More observations than this are not possible: floats could not tell the number from the next one."""

Labels = TypeVar("Labels")
Pair = tuple[str, str]
Three = tuple[str, str, str]
NamedPairs = tuple[list[tuple[str, str | None, str]], Count, list[str], Count]


class SavedHistogram(msgspec.Struct, Generic[Labels], array_like=True):
    """One histogram; `exemplars` by the number of the bucket."""

    labels: Labels
    counts: list[Count]
    sum: float
    exemplars: dict[int, Exemplar]


class SavedCounters(msgspec.Struct):
    """The counters as pairs of labels and count."""

    opened: list[tuple[str, Count]]
    finished: list[tuple[Three, Count]]
    stuck: list[tuple[Pair, Count]]
    anomalies: list[tuple[str, Count]]
    records: list[tuple[Three, Count]]
    replayed: list[tuple[Pair, Count]] = []
    objective_missed: list[tuple[str, Count]] = []
    limit_hits: list[tuple[str, Count]] = []


class SavedHistograms(msgspec.Struct):
    """The histograms."""

    durations: list[SavedHistogram[str]]
    commit_delays: list[SavedHistogram[str]]
    step_durations: list[SavedHistogram[Pair]]
    step_gaps: list[SavedHistogram[Pair]]


COUNTERS = SavedCounters.__struct_fields__
HISTOGRAMS = SavedHistograms.__struct_fields__


class SavedPairs(msgspec.Struct):
    """The pairs of labels that have a name."""

    steps: NamedPairs
    statuses: NamedPairs


class SavedFigures(msgspec.Struct):
    """All counters and histograms, and the labels that have a name."""

    bounds: list[float]
    counters: SavedCounters
    histograms: SavedHistograms
    settled_by_timeout: Count
    txn_types: tuple[list[str], Count]
    pairs: SavedPairs


def saved_histograms(histograms: Mapping[Labels, Histogram]) -> list[SavedHistogram[Labels]]:
    """Histograms by their labels, as a snapshot holds them."""
    return [SavedHistogram(labels, h.counts, h.sum, h.exemplars) for labels, h in histograms.items()]


def visible_labels(saved: Labels) -> Labels:
    """One label or several as they are shown now; an older version saved them as the events had them."""
    labels: Any = visible(saved) if isinstance(saved, str) else tuple(map(visible, saved))  # type: ignore[call-overload]
    return labels  # type: ignore[no-any-return]


def restore_histogram(histogram: Histogram, saved: SavedHistogram[Any], bounds: list[float]) -> None:
    """Add to a histogram what was saved. Raises ValueError when the saved counts do not fit the saved bounds."""
    if len(saved.counts) != len(bounds) + 1:
        raise ValueError("a histogram with other buckets than it names")
    if sum(saved.counts) > MOST_COUNTED:
        raise ValueError("a histogram that has counted more than is possible")
    histogram.sum += saved.sum
    if bounds == list(histogram.bounds):
        histogram.counts = list(map(add, histogram.counts, saved.counts))
        histogram.exemplars |= saved.exemplars
        return
    for bound, count in zip([*bounds, inf], saved.counts, strict=True):
        histogram.counts[bisect_left(histogram.bounds, bound)] += count
