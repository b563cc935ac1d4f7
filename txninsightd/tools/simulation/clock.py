"""An asyncio event loop whose clock leaps.

Nothing here touches the outside: where a real loop would wait for its next timer, this one sets its clock to it. An
hour of sleeping coroutines takes as long as their own code. The same coroutines give the same order of wake-ups in
every process, because nothing but the heap of timers decides it. If every coroutine waits for another and no timer is
left, that is a bug of the simulation, and `Stalled` says so instead of hanging.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

RESOLUTION_S = 1e-6
"""Timers closer together than this ring at once. It must be seen beside the largest time, or the clock stands still."""


class Stalled(RuntimeError):
    """Every coroutine waits for another one, for ever."""


class _Leap:
    """Stands in for the selector: being asked to wait is being told how far to leap."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stalled("all actors wait and no timer is set")
        if timeout > 0:
            self._loop.leap(timeout)
        return []

    def close(self) -> None:
        """Nothing is open."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time: seconds since the loop was made. It serves timers and futures, no I/O."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_now = 0.0
        self._clock_resolution = RESOLUTION_S
        self._selector = _Leap(self)

    def time(self) -> float:
        """The virtual now."""
        return self._virtual_now

    def leap(self, seconds: float) -> None:
        """Move the clock on."""
        self._virtual_now += seconds

    def _process_events(self, event_list: object) -> None:
        """No I/O, no events."""

    def _write_to_self(self) -> None:
        """Nobody sleeps, so nobody needs to be woken (Ctrl-C comes here)."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time, as `asyncio.run` would in real time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
