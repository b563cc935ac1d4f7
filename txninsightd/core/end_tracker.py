"""`as_of` of one partition in one view: the latest moment up to which nothing unread can exist.

The broker is asked at t0 where the log ends. Once the reader's position reaches the answer, everything that was in the
log at t0 has been read. A few answers ahead of the position are kept: dropping one in the middle only makes `as_of`
advance a little later.
"""

from collections import deque


class EndTracker:
    """`as_of`: what is known at the start of what lies before the position. An outage under way began then."""

    MOST_KEPT = 16

    def __init__(self, as_of: float = 0.0) -> None:
        self.as_of = as_of
        self.end_offset = -1
        self.reached_offset = -1
        self.outage_from = 0.0
        self._answered_at = as_of
        self._failed = False
        self._ahead: deque[tuple[float, int, float]] = deque()

    def answered(self, asked_at: float, end_offset: int) -> None:
        """The broker was asked at `asked_at` and says that the log ends at `end_offset`."""
        if asked_at <= self._answered_at:
            return
        # 0 where no answer came before either: when that outage began is not known, so it counts as none.
        outage_from = self._answered_at if self._failed else 0.0
        self.end_offset, self._answered_at, self._failed = end_offset, asked_at, False
        if len(self._ahead) >= self.MOST_KEPT:
            self._drop_one()
        self._ahead.append((asked_at, end_offset, outage_from))

    def failed(self) -> None:
        """The broker was asked and gave no answer."""
        self._failed = True

    def _drop_one(self) -> None:
        """Drop the last answer that ended no outage: an outage must end with the answer that ended it."""
        i = next((i for i in reversed(range(len(self._ahead))) if not self._ahead[i][2]), len(self._ahead) - 1)
        del self._ahead[i]

    def reached(self, position: int) -> bool:
        """The reader has passed everything below `position`. Says whether `as_of` has advanced by that.

        It advances up to the end of the next outage, and goes on once `take_outage` has taken that outage.
        """
        # A message has room for one outage of a partition, the one that its `as_of` ends.
        before = self.as_of
        while self._ahead and self._ahead[0][1] <= position and not self.outage_from:
            self.as_of, self.reached_offset, self.outage_from = self._ahead.popleft()
        return self.as_of > before

    def take_outage(self) -> float:
        """When the outage began that ended with the present `as_of`, returned once; 0 without one."""
        outage_from, self.outage_from = self.outage_from, 0.0
        return outage_from
