"""The readers' moments in the aggregator's time.

Readers count by a steady clock that no step of the wall clock moves (clock.py). The ledger compares moments with the
timestamps of events, so it needs wall-clock time. Only the aggregator converts, and only it decides when a step of the
wall clock takes effect: between two messages, together with the correction of all that was learnt before.
"""

from collections.abc import Callable

import msgspec

from txninsightd import clock
from txninsightd.core.our_clock import OurClock
from txninsightd.vocabulary import Coverage, Discovery, FromChild, Seen, Sightings


class WallTime:
    """Follows the wall clock from the start of the process on. `steps`: how often it was stepped since.

    `follow_clock` takes in a step and returns its seconds; `ahead_s`: by how much wall-clock time is ahead of the
    steady clock's.
    """

    def __init__(
        self, follow_clock: Callable[[], float] = lambda: 0.0, ahead_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._follow_clock = follow_clock
        self._ahead_s = ahead_s
        self._suspended_s = clock.suspended_s()
        self.steps = 0

    @classmethod
    def of_this_process(cls) -> "WallTime":
        """By the process's own clock."""
        return cls(clock.follow, clock.stepped_s)

    def follow(self) -> float:
        """By how many seconds the wall clock was stepped since the last call; 0: it was not."""
        step_s = self._follow_clock()
        self.steps += bool(step_s)
        return step_s

    def suspended_s(self) -> float:
        """For how many seconds the machine was suspended since the last call. That is no step: both clocks went on."""
        before, self._suspended_s = self._suspended_s, clock.suspended_s()
        return self._suspended_s - before

    def our_clock(self) -> OurClock:
        """The clock as followed up to now."""
        return OurClock(clock.boot_id(), clock.booted_at())

    def steady(self, moment: float) -> float:
        """A moment of the ledger for a reader; 0 stays 0."""
        return moment - self._ahead_s() if moment else 0.0

    def message(self, message: FromChild) -> FromChild:
        """A reader's message in wall-clock time. What is not known (0) stays so."""
        ahead_s = self._ahead_s()
        return message if not ahead_s else _moved(message, ahead_s)


def _moved(message: FromChild, by_s: float) -> FromChild:
    replace = msgspec.structs.replace

    def moved(moment: float) -> float:
        return moment + by_s if moment else 0.0

    if isinstance(message, Sightings):
        return replace(
            message,
            read_at=moved(message.read_at),
            as_of=moved(message.as_of),
            outage_from=moved(message.outage_from),
        )
    if isinstance(message, Coverage):
        return replace(message, decided_at=moved(message.decided_at), as_of=moved(message.as_of))
    if isinstance(message, Discovery):
        found = [replace(start, as_of=moved(start.as_of)) for start in message.found]
        return replace(message, asked_at=moved(message.asked_at), found=found)
    return Seen(
        message.view,
        [
            replace(
                topic,
                as_ofs=[moved(as_of) for as_of in topic.as_ofs],
                outages=[(partition, moved(began)) for partition, began in topic.outages],
            )
            for topic in message.topics
        ],
    )
