"""Asks, about once a second, where the partitions end, and never waits for the answer.

The question waits on its own thread (end_offset_client.py), one at a time. Partitions in which something was read are
asked about every second. So are all others while they are 200 or fewer; the more there are, the longer is the time
between two questions about all of them, up to five seconds.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextvars import copy_context
from queue import SimpleQueue
from typing import Protocol

import structlog

from txninsightd.ingest.end_offset_client import EndOffset
from txninsightd.vocabulary import PartitionRef

ASK_EVERY_S = 1.0
ASK_ALL_EVERY_S_AT_MOST = 5.0
ASKED_A_SECOND = 200
"""Partitions, on average, if nothing is read in any of them."""

log = structlog.get_logger()


class Client(Protocol):
    """Asks, and waits for the answer."""

    def ask(self, refs: Sequence[PartitionRef]) -> list[EndOffset]:
        """Where each of these partitions ends, or that it was not said."""


class EndOffsets:
    """One question at a time, about all assigned partitions or those that have news."""

    def __init__(self, client: Client, now: Callable[[], float]) -> None:
        self._client = client
        self._now = now
        self._asked_at = 0.0
        self._asked_all_at = 0.0
        self._with_news: set[PartitionRef] = set()
        self._questions: SimpleQueue[Sequence[PartitionRef]] = SimpleQueue()
        self._answers: SimpleQueue[list[EndOffset]] = SimpleQueue()
        self.is_asking = False
        """Whether a question is pending."""
        self._thread: threading.Thread | None = None

    def expect_news(self, refs: Iterable[PartitionRef]) -> None:
        """Something was read in these partitions, or they were assigned: ask about them soon."""
        self._with_news.update(refs)

    def poll(self, refs: Collection[PartitionRef]) -> list[EndOffset]:
        """The answers that have arrived; asks again when it is time. `refs`: all that are read."""
        answers: list[EndOffset] = []
        if self.is_asking and not self._answers.empty():
            answers, self.is_asking = self._answers.get(), False
        if not self.is_asking and refs:
            self._ask(refs, self._now())
        return answers

    def _ask(self, refs: Collection[PartitionRef], now: float) -> None:
        # Negative: `now` went back. The next question must not wait until it has caught up.
        if 0 <= now - self._asked_at < ASK_EVERY_S:
            return
        all_every_s = min(max(ASK_EVERY_S, len(refs) / ASKED_A_SECOND), ASK_ALL_EVERY_S_AT_MOST)
        if 0 <= now - self._asked_all_at < all_every_s:
            wanted = [ref for ref in self._with_news if ref in refs]
        else:
            wanted, self._asked_all_at = list(refs), now
        self._with_news.clear()
        if wanted:
            self._asked_at, self.is_asking = now, True
            self._start()
            self._questions.put(wanted)

    def _start(self) -> None:
        if self._thread is None:
            context = copy_context()  # so that the thread's log lines carry the process's name
            self._thread = threading.Thread(target=context.run, args=(self._run,), name="end_offsets", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            refs = self._questions.get()
            asked_at = self._now()
            try:
                answers = self._client.ask(refs)
            except Exception as failure:  # any failure: the thread must go on, and the views must show as blind
                log.warning("end_offsets_failed", error=repr(failure))
                answers = [EndOffset(ref, asked_at, None) for ref in refs]
            self._answers.put(answers)
