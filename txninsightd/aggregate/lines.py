"""The lines to the children, and in which order what comes on them is worked off.

All work is done in slices of some milliseconds, one for each turn of the event loop, so that HTTP, the heartbeat and
the parent's messages are served in between, however much there is to do. A slice takes one step of each line that has
sent something, in turn: a message, or a portion of one that decides much. Then it settles what is final, and if that
needs longer, the next slices do nothing else. What is not read yet stays in the pipe: a line is read again once all
that it had sent is applied, so back-pressure reaches the reader.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Protocol

from txninsightd.aggregate import checkpoint
from txninsightd.vocabulary import Line

LINES_S = 0.003
SETTLING_S = 0.009
"""So long a slice takes in and settles; the last step of each may be longer."""

SETTLING_SHARE = 2
"""Where taking in lasted longer than LINES_S, for so many times the difference nothing but settling follows. What is
taken in needs less time to be settled than it has itself needed, so nothing piles up."""


class Loop(checkpoint.Loop, Protocol):
    """The part of an asyncio event loop that is needed here."""

    def call_soon(self, callback: Callable[..., object], *args: object) -> object:
        """Call back in the next turn of the loop."""


class Lines:
    """`apply(frame)` and `settle()` give steps of work; anything else may happen between two of them.

    `attached(child, line)` is called when a child's line is taken up, after all that its predecessor left was applied.
    """

    def __init__(
        self,
        loop: Loop,
        apply: Callable[[bytes], Iterator[None]],
        settle: Callable[[], Iterator[None]],
        attached: Callable[[str, Line], None],
        beat: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._apply = apply
        self._settle = settle
        self._attached = attached
        self._beat = beat
        self._open: dict[str, Line] = {}
        self._successors: dict[str, Line] = {}
        self._work: deque[Iterator[None]] = deque()
        self._settling: Iterator[None] | None = None
        self._owed_s = 0.0
        self._is_scheduled = False

    @property
    def open(self) -> Mapping[str, Line]:
        """The line to each child, as long as it may send something."""
        return self._open

    def attach(self, child: str, line: Line) -> None:
        """A child has started: take in what its predecessor left in its line, then take up this one."""
        before = self._open.get(child)
        if before is None:
            self._take_up(child, line)
            return
        is_ending = child in self._successors
        if is_ending:
            # It died before its line was taken up, and was told nothing.
            self._successors[child].close()
        self._successors[child] = line
        if not is_ending and self._loop.remove_reader(before.fileno()):
            self._begin(child, before)

    def flush(self) -> None:
        """Write what did not fit into the pipes. One that turns out broken is detached once its end is read."""
        for line in self._open.values():
            line.flush()

    def schedule(self) -> None:
        """Do what there is to do from the next turn of the loop on."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._slice)

    def _take_up(self, child: str, line: Line) -> None:
        self._open[child] = line
        self._loop.add_reader(line.fileno(), self._readable, child, line)
        self._attached(child, line)

    def _readable(self, child: str, line: Line) -> None:
        self._loop.remove_reader(line.fileno())
        self._begin(child, line)

    def _begin(self, child: str, line: Line) -> None:
        self._work.append(self._take_in(child, line))
        self.schedule()

    def _take_in(self, child: str, line: Line) -> Iterator[None]:
        """Apply what has arrived on a line: about a megabyte at most, but all of it if the child has a successor."""
        while True:
            frames = line.receive()
            for frame in frames:
                yield from self._apply(frame)
            # No event signals room in the pipe: frames that it did not take are tried again here, and at each tick.
            line.flush()
            is_last = child in self._successors
            if line.closed or (is_last and not frames):
                self._detach(child, line)
                return
            if not is_last:
                self._loop.add_reader(line.fileno(), self._readable, child, line)
                return

    def _detach(self, child: str, line: Line) -> None:
        del self._open[child]
        line.close()
        successor = self._successors.pop(child, None)
        if successor is not None:
            self._take_up(child, successor)

    # --- Slices -------------------------------------------------------------------------------------------------------

    def _slice(self) -> None:
        self._is_scheduled = False
        self._beat()
        if self._owed_s <= 0:
            self._owed_s = SETTLING_SHARE * (self._take_in_some() - LINES_S)
        if self._settling is None:
            self._settling = self._settle()
        self._owed_s -= self._settle_some()
        if self._settling is None:
            self._owed_s = 0.0
        if self._work or self._settling is not None:
            self.schedule()

    def _take_in_some(self) -> float:
        """Returns for how long."""
        work, began_at = self._work, perf_counter()
        while work and perf_counter() < began_at + LINES_S:
            if next(work[0], self) is self:  # at its end: a step gives None
                work.popleft()
            else:
                work.rotate(-1)
        return perf_counter() - began_at

    def _settle_some(self) -> float:
        """Returns for how long."""
        began_at = perf_counter()
        while self._settling is not None and perf_counter() < began_at + SETTLING_S:
            if next(self._settling, self) is self:
                self._settling = None
        return perf_counter() - began_at
