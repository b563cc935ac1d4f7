"""Has an admin client fetch its metadata anew, which it seldom does by itself.

It goes on asking whom it once knew: a leader epoch that has risen (the broker was restarted) makes every answer about
offsets a FENCED_LEADER_EPOCH, and a controller that died is still asked for topics' ids, in vain. So whoever got no
answer calls for a refresh. It asks any broker that can be reached, beside the work loop, since it waits for the answer.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from confluent_kafka.admin import AdminClient

ANSWER_WITHIN_S = 3.0
AT_MOST_EVERY_S = 1.0


class Refresh:
    """One at a time."""

    def __init__(self, admin: AdminClient, now: Callable[[], float]) -> None:
        self._admin = admin
        self._now = now
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="metadata")
        self._under_way: Future[Any] | None = None
        self._begun_at = 0.0

    def begin(self) -> None:
        """Somebody got no answer."""
        now = self._now()
        if 0 <= now - self._begun_at < AT_MOST_EVERY_S or (self._under_way is not None and not self._under_way.done()):
            return
        self._begun_at = now
        self._under_way = self._beside.submit(self._admin.list_topics, timeout=ANSWER_WITHIN_S)
