"""Cooperative yielding: long work on the event loop gives other tasks a turn every few milliseconds."""

import asyncio
from time import perf_counter

MOST_AT_ONCE_S = 0.005


class LoopYield:
    """Yields to the event loop when the caller has kept it for more than `MOST_AT_ONCE_S`."""

    def __init__(self) -> None:
        self._since = perf_counter()
        self._busy_s = 0.0

    @property
    def busy_s(self) -> float:
        """For how long the caller has kept the loop in all."""
        return self._busy_s + perf_counter() - self._since

    async def yield_if_due(self) -> None:
        """Await this between two portions of work."""
        at_once_s = perf_counter() - self._since
        if at_once_s > MOST_AT_ONCE_S:
            self._busy_s += at_once_s
            await asyncio.sleep(0)
            self._since = perf_counter()
