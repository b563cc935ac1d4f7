"""The part of an event loop on which the aggregator works; here nothing may fail and be passed over.

An event loop logs what escapes from a callback, and goes on. The aggregator must not: the messages that it had taken in
would be lost without a gap, and the state might be half changed, and be written to disk so. It ends instead. What was
lost is read again from the checkpoint, and whatever fails each time ends the daemon as any other crash loop does.
"""

import asyncio
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog

EXIT_FAILED = 1

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


class StrictLoop:
    """A loop whose callbacks end the process when they raise."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add_reader(self, fd: int, callback: Callable[..., object], *args: object) -> None:
        """Call back whenever the descriptor has something to read."""
        self._loop.add_reader(fd, or_end, callback, *args)

    def remove_reader(self, fd: int) -> bool:
        """Call back no more."""
        return self._loop.remove_reader(fd)

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Call back when the loop comes round."""
        self._loop.call_soon(or_end, callback, *args)


def or_end(action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do this, or end the process: for what changes the state outside of a callback of the loop."""
    try:
        return action(*args, **kwargs)
    except Exception:
        log.exception("aggregator_failed", effect="it begins again from the last checkpoint")
        # Not sys.exit: nothing of what runs on the way out may meet a state that is half changed.
        os._exit(EXIT_FAILED)
