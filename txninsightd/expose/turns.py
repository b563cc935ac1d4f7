"""One at a time, and a bounded number that wait: for requests that cost the event loop milliseconds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MOST = 16
"""Requests in work, one running and the others waiting."""


class Busy(Exception):
    """Too many requests of this kind are in work already."""


class Turns:
    """The turns of one kind of request. Between two the event loop serves others."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._in_work = 0
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until no other one runs. Raises Busy."""
        if self._in_work >= self._most:
            raise Busy
        self._in_work += 1
        try:
            async with self._lock:
                # Requests that come together would else all be answered in one round of the event loop.
                await asyncio.sleep(0)
                yield
        finally:
            self._in_work -= 1
