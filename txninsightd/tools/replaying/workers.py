"""One thread per active producer: a commit that waits for the broker does not delay other producers' lines.

A `Worker` takes batches of its producer's lines from a bounded queue and publishes them in order. confluent-kafka
releases the GIL while it waits. The `WorkerPool` starts workers before they are needed, hands them their lines, and
retires them after their last line. Only a few workers may be retiring at once. This bounds threads and processes by the
number of concurrent sessions in the file, also at full speed.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from txninsightd.tools.events_file import Record
from txninsightd.tools.replaying.cluster import Refusal
from txninsightd.tools.replaying.counts import Counts, Totals
from txninsightd.tools.replaying.plan import ProducerSession
from txninsightd.tools.replaying.publisher import ScheduledLine

RETIRING_AT_ONCE = 16


class BatchPublisher(Protocol):
    """A worker's producer: in this process, or in a child that will be killed."""

    def open(self) -> None: ...

    def publish(self, batch: Sequence[ScheduledLine]) -> Counts: ...  # raises Refusal when it cannot publish any more

    def finish(self) -> Counts: ...


class Worker:
    """One producer on its own thread. It waits for a `predecessor` of the same name to crash before it opens."""

    def __init__(
        self,
        publisher: BatchPublisher,
        totals: Totals,
        stopping: threading.Event,
        queued_batches: int,
        predecessor: "Worker | None" = None,
    ) -> None:
        self._publisher = publisher
        self._predecessor = predecessor
        self._totals = totals
        self._stopping = stopping
        self._batches: queue.Queue[Sequence[ScheduledLine] | None] = queue.Queue(queued_batches)
        self._opened = threading.Event()
        self._refusal: Refusal | None = None
        # A daemon thread, so a second Ctrl-C ends the process at once.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, batch: Sequence[ScheduledLine] | None) -> None:
        """Queue a batch, or None as the last one. Waits while the queue is full, unless the replay is being stopped."""
        while True:
            try:
                return self._batches.put(batch, timeout=0.2)
            except queue.Full:
                if self._stopping.is_set():
                    # Drop the oldest batch, so the final None fits into the queue.
                    self._make_room()

    def wait_opened(self) -> None:
        """Wait until the producer is ready; raises its Refusal."""
        while not self._opened.wait(0.2):
            if self._stopping.is_set():
                return
        if self._refusal is not None:
            raise self._refusal

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        # Both have the same transactional.id. Opening earlier would fence the predecessor.
        if self._predecessor is not None:
            self._predecessor.join()
        self._attempt(self._publisher.open)
        # Set it after a refusal as well; `wait_opened` then raises it.
        self._opened.set()
        while (batch := self._batches.get()) is not None:
            if self._stopping.is_set():
                self._count_unpublished(batch)
            elif self._refusal is not None:
                self._count_failed(batch, self._refusal)
            else:
                self._attempt(lambda: self._totals.add(self._publisher.publish(batch)), batch)
        self._attempt(lambda: self._totals.add(self._publisher.finish()))

    def _attempt(self, step: Callable[[], None], batch: Sequence[ScheduledLine] = ()) -> None:
        """Run a step. A failure of any kind must not leave other threads waiting for this producer."""
        try:
            step()
        except Refusal as refusal:
            self._refusal = refusal
            self._count_failed(batch, refusal)
        except Exception as error:
            self._refusal = Refusal(f"unexpected error: {error!r}")
            self._count_failed(batch, self._refusal)
            self._totals.add(Counts(transaction_errors=1, reasons={str(self._refusal): 1}))

    def _make_room(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._count_unpublished(self._batches.get_nowait())

    def _count_unpublished(self, batch: Sequence[ScheduledLine] | None) -> None:
        self._totals.add(Counts(unpublished=len(batch or ())))

    def _count_failed(self, batch: Sequence[ScheduledLine], refusal: Refusal) -> None:
        counts = Counts()
        for each in batch:
            if isinstance(each.line, Record):
                counts.delivery_error(str(refusal))
            else:
                counts.transaction_error(str(refusal))
        self._totals.add(counts)


class WorkerPool:
    """All workers. `create_worker` creates the worker of a session, given its predecessor."""

    def __init__(self, create_worker: Callable[[ProducerSession, Worker | None], Worker]) -> None:
        self._create_worker = create_worker
        self._working: dict[ProducerSession, Worker] = {}
        self._retiring: deque[Worker] = deque()
        self._crashed: dict[str, Worker] = {}

    def start(self, session: ProducerSession) -> Worker:
        """The session's worker, started if needed."""
        worker = self._working.get(session)
        if worker is None:
            worker = self._working[session] = self._create_worker(session, self._crashed.pop(session.producer, None))
        return worker

    def put(self, session: ProducerSession, batch: Sequence[ScheduledLine]) -> None:
        """Queue lines for the session's worker."""
        self.start(session).put(batch)

    def retire(self, session: ProducerSession) -> None:
        """Let the session's worker finish, and wait if too many are retiring."""
        worker = self._working.pop(session, None)
        if worker is None:
            return
        worker.put(None)
        self._retiring.append(worker)
        if session.crashes:
            # Its successor waits for it.
            self._crashed[session.producer] = worker
        while len(self._retiring) > RETIRING_AT_ONCE:
            self._retiring.popleft().join()

    def finish(self) -> None:
        """Let all workers finish concurrently, and wait for them."""
        for worker in self._working.values():
            worker.put(None)
        for worker in (*self._retiring, *self._working.values()):
            worker.join()
        self._working.clear()
        self._retiring.clear()
