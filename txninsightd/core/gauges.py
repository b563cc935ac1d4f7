"""The live gauges: how many transactions stand where, and when the open ones were opened.

They are counted by the type that events name, not by the label of that type, and capped only when they are read: a cap
that the operator raises while transactions are live then moves them to their own label, and every decrement still finds
its increment. Entries that reach 0 are dropped, so memory is bounded by the live transactions. Nothing of this is
saved: they are counted anew from the live transactions of a restored ledger.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from txninsightd.core.labels import LabelCap
from txninsightd.core.transaction import Standing

Seconds = Mapping[int, int]
"""How many of the open transactions of a type were opened in each second."""


class Gauges:
    """`txn_types` gives types their labels."""

    def __init__(self, txn_types: LabelCap) -> None:
        self._txn_types = txn_types
        self._live: Counter[tuple[str | None, str]] = Counter()
        self._stuck: Counter[tuple[str | None, str]] = Counter()
        self._partial: Counter[str | None] = Counter()
        self._opened: dict[str | None, Counter[int]] = {}

    def move(self, before: Standing | None, after: Standing | None) -> None:
        """Move one live transaction from one place in the gauges to another."""
        if before is not None:
            self._shift(before, -1)
        if after is not None:
            # A type gets its label when it is first seen, or is counted as cut.
            self._txn_types(after.txn_type)
            self._shift(after, 1)

    def rebuild(self, standings: Iterable[Standing | None]) -> None:
        """Count the live transactions of a restored ledger. No type gets a label by this, and none counts as cut."""
        for standing in standings:
            if standing is not None:
                self._shift(standing, 1)

    def _shift(self, standing: Standing, by: int) -> None:
        txn_type = standing.txn_type
        if standing.state is not None:
            _shift(self._live, (txn_type, standing.state), by)
        if standing.cause is not None:
            _shift(self._stuck, (txn_type, standing.cause), by)
        if standing.partial:
            _shift(self._partial, txn_type, by)
        if standing.opened_s is not None:
            seconds = self._opened.get(txn_type)
            if seconds is None:
                seconds = self._opened[txn_type] = Counter()
            _shift(seconds, standing.opened_s, by)
            if not seconds:
                del self._opened[txn_type]

    @property
    def live_total(self) -> int:
        """How many transactions stand in a gauge of a state."""
        return sum(self._live.values())

    @property
    def stuck_total(self) -> int:
        """How many transactions are stuck."""
        return sum(self._stuck.values())

    # --- As they are shown, by label ----------------------------------------------------------------------------------

    @property
    def live(self) -> dict[tuple[str, str], int]:
        """Live transactions by type and state (open, tentatively_closed, stuck, aborted)."""
        return self._by_label(self._live)

    @property
    def stuck(self) -> dict[tuple[str, str], int]:
        """Stuck transactions by type and cause."""
        return self._by_label(self._stuck)

    @property
    def partial(self) -> dict[str, int]:
        """Live transactions whose beginning was not seen, by type."""
        shown: dict[str, int] = defaultdict(int)
        for txn_type, count in self._partial.items():
            shown[self._txn_types.label(txn_type)] += count
        return dict(shown)

    @property
    def opened_seconds(self) -> dict[str, Seconds]:
        """When the open transactions of each type were opened."""
        by_label: dict[str, list[Counter[int]]] = defaultdict(list)
        for txn_type, seconds in self._opened.items():
            by_label[self._txn_types.label(txn_type)].append(seconds)
        # Only types that share a label are added up; all others are shown without a copy.
        return {label: each[0] if len(each) == 1 else _sum(each) for label, each in by_label.items()}

    def _by_label(self, counts: Counter[tuple[str | None, str]]) -> dict[tuple[str, str], int]:
        shown: dict[tuple[str, str], int] = defaultdict(int)
        for (txn_type, second), count in counts.items():
            shown[self._txn_types.label(txn_type), second] += count
        return dict(shown)


def _sum(counters: list[Counter[int]]) -> Counter[int]:
    total: Counter[int] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _shift(counts: Counter, key: object, by: int) -> None:  # type: ignore[type-arg]
    count = counts[key] + by
    if count:
        counts[key] = count
    else:
        del counts[key]
