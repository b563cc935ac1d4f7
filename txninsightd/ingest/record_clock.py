"""The clock that the timestamps of records are compared with.

A timestamp far ahead of now is implausible, and is replaced. But the clock of our own host may be the wrong one: if it
is set back by an hour, every record would seem to be from the future. So a timestamp is plausible if by any time that
this process had for now it would be: by the wall clock of the daemon's start, or by any that it was set to since.
"""

from txninsightd import clock


class RecordClock:
    """Follows the wall clock."""

    def __init__(self) -> None:
        self._most_ahead_s = 0.0

    def now(self) -> float:
        """Seconds since the epoch, by the wall clock."""
        now = clock.wall()
        self._most_ahead_s = max(self._most_ahead_s, clock.stepped_s())
        return now

    def latest(self) -> float:
        """The same by the wall clock that was furthest ahead so far."""
        return clock.steady() + self._most_ahead_s
