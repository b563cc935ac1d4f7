"""An asyncio event loop in virtual time.

Where a real loop would wait for its next timer, this one sets its clock to that timer, and it does no I/O. So an hour
of sleeping coroutines takes only as long as their own code. Only the heap of timers decides the order of wake-ups, so
it is the same in every process. If all coroutines wait and no timer is left, the simulation has a bug: the loop raises
`Deadlock` instead of hanging.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

RESOLUTION_S = 1e-6
"""Timers closer together than this fire together. A float of the largest time must still resolve it."""


class Deadlock(RuntimeError):
    """All coroutines wait for one another."""


class _VirtualSelector:
    """A selector that advances the virtual clock by the time-out instead of waiting."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("all coroutines wait and no timer is set")
        if timeout > 0:
            self._loop.advance(timeout)
        return []

    def close(self) -> None:
        """Nothing to close."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time: seconds since the loop's creation. It serves timers and futures, no I/O."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_now = 0.0
        self._clock_resolution = RESOLUTION_S
        self._selector = _VirtualSelector(self)

    def time(self) -> float:
        """The virtual time."""
        return self._virtual_now

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self._virtual_now += seconds

    def _process_events(self, event_list: object) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """The loop never sleeps, so Ctrl-C need not wake it."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, as `asyncio.run` does in real time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
