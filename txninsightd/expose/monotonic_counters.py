"""No counter falls, or counts twice, over a restart of any process: what was exposed is kept and never gone below.

Counters begin again where they are counted (`Counted`). The aggregator's state is set back to a checkpoint, and what
came after it is read and counted once more: until that has passed what was exposed, the old value is shown. What a
process counts for itself begins at 0 with it: its new counts are added to what was exposed (`base`). So each sample is

    max(what was exposed before, base + what is counted now)

where `base` is taken anew, from what was exposed, when the process that counts is another one than before: for the
parent's counters with its session, for the aggregator's own with each aggregator. For the state `base` is 0, unless it
was once begun anew at the end of all topics: then nothing is read again.

Three things follow. Cumulative buckets stay in order, and `+Inf` stays equal to the count, since the larger of two
ascending rows is ascending. What was measured anew (the commit delay of a close that is read again) may move a bucket
earlier than its count. And whatever the state does not count a second time (a transaction that was stuck only before
the restart) hides as many later ones.

A series once exposed goes on being exposed with its last value, even if its topic or child is configured no more: one
that vanished and came back would have fallen. The caps of label values bound their number, since `name_again` gives
back to each name the place that it had; to forget all of it, stop the daemon and delete the file.

The table is written before the answer leaves. If it cannot be, the answer leaves all the same, and says so.
"""

from collections.abc import Iterable, Iterator, Sequence
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
from txninsightd.expose.monotonic_counters_file import Kept, KeptFamily, Unreadable
from txninsightd.vocabulary import OVERFLOW

log = structlog.get_logger()

COUNTED = {definition.family().name: definition for definition in CATALOGUE if definition.counted}
"""The counters and histograms, by the names of their families."""

Key = tuple[str, ...]
"""A sample's name, then its label values in the order in which the family has them; a bucket's `le` is the last."""


class Began(StrEnum):
    """How the aggregator came by its state."""

    RESUMED = "resumed"
    """From a checkpoint: what came after it is read again."""
    ANEW = "anew"
    """Empty, and begun at the earliest records or some time ago: what was counted before may be read again."""
    ANEW_AT_LATEST = "anew_at_latest"
    """Empty, and begun at the end of all topics: nothing is read again."""


class MonotonicCounters:
    """What was exposed, kept in the file `path`; one for each life of the aggregator, made before anything is counted.

    `session` names the parent's life. A file that cannot be used is logged and written anew.
    """

    def __init__(self, path: Path, session: str, began: Began) -> None:
        self._path = path
        self._session = session
        self._kept = True
        self._families = {name: _Family(definition) for name, definition in COUNTED.items()}
        self._load(began)
        # On disk before anything is counted: a checkpoint of this life must never be met by a file without its bases.
        self._changed = True
        self._keep()

    def raised(self, families: Iterable[Metric]) -> Iterator[Metric]:
        """The families of one scrape, raised one by one as they come; at their end the table is on disk."""
        # One for each scrape: several may be under way, since the loop gets its turns between families.
        absent = dict(self._families)
        for metric in families:
            family = absent.pop(metric.name, None)
            if family is not None:
                self._changed |= family.raise_to_shown(metric)
            yield metric
        yield from [family.as_shown() for family in absent.values() if family.keys]
        # Whoever renders this has its text together only after the end, so the table is on disk before any of it
        # leaves. A scrape that is broken off has shown nothing.
        self._keep()
        kept = COUNTERS_KEPT.family()
        kept.add_sample(COUNTERS_KEPT.name, {}, int(self._kept))
        yield kept

    def name_again(self, figures: Figures) -> None:
        """Give the values of labels that were exposed their places under the caps, whoever is read first this time.

        To be called once, before anything is read. A cap that was lowered since cuts some of them, and counts that.
        """
        for family in self._families.values():
            if family.definition.counted is Counted.STATE:
                for labels in family.counted_labels():
                    _name(figures, labels)

    # --- The file -----------------------------------------------------------------------------------------------------

    def _load(self, began: Began) -> None:
        try:
            kept = monotonic_counters_file.read(self._path)
            # What the catalogue has no more is dropped.
            for name in kept.families.keys() & self._families.keys():
                self._families[name].load(kept.families[name])
        except FileNotFoundError:
            return
        except (OSError, Unreadable) as e:
            log.warning("exposed_values_ignored", path=str(self._path), error=str(e), effect="counters begin again")
            # Also those that were loaded before the fault was found: the file is believed as a whole, or not at all.
            self._families = {name: _Family(definition) for name, definition in COUNTED.items()}
            return
        for family in self._families.values():
            if _counts_from_zero(family.definition, began, kept.session != self._session):
                family.add_to_shown()
            elif family.definition.counted is Counted.STATE and began is Began.ANEW:
                # The base of an earlier life at the latest end would come on top of what is read again.
                family.add_to_nothing()

    def _keep(self) -> None:
        if not self._changed:
            return
        table = {name: family.kept() for name, family in self._families.items() if family.keys}
        try:
            monotonic_counters_file.write(self._path, Kept(self._session, table))
        except OSError as e:
            if self._kept:
                log.error(
                    "exposed_values_not_kept",
                    path=str(self._path),
                    error=str(e),
                    effect="counters may fall at the aggregator's next start",
                    advice="make state.directory writable, with space left, for the user that runs txninsightd",
                )
            self._kept = False
            return
        if not self._kept:
            log.info("exposed_values_kept_again", path=str(self._path))
        self._kept = True
        self._changed = False


class MonotonicCollector(Collector):
    """A registry's metrics, raised to what was exposed before."""

    def __init__(self, source: Collector, monotonic_counters: MonotonicCounters) -> None:
        self._source = source
        self._monotonic_counters = monotonic_counters

    def collect(self) -> Iterable[Metric]:
        """All families, one after the other as they are asked for."""
        return self._monotonic_counters.raised(self._source.collect())


def _counts_from_zero(definition: Definition, began: Began, another_parent: bool) -> bool:
    """Whether what is counted now is none of what was exposed before."""
    if definition.counted is Counted.STATE:
        return began is Began.ANEW_AT_LATEST
    return another_parent or definition.counted is Counted.AGGREGATOR


def _name(figures: Figures, labels: dict[str, str]) -> None:
    txn_type = labels.get("txn_type")
    if txn_type is None:
        return
    if txn_type != OVERFLOW:
        # To ask a cap for a label is to give the value its place.
        figures.txn_types(_said(txn_type))
    for label, cap in (("step", figures.steps), ("status", figures.statuses)):
        value = labels.get(label, OVERFLOW)
        if value != OVERFLOW:
            cap(txn_type, _said(value))


def _said(label: str) -> str | None:
    """What an event said that got this label."""
    return None if label == UNNAMED else label


class _Family:
    """One counter or histogram: parallel rows, an entry a sample. The first `_came` are those of the last scrape.

    The others were exposed once and did not come any more. As long as the same samples come in the same order, a scrape
    costs a few passes in C over these rows.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.keys: list[Key] = []
        self._name = definition.family().name
        self._labels: tuple[str, ...] = ()
        self._shown: list[float] = []
        self._base: list[float] = []
        self._came = 0
        self._packed_keys = monotonic_counters_file.packed_keys([])

    # --- A scrape -----------------------------------------------------------------------------------------------------

    def raise_to_shown(self, metric: Metric) -> bool:
        """Raise the samples, and add those that were exposed once and did not come. Whether the rows have changed."""
        samples = metric.samples
        # By position (0 name, 1 labels, 2 value), the faster way: it is done for every sample of every scrape. The
        # labels of a family come in the same order each time, `le` last.
        keys = [(sample[0], *sample[1].values()) for sample in samples]
        aligned = keys == self.keys[: self._came]
        if not aligned:
            self._align(keys, _label_names(samples) if samples else self._labels)
        own = [sample[2] for sample in samples]
        # `base` and `shown` go on behind those that came; `map` ends with the shorter row.
        counted = list(map(add, self._base, own)) if self._base else own
        raised = list(map(max, self._shown, counted))
        moved = raised != self._shown[: self._came]
        if moved:
            self._shown[: self._came] = raised
        # As a rule nothing is raised, and the samples stay what they are.
        if raised != own:
            metric.samples = [s if v == s[2] else _with(s, v) for s, v in zip(samples, raised, strict=True)]
        metric.samples += self._samples(self._came)
        return moved or not aligned

    def as_shown(self) -> Metric:
        """This family, which did not come at all."""
        metric = self.definition.family()
        metric.samples = self._samples(0)
        return metric

    def _samples(self, start: int) -> list[Sample]:
        rows = zip(self.keys[start:], self._shown[start:], strict=True)
        return [Sample(key[0], self._named(key), value) for key, value in rows]

    def _named(self, key: Key) -> dict[str, str]:
        # Only a bucket has something left for `le`.
        return dict(zip((*self._labels, "le"), key[1:], strict=False))

    def counted_labels(self) -> Iterator[dict[str, str]]:
        """The labels of all samples that are not 0."""
        return (self._named(key) for key, value in zip(self.keys, self._shown, strict=True) if value)

    # --- Other samples than before ------------------------------------------------------------------------------------

    def _align(self, keys: list[Key], labels: tuple[str, ...]) -> None:
        """Bring the rows into the order of these keys; what did not come follows, each series in one piece.

        A series that came without some of its buckets has other bounds than before: those are dropped.
        """
        # Another metric under the same name: what it showed says nothing of this one.
        if labels != self._labels:
            self._forget(labels)
        base = self._base or [0.0] * len(self.keys)
        shown_by_key, base_by_key = (
            dict(zip(self.keys, self._shown, strict=True)),
            dict(zip(self.keys, base, strict=True)),
        )
        came, series = set(keys), {self._series(key) for key in keys}
        absent = [key for key in self.keys if key not in came and self._series(key) not in series]
        self._came = len(keys)
        self.keys = keys + absent
        self._shown = self._ascending([shown_by_key.get(key, 0.0) for key in self.keys])
        self._base = self._ascending([base_by_key.get(key, 0.0) for key in self.keys]) if self._base else []
        self._pack()

    def _ascending(self, row: list[float]) -> list[float]:
        """Raise a bucket that is new among those of its series to the one before it, where that is higher."""
        for i in range(1, len(row)):
            before, key = self.keys[i - 1], self.keys[i]
            # The buckets of a series are neighbours, the bounds rising: such keys differ in the last part alone.
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

    def add_to_shown(self) -> None:
        """From now on, add what is counted to what was shown."""
        self._base = list(self._shown) if any(self._shown) else []

    def add_to_nothing(self) -> None:
        """From now on, what is counted is all there is."""
        self._base = []

    # --- The file -----------------------------------------------------------------------------------------------------

    def kept(self) -> KeptFamily:
        """The rows, as the file has them."""
        return KeptFamily(self._labels, self._packed_keys, self._shown, self._base)

    def load(self, kept: KeptFamily) -> None:
        """Take the rows from the file. Raises Unreadable."""
        self.keys = [(self._name + key[0], *key[1:]) for key in monotonic_counters_file.keys_of(kept)]
        self._labels, self._shown, self._base = kept.labels, kept.shown, kept.base
        # As if all had come in the last scrape: the first one of this life will align them.
        self._came = len(self.keys)
        self._pack()

    def _pack(self) -> None:
        start = len(self._name)
        # Packed when they change, not at each write. The family's name, with which each begins, is left out.
        self._packed_keys = monotonic_counters_file.packed_keys([(key[0][start:], *key[1:]) for key in self.keys])


def _with(sample: Sample, value: float) -> Sample:
    return Sample._make((sample[0], sample[1], value, sample[3], sample[4], sample[5]))


def _label_names(samples: Sequence[Sample]) -> tuple[str, ...]:
    return tuple(name for name in samples[0].labels if name != "le")
