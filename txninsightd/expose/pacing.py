"""Many clients of `/metrics` together cost little more than a few: in a crowd there is a pause between renderings.

A few clients are served at once, however often they ask. With more of them (open connections on which `/metrics` was
asked for), the next rendering begins when renderings and answers have taken no more than a small share of the time
since the last one. All who ask meanwhile get its result. But it begins in time for the least patient of them, so a page
that takes long to render costs more than the share.
"""

import asyncio
from collections.abc import Callable

FEW = 8
"""Clients that are no crowd: two Prometheus servers, agents, somebody who looks."""

SHARE = 0.01
"""Of one core."""

ANSWER_S = 0.0002
BYTE_S = 1e-9
"""What one more answer, and a byte of it, cost beside the rendering: rough measurements."""

USUAL_PATIENCE_S = 10.0
"""How long Prometheus waits for an answer by default."""

LEAST_PATIENCE_S = 1.0
"""Nobody gets an answer sooner by asking for it."""

PATIENCE_SHARE = 0.8
ANSWERS_LEFT = 2
"""Of the patience so much may pass, less so many times what it took until all had their answers."""

MOST_TOOK_S = PATIENCE_SHARE * USUAL_PATIENCE_S / ANSWERS_LEFT
"""Then there is no pause. One stall of the process must not end the pauses for long."""

KEPT_SHARE = 0.9
"""Of what the slowest took, at each rendering: those of other formats, and those that fail, are faster."""

LOOK_AGAIN_S = 0.1


class Pacing:
    """`clients`: how many there are now. `next_at`: when the next rendering begins in a crowd.

    Moments are in the loop's time.
    """

    def __init__(self, clients: Callable[[], int]) -> None:
        self._clients = clients
        self.next_at = float("-inf")
        self._took_s = 0.0

    def begin_by(self, patience_s: float) -> float:
        """When a rendering must begin for a client that asks now and waits for so long."""
        patience_s = min(max(patience_s, LEAST_PATIENCE_S), USUAL_PATIENCE_S)
        left_s = PATIENCE_SHARE * patience_s - ANSWERS_LEFT * self._took_s
        return asyncio.get_running_loop().time() + max(0.0, left_s)

    async def wait(self, begin_by: Callable[[], float]) -> None:
        """Return when a rendering may begin. `begin_by` is asked again and again, since others may join the wait."""
        now = asyncio.get_running_loop().time
        while self._clients() > FEW:
            left_s = min(self.next_at, begin_by()) - now()
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, LOOK_AGAIN_S))

    def note(self, busy_s: float, took_s: float, answers: int, size: int) -> None:
        """A rendering has ended that kept the loop busy for so long; so many clients get so many bytes each.

        `took_s`: since it could have begun; other formats and other work may have come first.
        """
        answers_s = answers * (ANSWER_S + size * BYTE_S)
        self._took_s = min(max(took_s + answers_s, KEPT_SHARE * self._took_s), MOST_TOOK_S)
        cost_s = busy_s + answers_s
        now = asyncio.get_running_loop().time()
        # Renderings of other formats may have come between. Nobody waits for longer than this.
        next_at = max(self.next_at, now) + cost_s * (1 / SHARE - 1)
        self.next_at = min(next_at, now + USUAL_PATIENCE_S)
