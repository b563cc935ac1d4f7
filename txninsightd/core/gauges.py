"""The live gauges: how many transactions stand where, and when the open ones were opened.

They are counted by the label of the type. A type without a label of its own is counted under `__overflow__` for as long
as such transactions are live, so that every decrement finds its increment; `rebuild` gives it its own label once there
is room. Entries that reach 0 are dropped. Nothing of this is saved: it is counted anew from the live transactions.
"""

from collections import Counter
from collections.abc import Iterable

from txninsightd.core.labels import LabelCap
from txninsightd.core.transaction import Standing
from txninsightd.vocabulary import OVERFLOW


class Gauges:
    """`txn_types` gives types their labels. All that is shown is by label, and must not be changed by the caller.

    `live`: by type and state (open, tentatively_closed, stuck, aborted). `stuck`: by type and cause. `partial`: those
    whose beginning was not seen, by type. `opened_seconds`: when the open ones were opened, by type and second.
    """

    def __init__(self, txn_types: LabelCap) -> None:
        self.live: Counter[tuple[str, str]] = Counter()
        self.stuck: Counter[tuple[str, str]] = Counter()
        self.partial: Counter[str] = Counter()
        self.opened_seconds: dict[str, Counter[int]] = {}
        self._txn_types = txn_types
        # How many live transactions of each type are counted as overflow.
        self._overflow: Counter[str | None] = Counter()

    def move(self, before: Standing | None, after: Standing | None) -> None:
        """Move one live transaction from one place in the gauges to another."""
        if before is not None and after is not None and before.txn_type == after.txn_type not in self._overflow:
            self._change(before, after)
            return
        if before is not None:
            self._shift(before, -1)
        if after is not None:
            # A type gets its label when it is first seen, or is counted as cut.
            self._txn_types(after.txn_type)
            self._shift(after, 1)

    def rebuild(self, standings: Iterable[Standing]) -> None:
        """Count all live transactions anew. No type gets a label by this, and none counts as cut."""
        for counts in (self.live, self.stuck, self.partial, self.opened_seconds, self._overflow):
            counts.clear()
        for standing in standings:
            self._shift(standing, 1)

    @property
    def overflow_types(self) -> list[str]:
        """The types of live transactions that are counted as overflow."""
        return [txn_type for txn_type in self._overflow if txn_type]

    def _change(self, before: Standing, after: Standing) -> None:
        # The type, and so the label, stays; mostly, only the state is another.
        label = self._txn_types.label(after.txn_type)
        if before.state != after.state:
            self._shift_state(label, before.state, -1)
            self._shift_state(label, after.state, 1)
        if before.cause != after.cause or before.partial != after.partial or before.opened_s != after.opened_s:
            self._shift_rest(label, before, -1)
            self._shift_rest(label, after, 1)

    def _shift(self, standing: Standing, by: int) -> None:
        txn_type = standing.txn_type
        label = OVERFLOW if txn_type in self._overflow else self._txn_types.label(txn_type)
        if label == OVERFLOW:
            _shift(self._overflow, txn_type, by)
        self._shift_state(label, standing.state, by)
        self._shift_rest(label, standing, by)

    def _shift_state(self, label: str, state: str | None, by: int) -> None:
        if state is not None:
            _shift(self.live, (label, state), by)

    def _shift_rest(self, label: str, standing: Standing, by: int) -> None:
        if standing.cause is not None:
            _shift(self.stuck, (label, standing.cause), by)
        if standing.partial:
            _shift(self.partial, label, by)
        if standing.opened_s is not None:
            seconds = self.opened_seconds.get(label)
            if seconds is None:
                seconds = self.opened_seconds[label] = Counter()
            _shift(seconds, standing.opened_s, by)
            if not seconds:
                del self.opened_seconds[label]


def _shift(counts: Counter, key: object, by: int) -> None:  # type: ignore[type-arg]
    # Not `counts[key]`: a Counter answers what it does not hold by a call of Python.
    count = counts.get(key, 0) + by
    if count:
        counts[key] = count
    else:
        del counts[key]
