"""Prevents counter resets: no counter falls or counts twice when a process restarts.

A table on disk holds the last exposed value of each sample. Restarts reset counters in two ways (`Counted`):

- The aggregator's state returns to a checkpoint and counts the later records again. The old value is exposed until the
  new count has passed it.
- A process's own counters restart at 0. New counts are added to the last exposed value (`base`).

So each sample is

    max(last exposed value, base + present count)

`base` becomes the last exposed value when another process counts: for the parent's counters with each session of the
parent, for the aggregator's own counters with each aggregator. For counters of the state `base` is 0, unless the state
once started empty at the end of all topics: then no record is counted again.

Consequences:

- Cumulative buckets stay in order, and `+Inf` stays equal to the count: the larger of two ascending rows is ascending.
- A value that is measured again (the commit delay of a close that is read again) may move a bucket before its count.
- A transaction that the state does not count again (it was stuck only before the restart) hides one later transaction.

A series stays exposed with its last value, even if its topic or child is no longer configured. If it vanished and came
back, it would have fallen. The caps on label values bound the number of series, since `restore_label_values` reserves
the old values first. To forget the table, stop the daemon and delete the file.

The table is written before the answer leaves. If the write fails, the answer still leaves, with `COUNTERS_KEPT` at 0.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from operator import add
from pathlib import Path

import structlog
from prometheus_client.core import Metric, Sample
from prometheus_client.registry import Collector

from txninsightd.core.figures import Figures
from txninsightd.core.labels import UNNAMED
from txninsightd.expose import monotonic_counters_file
from txninsightd.expose.catalogue import CATALOGUE, COUNTERS_KEPT, Counted, Definition
from txninsightd.expose.monotonic_counters_file import ExposedFamily, ExposedValues, Unreadable
from txninsightd.visible_text import visible
from txninsightd.vocabulary import OVERFLOW

USUAL_ADVICE = "make state.directory writable, with space left, for the user that runs txninsightd"

log = structlog.get_logger()

COUNTED = {definition.family().name: definition for definition in CATALOGUE if definition.counted}
"""The counters and histograms, by family name."""

Key = tuple[str, ...]
"""A sample's name, then its label values in the family's order; a bucket's `le` comes last."""


class StateOrigin(StrEnum):
    """Where the aggregator's state comes from, which tells what is counted again."""

    CHECKPOINT = "checkpoint"
    """A checkpoint: later records are read again."""
    EMPTY = "empty"
    """Empty, reading from the earliest records or some time ago: records that were counted may be read again."""
    EMPTY_AT_LATEST = "empty_at_latest"
    """Empty, reading from the end of all topics: no record is read again."""


class MonotonicCounters:
    """The last exposed values, stored in the file `path`. Create one per aggregator process, before it counts.

    `session` identifies the parent process. An unusable file is logged and replaced. `claim` makes sure that the file's
    directory is still this daemon's, or raises OSError; it is called before each write.
    """

    def __init__(self, path: Path, session: str, origin: StateOrigin, claim: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._session = session
        self._claim = claim
        self._saved = True
        self._families = {name: _CounterFamily(definition) for name, definition in COUNTED.items()}
        self._load(origin)
        # The bases must be on disk before the first checkpoint of this process.
        self._changed = True
        self._save()

    def without_resets(self, families: Iterable[Metric]) -> Iterator[Metric]:
        """Correct the families of one scrape, one by one; when the iterator ends, the table is on disk."""
        # Local, because scrapes overlap: the event loop gets a turn between families.
        absent = dict(self._families)
        for metric in families:
            family = absent.pop(metric.name, None)
            if family is not None:
                self._changed |= family.remove_resets(metric)
            yield metric
        yield from [family.last_shown() for family in absent.values() if family.keys]
        # The renderer sends its text only after the iterator ends, so the table is on disk first. An interrupted
        # scrape has exposed nothing.
        self._save()
        saved = COUNTERS_KEPT.family()
        saved.add_sample(COUNTERS_KEPT.name, {}, int(self._saved))
        yield saved

    def restore_label_values(self, figures: Figures) -> None:
        """Reserve places under the caps for the label values that were exposed, whatever is read first this time.

        Call it once, before the first record. If a cap is lower now, it cuts some of them and counts that.
        """
        for family in self._families.values():
            if family.definition.counted is Counted.STATE:
                for labels in family.counted_labels():
                    _reserve_label_values(figures, labels)

    # --- The file -----------------------------------------------------------------------------------------------------

    def _load(self, origin: StateOrigin) -> None:
        try:
            kept = monotonic_counters_file.read(self._path)
            # Drop families that have left the catalogue.
            for name in kept.families.keys() & self._families.keys():
                self._families[name].load(kept.families[name])
        except FileNotFoundError:
            return
        except (OSError, Unreadable) as e:
            log.warning("exposed_values_ignored", path=str(self._path), error=str(e), effect="counters begin again")
            # Discard also the families loaded before the fault: the file is valid as a whole or not at all.
            self._families = {name: _CounterFamily(definition) for name, definition in COUNTED.items()}
            return
        for family in self._families.values():
            if _counts_from_zero(family.definition, origin, kept.session != self._session):
                family.rebase_on_shown()
            elif family.definition.counted is Counted.STATE and origin is StateOrigin.EMPTY:
                # A base from an earlier start at the latest end would count the records twice.
                family.clear_base()

    def _save(self) -> None:
        if not self._changed and self._path.exists():
            return
        table = {name: family.to_exposed() for name, family in self._families.items() if family.keys}
        try:
            self._claim()
            monotonic_counters_file.write(self._path, ExposedValues(self._session, table))
        except OSError as e:
            if self._saved:
                log.error(
                    "exposed_values_not_kept",
                    path=str(self._path),
                    error=str(e),
                    effect="counters may fall at the aggregator's next start",
                    advice=getattr(e, "advice", USUAL_ADVICE),
                )
            self._saved = False
            return
        if not self._saved:
            log.info("exposed_values_kept_again", path=str(self._path))
        self._saved = True
        self._changed = False


class MonotonicCollector(Collector):
    """A registry's metrics without counter resets."""

    def __init__(self, source: Collector, monotonic_counters: MonotonicCounters) -> None:
        self._source = source
        self._monotonic_counters = monotonic_counters

    def collect(self) -> Iterable[Metric]:
        """All families, built lazily one after the other."""
        return self._monotonic_counters.without_resets(self._source.collect())


def _counts_from_zero(definition: Definition, origin: StateOrigin, another_parent: bool) -> bool:
    """Whether the present count includes nothing of what was exposed before."""
    if definition.counted is Counted.STATE:
        return origin is StateOrigin.EMPTY_AT_LATEST
    return another_parent or definition.counted is Counted.AGGREGATOR


def _reserve_label_values(figures: Figures, labels: dict[str, str]) -> None:
    txn_type = labels.get("txn_type")
    if txn_type is None:
        return
    if txn_type != OVERFLOW:
        # Calling the cap reserves the value's place.
        figures.txn_types(_event_value(txn_type))
    for label, cap in (("step", figures.steps), ("status", figures.statuses)):
        value = labels.get(label, OVERFLOW)
        if value != OVERFLOW:
            cap(txn_type, _event_value(value))


def _event_value(label: str) -> str | None:
    """The event's value behind a label."""
    return None if label == UNNAMED else label


class _CounterFamily:
    """One counter or histogram: parallel rows with an entry per sample. The last scrape had the first `_present` ones.

    The others were exposed earlier. While the same samples come in the same order, a scrape costs a few passes in C
    over these rows.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.keys: list[Key] = []
        self._name = definition.family().name
        self._labels: tuple[str, ...] = ()
        self._shown: list[float] = []
        self._base: list[float] = []
        self._present = 0
        self._packed_keys = monotonic_counters_file.packed_keys([])

    # --- A scrape -----------------------------------------------------------------------------------------------------

    def remove_resets(self, metric: Metric) -> bool:
        """Correct the samples, and add those that only earlier scrapes had. Returns whether the rows changed."""
        samples = metric.samples
        # Access by position (0 name, 1 labels, 2 value) is faster, and this runs for every sample of every scrape. A
        # family's labels always come in the same order, `le` last.
        keys = [(sample[0], *sample[1].values()) for sample in samples]
        aligned = keys == self.keys[: self._present]
        if not aligned:
            self._align(keys, _label_names(samples) if samples else self._labels)
        own = [sample[2] for sample in samples]
        # `base` and `shown` are longer than `own`; `map` stops at the shortest row.
        counted = list(map(add, self._base, own)) if self._base else own
        corrected = list(map(max, self._shown, counted))
        moved = corrected != self._shown[: self._present]
        if moved:
            self._shown[: self._present] = corrected
        # Usually no sample needs a correction.
        if corrected != own:
            metric.samples = [s if v == s[2] else _with(s, v) for s, v in zip(samples, corrected, strict=True)]
        metric.samples += self._samples(self._present)
        return moved or not aligned

    def last_shown(self) -> Metric:
        """The family with its last values, for a scrape without it."""
        metric = self.definition.family()
        metric.samples = self._samples(0)
        return metric

    def _samples(self, start: int) -> list[Sample]:
        rows = zip(self.keys[start:], self._shown[start:], strict=True)
        return [Sample(key[0], self._named(key), value) for key, value in rows]

    def _named(self, key: Key) -> dict[str, str]:
        # Only a bucket's key has an item for `le`.
        return dict(zip((*self._labels, "le"), key[1:], strict=False))

    def counted_labels(self) -> Iterator[dict[str, str]]:
        """The labels of all samples other than 0."""
        return (self._named(key) for key, value in zip(self.keys, self._shown, strict=True) if value)

    # --- Other samples than before ------------------------------------------------------------------------------------

    def _align(self, keys: list[Key], labels: tuple[str, ...]) -> None:
        """Bring the rows into the order of these keys. Absent series follow, each in one piece.

        If a series comes without some of its old buckets, its bounds have changed: drop those buckets.
        """
        # Other labels make it another metric; its old values mean nothing here.
        if labels != self._labels:
            self._forget(labels)
        base = self._base or [0.0] * len(self.keys)
        shown_by_key, base_by_key = (
            dict(zip(self.keys, self._shown, strict=True)),
            dict(zip(self.keys, base, strict=True)),
        )
        present, series = set(keys), {self._series(key) for key in keys}
        absent = [key for key in self.keys if key not in present and self._series(key) not in series]
        self._present = len(keys)
        self.keys = keys + absent
        self._shown = self._ascending([shown_by_key.get(key, 0.0) for key in self.keys])
        self._base = self._ascending([base_by_key.get(key, 0.0) for key in self.keys]) if self._base else []
        self._pack()

    def _ascending(self, row: list[float]) -> list[float]:
        """Raise a new bucket to the one before it if that one is higher."""
        for i in range(1, len(row)):
            before, key = self.keys[i - 1], self.keys[i]
            # The buckets of a series are neighbours with rising bounds; their keys differ only in the last item.
            if self._is_bucket(key) and before[:-1] == key[:-1]:
                row[i] = max(row[i], row[i - 1])
        return row

    def _series(self, key: Key) -> Key:
        return key[1 : 1 + len(self._labels)]

    def _is_bucket(self, key: Key) -> bool:
        return len(key) > 1 + len(self._labels)

    def _forget(self, labels: tuple[str, ...]) -> None:
        if self.keys:
            log.info("exposed_values_of_other_labels", metric=self.definition.name, were=self._labels, are=labels)
        self._labels = labels
        self.keys, self._shown, self._base = [], [], []

    # --- Bases --------------------------------------------------------------------------------------------------------

    def rebase_on_shown(self) -> None:
        """From now on, add the present count to the last shown value."""
        self._base = list(self._shown) if any(self._shown) else []

    def clear_base(self) -> None:
        """From now on, the present count stands alone."""
        self._base = []

    # --- The file -----------------------------------------------------------------------------------------------------

    def to_exposed(self) -> ExposedFamily:
        """The rows in the file's form."""
        return ExposedFamily(self._labels, self._packed_keys, self._shown, self._base)

    def load(self, kept: ExposedFamily) -> None:
        """Load the rows from the file. Raises Unreadable."""
        # An older version kept label values as events had them. No page may hold them, or one key twice.
        keys = [(self._name + key[0], *map(visible, key[1:])) for key in monotonic_counters_file.keys_of(kept)]
        self.keys = list(dict.fromkeys(keys))
        self._labels, self._shown, self._base = kept.labels, _sums(keys, kept.shown), _sums(keys, kept.base)
        # The first scrape aligns them.
        self._present = len(self.keys)
        self._pack()

    def _pack(self) -> None:
        start = len(self._name)
        # Pack them when they change, not at each write. Each begins with the family's name, which is left out.
        self._packed_keys = monotonic_counters_file.packed_keys([(key[0][start:], *key[1:]) for key in self.keys])


def _sums(keys: list[Key], row: list[float]) -> list[float]:
    """The sum for each distinct key, in the order of `keys`; an empty row stays empty."""
    sums: dict[Key, float] = {}
    for key, value in zip(keys, row, strict=False):
        sums[key] = sums.get(key, 0.0) + value
    return list(sums.values())


def _with(sample: Sample, value: float) -> Sample:
    return Sample._make((sample[0], sample[1], value, sample[3], sample[4], sample[5]))


def _label_names(samples: Sequence[Sample]) -> tuple[str, ...]:
    return tuple(name for name in samples[0].labels if name != "le")
