"""Which positions the readers commit to Kafka: those that have moved, and now and then all of them.

They are for lag tools only. Brokers write each committed offset into a log of their own, so a partition that stands
still is not committed at each checkpoint; but often enough that a commit which failed, or was removed, is repeated.
"""

from collections.abc import Callable, Iterable

from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import PartitionRef, PartitionStart, View

ALL_EVERY_S = 300.0


class OffsetCommits:
    """Remembers what was sent to be committed, by view. `now`: seconds since the epoch."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sent: dict[View, dict[PartitionRef, int]] = {view: {} for view in View}
        self._forgot_at = 0.0

    def due(self, partitions: Iterable[PartitionState]) -> dict[View, list[PartitionStart]]:
        """What is to be committed of these partitions."""
        now = self._now()
        # Not ahead of `now` either: the clock may have been set back.
        if not 0 <= now - self._forgot_at < ALL_EVERY_S:
            self._sent, self._forgot_at = {view: {} for view in View}, now
        due: dict[View, list[PartitionStart]] = {view: [] for view in View}
        monitored, validated = self._sent[View.MONITOR], self._sent[View.VALIDATOR]
        for p in partitions:
            if monitored.get(p.ref) != p.monitor_offset:
                due[View.MONITOR].append(_start(p, p.monitor_offset))
            if validated.get(p.ref) != p.validator_offset:
                due[View.VALIDATOR].append(_start(p, p.validator_offset))
        return due

    def sent(self, view: View, positions: Iterable[PartitionStart]) -> None:
        """A reader was told to commit these."""
        self._sent[view].update((PartitionRef(p.topic, p.partition, p.incarnation), p.start_offset) for p in positions)


def _start(partition: PartitionState, offset: int) -> PartitionStart:
    topic, number, incarnation = partition.ref
    return PartitionStart(topic, number, offset, incarnation=incarnation)
