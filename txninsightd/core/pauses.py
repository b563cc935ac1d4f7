"""Spans in which a wait does not run: the broker gave no answer (an *outage*), or our clock leapt over them (a *leap*).

A leap is a span of the wall clock that never was: no producer could write in it. Event timestamps know nothing of it,
so it lengthens waits exactly as an outage does. When the clock is set back, the leap that this undoes is taken back,
and outages that were learnt under the wrong clock are moved; those of before it never were wrong. An outage that is
reported after a leap has its moments by the clock of now, and what of it lay before the leap is put there.

A leap lengthens no wait that was over before. Of each cause that a transaction was stuck for it is kept which wait that
was: it makes it stuck again as soon as our clock shows what it did. One that began later, or has a higher threshold by
now, is another one. So what is stuck is not hidden by a clock that is set back and forward.
"""

from collections.abc import Iterable, Iterator

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
    """`all`: outages and leaps together; `outages`: without leaps. Both are ascending and disjoint."""

    def __init__(self, outages: Iterable[Outage] = (), leaps: Iterable[Outage] = ()) -> None:
        self.outages = merged(outages)
        self.leaps = list(leaps)
        self._join()

    def outage(self, began: float, ended: float) -> bool:
        """The broker did not answer for a while. Returns whether that is news."""
        before, self.outages = self.outages, merged([*self.outages, *self._by_the_clock_of_then(began, ended)])
        self._join()
        return self.outages != before

    def clock_stepped(self, by_s: float, now: float) -> None:
        """Our clock was stepped by so many seconds, to `now`."""
        if by_s > 0:
            self.leaps = [*self.leaps, Outage(now - by_s, now)][-MOST_PAUSES:]
        else:
            self._take_back(-by_s, now)
        self._join()

    def no_later_than(self, now: float) -> None:
        """Our clock was ahead, nobody knows how far: nothing can have been after now."""
        self.outages, self.leaps = (
            [Outage(pause.began, min(pause.ended, now)) for pause in pauses if pause.began < now]
            for pauses in (self.outages, self.leaps)
        )
        self._join()

    def _by_the_clock_of_then(self, began: float, ended: float) -> Iterator[Outage]:
        for leap in reversed(self.leaps):
            if began >= leap.ended:
                break
            if ended > leap.ended:
                yield Outage(leap.ended, ended)
                ended = leap.ended
            leapt_s = leap.ended - leap.began
            began, ended = began - leapt_s, ended - leapt_s
        yield Outage(began, ended)

    def _take_back(self, left_s: float, now: float) -> None:
        while self.leaps and left_s > 0:
            leap = self.leaps.pop()
            undone_s = min(left_s, leap.ended - leap.began)
            self._move_outages(leap.ended, undone_s)
            if leap.began < leap.ended - undone_s:
                self.leaps.append(Outage(leap.began, leap.ended - undone_s))
            left_s -= undone_s
        if left_s > 0:
            self._move_outages(float("-inf"), left_s)
        self.outages = merged(Outage(o.began, min(o.ended, now)) for o in self.outages if o.began < now)

    def _move_outages(self, learnt_from: float, back_s: float) -> None:
        moved = (Outage(o.began - back_s, o.ended - back_s) if o.began >= learnt_from else o for o in self.outages)
        self.outages = merged(moved)

    def _join(self) -> None:
        self.all = merged([*self.outages, *self.leaps]) if self.leaps else self.outages
