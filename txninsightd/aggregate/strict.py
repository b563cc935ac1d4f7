"""An event loop without swallowed exceptions, for the aggregator.

asyncio logs an exception from a callback and goes on. The aggregator must not: the messages it had received would be
lost without a gap, and a half-changed state might be written to disk. It exits instead. The records are read again from
the checkpoint, and a failure that repeats ends the daemon like any other crash loop.
"""

import asyncio
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog

from txninsightd import host_limits

EXIT_FAILED = 1

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


class StrictLoop:
    """A loop that ends the process when a callback raises."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add_reader(self, fd: int, callback: Callable[..., object], *args: object) -> None:
        """Call back whenever the descriptor is readable."""
        self._loop.add_reader(fd, or_end, callback, *args)

    def remove_reader(self, fd: int) -> bool:
        """Stop calling back."""
        return self._loop.remove_reader(fd)

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Call back in the next turn of the loop."""
        self._loop.call_soon(or_end, callback, *args)


def or_end(action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run the action, or end the process: for state changes outside the loop's callbacks."""
    try:
        return action(*args, **kwargs)
    except Exception as failure:
        effect, code = "it restarts from the last checkpoint", EXIT_FAILED
        if host_limits.log_if_limit(failure, effect=effect):
            code = host_limits.EXIT_HOST_LIMIT
        else:
            log.exception("aggregator_failed", effect=effect)
        # os._exit: no exit handler may see a half-changed state.
        os._exit(code)
