"""Many clients of `/metrics` together cost little more than a few: renderings keep a distance where there is a crowd.

A few clients are served at once, however often they ask. With more connections open than that, the next rendering waits
until renderings and answers have taken no more than a small share of the time; all who ask meanwhile get its result.
Nobody waits for longer than a scrape may take, so a page that takes a second to render costs more than the share.
"""

import asyncio
from collections.abc import Callable

FEW = 8
"""Open connections that are no crowd: two Prometheus servers, probes, dashboards, somebody who looks."""

SHARE = 0.01
"""Of one core."""

MOST_WAIT_S = 5.0
"""Half of what Prometheus waits for an answer by default."""

ANSWER_S = 0.0002
"""What one more answer costs, beside the rendering."""


class Pacing:
    """`clients`: how many connections are open now."""

    def __init__(self, clients: Callable[[], int]) -> None:
        self._clients = clients
        self._next_at = float("-inf")

    async def wait(self, asked_at: float) -> None:
        """Return when a rendering may begin that was asked for at this moment of the loop's time."""
        if self._clients() > FEW:
            begin_at = min(self._next_at, asked_at + MOST_WAIT_S)
            await asyncio.sleep(max(0.0, begin_at - asyncio.get_running_loop().time()))

    def note(self, busy_s: float, answers: int) -> None:
        """A rendering has ended that kept the loop busy for so long, and is sent to so many clients."""
        self._next_at = asyncio.get_running_loop().time() + (busy_s + answers * ANSWER_S) * (1 / SHARE - 1)
