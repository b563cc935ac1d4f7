"""Which partitions were seen further than any message says yet, gathered by topic.

How far a partition was seen (`as_of`) changes once a second even where nothing is written. So it does not travel with
the partition's messages: a reader gathers what has advanced, and sends one `Seen` for all. An idle partition then costs
a few numbers in a column.

An `as_of` stands for everything below an offset that the broker once named. It is only handed out when all of that is
in messages.
"""

from collections.abc import Collection

from txninsightd.ingest.views import Progress
from txninsightd.vocabulary import SeenTopic, View


class Advances:
    """The partitions of one reader that have advanced. `view`: only a validator names stable offsets."""

    def __init__(self, view: View) -> None:
        self._names_stable = view is View.VALIDATOR
        self._by_topic: dict[str, dict[int, Progress]] = {}

    @property
    def topics(self) -> Collection[str]:
        """The topics of which some partition has advanced."""
        return self._by_topic.keys()

    def add(self, progress: Progress) -> None:
        """The partition's `as_of` has advanced."""
        topic, partition, _ = progress.ref
        by_partition = self._by_topic.get(topic)
        if by_partition is None:
            by_partition = self._by_topic[topic] = {}
        by_partition[partition] = progress

    def discard(self, progress: Progress) -> None:
        """The partition is no longer read."""
        topic, partition, _ = progress.ref
        by_partition = self._by_topic.get(topic)
        if by_partition is not None and by_partition.pop(partition, None) is not None and not by_partition:
            del self._by_topic[topic]

    def take(self, topic: str) -> SeenTopic | None:
        """How far the partitions of one topic were seen; each advance is handed out once. None: there is none.

        A partition stays here while its messages do not reach as far as its `as_of`.
        """
        ready = [p for p in self._by_topic.get(topic, {}).values() if p.is_reported]
        if not ready:
            return None
        for progress in ready:
            self.discard(progress)
        trackers = [progress.tracker for progress in ready]
        numbers = [progress.ref.partition for progress in ready]
        # The columns first: taking an outage lets a tracker advance beyond it.
        as_ofs, ends = [tracker.as_of for tracker in trackers], [tracker.end_offset for tracker in trackers]
        stable = [tracker.reached_offset for tracker in trackers] if self._names_stable else []
        outages = [(n, t.take_outage()) for n, t in zip(numbers, trackers, strict=True) if t.outage_from]
        if outages:
            for progress in ready:
                if progress.tracker.reached(progress.frontier):
                    self.add(progress)
        # Only the monitor's outages lengthen waits.
        told = [] if self._names_stable else outages
        return SeenTopic(topic, ready[0].ref.incarnation, numbers, as_ofs, ends, stable, told)
