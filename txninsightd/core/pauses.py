"""Spans in which a wait does not run: the broker gave no answer (an *outage*), or our clock leapt over them (a *leap*).

A leap is a span of the wall clock that never was: no producer could write in it. Event timestamps know nothing of it,
so it lengthens waits exactly as an outage does. When the clock is set back, the leap that this undoes is taken back,
and outages that were learnt under the wrong clock are moved; those of before it never were wrong.

A clock that was set back beyond all leaps is *behind*. Set forward again by as much, it shows what it showed before, so
that is no leap: the span is one in which producers wrote, and waits ran. But readers that begin under such a clock take
it for right, and give it to records that seem to come from the future: for them, setting it forward is a leap.
"""

from collections.abc import Iterable
from typing import NamedTuple

from txninsightd.core.lifecycle import Outage

MOST_PAUSES = 1000

TRUSTED_AFTER_S = 86_400.0
"""A clock that has been behind for so long is taken for right: if it is set forward, that is a leap."""


class Behind(NamedTuple):
    """Our clock shows so many seconds less than it did, since it was set back at `since` (by what it shows)."""

    seconds: float
    since: float


NOT_BEHIND = Behind(0.0, 0.0)


def merged(pauses: Iterable[Outage]) -> list[Outage]:
    """Ascending and disjoint, as `due_after` expects them; the latest ones, if they are very many."""
    found: list[Outage] = []
    for pause in sorted(pauses):
        if found and pause.began <= found[-1].ended:
            found[-1] = Outage(found[-1].began, max(found[-1].ended, pause.ended))
        else:
            found.append(pause)
    return found[-MOST_PAUSES:]


class Pauses:
    """`all`: outages and leaps together, ascending and disjoint. `behind`: how far a step back is not undone yet."""

    def __init__(
        self, outages: Iterable[Outage] = (), leaps: Iterable[Outage] = (), behind: Behind = NOT_BEHIND
    ) -> None:
        self.outages = merged(outages)
        self.leaps = list(leaps)
        self.behind = behind
        self._join()

    def outage(self, began: float, ended: float) -> bool:
        """The broker did not answer for a while. Returns whether that is news."""
        before, self.outages = self.outages, merged([*self.outages, Outage(began, ended)])
        self._join()
        return self.outages != before

    def reading_begins(self) -> None:
        """Readers begin to read, and take the clock as it is now for right."""
        self.behind = NOT_BEHIND

    def clock_stepped(self, by_s: float, now: float) -> None:
        """Our clock was stepped by so many seconds, to `now`."""
        if by_s > 0:
            leap_s = by_s - self._return(by_s, now - by_s)
            if leap_s > 0:
                self.leaps = [*self.leaps, Outage(now - leap_s, now)][-MOST_PAUSES:]
        else:
            self._take_back(-by_s, now)
        self._join()

    def _return(self, by_s: float, from_: float) -> float:
        """Go back, as far as it goes, to where the clock was before it was set back; returns by how many seconds."""
        if from_ - self.behind.since > TRUSTED_AFTER_S:
            self.behind = NOT_BEHIND
        returned_s = min(by_s, self.behind.seconds)
        self.behind = Behind(self.behind.seconds - returned_s, self.behind.since + returned_s)
        self._move_outages(float("-inf"), returned_s)
        return returned_s

    def _take_back(self, left_s: float, now: float) -> None:
        while self.leaps and left_s > 0:
            leap = self.leaps.pop()
            undone_s = min(left_s, leap.ended - leap.began)
            self._move_outages(leap.ended, -undone_s)
            if leap.began < leap.ended - undone_s:
                self.leaps.append(Outage(leap.began, leap.ended - undone_s))
            left_s -= undone_s
        if left_s > 0:
            self._move_outages(float("-inf"), -left_s)
            self.behind = Behind(self.behind.seconds + left_s, now)
        self.outages = merged(Outage(o.began, min(o.ended, now)) for o in self.outages if o.began < now)

    def _move_outages(self, learnt_from: float, by_s: float) -> None:
        moved = (Outage(o.began + by_s, o.ended + by_s) if o.began >= learnt_from else o for o in self.outages)
        self.outages = merged(moved)

    def _join(self) -> None:
        self.all = merged([*self.outages, *self.leaps]) if self.leaps else self.outages
