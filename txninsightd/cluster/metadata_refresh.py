"""Makes an admin client fetch its metadata again, which it seldom does by itself.

An admin client keeps asking the broker that it once knew. A leader epoch that has risen (the broker was restarted)
turns every answer about offsets into a FENCED_LEADER_EPOCH, and a dead controller is still asked for topic ids. So each
question that fails requests a refresh. The refresh asks any reachable broker, on its own thread, since it waits.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from confluent_kafka.admin import AdminClient

ANSWER_WITHIN_S = 3.0
AT_MOST_EVERY_S = 1.0


class MetadataRefresh:
    """At most one refresh at a time."""

    def __init__(self, admin: AdminClient, now: Callable[[], float]) -> None:
        self._admin = admin
        self._now = now
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="metadata")
        self._pending: Future[Any] | None = None
        self._requested_at = 0.0

    def request(self) -> None:
        """A question has failed: refresh, unless that was requested a moment ago or is under way."""
        now = self._now()
        if 0 <= now - self._requested_at < AT_MOST_EVERY_S or (self._pending is not None and not self._pending.done()):
            return
        self._requested_at = now
        self._pending = self._executor.submit(self._admin.list_topics, timeout=ANSWER_WITHIN_S)
