"""Cooperative yielding: long work on the event loop gives other tasks a turn every few milliseconds."""

import asyncio
from time import perf_counter

MOST_AT_ONCE_S = 0.005


class LoopYield:
    """Yields to the event loop when the caller has kept it for more than `MOST_AT_ONCE_S`."""

    def __init__(self) -> None:
        self._since = perf_counter()

    async def yield_if_due(self) -> None:
        """Await this between two portions of work."""
        if perf_counter() - self._since > MOST_AT_ONCE_S:
            await asyncio.sleep(0)
            self._since = perf_counter()
