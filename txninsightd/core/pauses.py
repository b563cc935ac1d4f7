"""Spans in which a wait does not run: the broker gave no answer (an *outage*), or our clock leapt over them (a *leap*).

A leap is a span of the wall clock that never was: no producer could write in it. Event timestamps know nothing of it,
so it lengthens waits exactly as an outage does. When the clock is set back, the leap that this undoes is taken back,
and outages that were learnt under the wrong clock are moved; those of before it never were wrong.

But where events were read that are newer than our clock was just before it leapt, that clock was behind, and the span
up to the newest of them was real: producers wrote, and waits ran. So a clock that is set back and forward again makes
no leap. Readers notice a step a little before it is known here, so events of the last moments before that tell nothing.
"""

from collections.abc import Iterable

from txninsightd.core.lifecycle import Outage

MOST_PAUSES = 1000


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
    """`all`: outages and leaps together, ascending and disjoint.

    `newest_event`: the moment of the newest one read; `known_event`: the same when our clock was last looked at. All
    moments are in epoch seconds.
    """

    def __init__(
        self, outages: Iterable[Outage] = (), leaps: Iterable[Outage] = (), known_event: float = float("-inf")
    ) -> None:
        self.outages = merged(outages)
        self.leaps = list(leaps)
        self.newest_event = self.known_event = known_event
        self._join()

    def outage(self, began: float, ended: float) -> bool:
        """The broker did not answer for a while. Returns whether that is news."""
        before, self.outages = self.outages, merged([*self.outages, Outage(began, ended)])
        self._join()
        return self.outages != before

    def start_reading(self, now: float) -> None:
        """Readers begin that take the clock as it is for right, and give it to events that seem to be newer."""
        self.newest_event = self.known_event = min(self.known_event, now)

    def clock_kept(self) -> None:
        """Our clock was looked at, and found not to be stepped since it was last looked at."""
        self.known_event = self.newest_event

    def clock_stepped(self, by_s: float, now: float) -> None:
        """Our clock was stepped by so many seconds, to `now`."""
        if by_s > 0:
            was_behind_s = min(by_s, max(0.0, self.known_event - (now - by_s)))
            self._move_outages(float("-inf"), was_behind_s)
            if was_behind_s < by_s:
                self.leaps = [*self.leaps, Outage(now - by_s + was_behind_s, now)][-MOST_PAUSES:]
        else:
            self._take_back(-by_s, now)
        self.newest_event = self.known_event = min(self.known_event, now)
        self._join()

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
        self.outages = merged(Outage(o.began, min(o.ended, now)) for o in self.outages if o.began < now)

    def _move_outages(self, learnt_from: float, by_s: float) -> None:
        moved = (Outage(o.began + by_s, o.ended + by_s) if o.began >= learnt_from else o for o in self.outages)
        self.outages = merged(moved)

    def _join(self) -> None:
        self.all = merged([*self.outages, *self.leaps]) if self.leaps else self.outages
