"""Long work on the event loop, in small portions: whoever works for long takes a breath now and then."""

import asyncio
from time import perf_counter

MOST_AT_ONCE_S = 0.005


class LoopYield:
    """Gives the loop a turn whenever it has been kept for more than `MOST_AT_ONCE_S`."""

    def __init__(self) -> None:
        self._since = perf_counter()

    async def take(self) -> None:
        """To be awaited between two portions of work."""
        if perf_counter() - self._since > MOST_AT_ONCE_S:
            await asyncio.sleep(0)
            self._since = perf_counter()
