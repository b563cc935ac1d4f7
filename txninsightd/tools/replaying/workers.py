"""A thread for each living producer, so that a commit that waits for the broker delays nobody else's lines.

A `Worker` takes batches of its producer's lines from a bounded queue and publishes them in order; confluent-kafka lets
go of the GIL while it waits. The `Crew` starts workers before they are needed, hands them their lines, and lets
them go after their last one. Of workers that are on their way out only a few may exist at once: this bounds threads and
processes by what is alive at the same time in the file, also when it is published as fast as possible.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from txninsightd.tools.events_file import Record
from txninsightd.tools.replaying.cluster import Refusal
from txninsightd.tools.replaying.plan import Life
from txninsightd.tools.replaying.publisher import Due
from txninsightd.tools.replaying.tally import Board, Tally

LEAVING_AT_ONCE = 16


class Publishes(Protocol):
    """What a worker drives: a producer in this process, or one in a child that will be killed."""

    def open(self) -> None: ...

    def publish(self, batch: Sequence[Due]) -> Tally: ...  # Refusal: it can publish nothing any more

    def finish(self) -> Tally: ...


class Worker:
    """One producer at work on its own thread. A `predecessor` of the same name must have crashed before it begins."""

    def __init__(
        self,
        publisher: Publishes,
        board: Board,
        stopping: threading.Event,
        queued_batches: int,
        predecessor: "Worker | None" = None,
    ) -> None:
        self._publisher = publisher
        self._predecessor = predecessor
        self._board = board
        self._stopping = stopping
        self._batches: queue.Queue[Sequence[Due] | None] = queue.Queue(queued_batches)
        self._opened = threading.Event()
        self._refusal: Refusal | None = None
        # A daemon, so that a second Ctrl-C ends the process whatever this thread waits for.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, batch: Sequence[Due] | None) -> None:
        """Hand over a batch, or None as the last one. Waits while the queue is full, unless the replay is stopped."""
        while True:
            try:
                return self._batches.put(batch, timeout=0.2)
            except queue.Full:
                if self._stopping.is_set():
                    # The oldest is let go, so that the None at the end still finds its place.
                    self._make_room()

    def wait_opened(self) -> None:
        """Wait until the producer is ready; raises the Refusal when it cannot be."""
        while not self._opened.wait(0.2):
            if self._stopping.is_set():
                return
        if self._refusal is not None:
            raise self._refusal

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        # It has the same transactional.id: taken up earlier, the one that still works would be fenced.
        if self._predecessor is not None:
            self._predecessor.join()
        self._attempt(self._publisher.open)
        # Also after a refusal, which `wait_opened` then raises.
        self._opened.set()
        while (batch := self._batches.get()) is not None:
            if self._stopping.is_set():
                self._left_out(batch)
            elif self._refusal is not None:
                self._refused(batch, self._refusal)
            else:
                self._attempt(lambda: self._board.add(self._publisher.publish(batch)), batch)
        self._attempt(lambda: self._board.add(self._publisher.finish()))

    def _attempt(self, step: Callable[[], None], batch: Sequence[Due] = ()) -> None:
        """A producer that fails, even in an unforeseen way, must not leave the others waiting for it."""
        try:
            step()
        except Refusal as refusal:
            self._refusal = refusal
            self._refused(batch, refusal)
        except Exception as error:
            self._refusal = Refusal(f"unforeseen: {error!r}")
            self._refused(batch, self._refusal)
            self._board.add(Tally(transaction_errors=1, reasons={str(self._refusal): 1}))

    def _make_room(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._left_out(self._batches.get_nowait())

    def _left_out(self, batch: Sequence[Due] | None) -> None:
        self._board.add(Tally(unpublished=len(batch or ())))

    def _refused(self, batch: Sequence[Due], refusal: Refusal) -> None:
        tally = Tally()
        for each in batch:
            if isinstance(each.line, Record):
                tally.delivery_error(str(refusal))
            else:
                tally.transaction_error(str(refusal))
        self._board.add(tally)


class Crew:
    """All workers. `hire` makes the worker of a life, and is told its predecessor."""

    def __init__(self, hire: Callable[[Life, Worker | None], Worker]) -> None:
        self._hire = hire
        self._working: dict[Life, Worker] = {}
        self._leaving: deque[Worker] = deque()
        self._crashed: dict[str, Worker] = {}

    def start(self, life: Life) -> Worker:
        """The life's worker, started now unless it was before."""
        worker = self._working.get(life)
        if worker is None:
            worker = self._working[life] = self._hire(life, self._crashed.pop(life.producer, None))
        return worker

    def put(self, life: Life, batch: Sequence[Due]) -> None:
        """Hand lines to the life's worker."""
        self.start(life).put(batch)

    def leave(self, life: Life) -> None:
        """The life has no more lines: let its worker finish, and wait when too many are about to."""
        worker = self._working.pop(life, None)
        if worker is None:
            return
        worker.put(None)
        self._leaving.append(worker)
        if life.crashes:
            # For its successor to wait for.
            self._crashed[life.producer] = worker
        while len(self._leaving) > LEAVING_AT_ONCE:
            self._leaving.popleft().join()

    def finish(self) -> None:
        """Let everyone finish, at the same time, and wait for all."""
        for worker in self._working.values():
            worker.put(None)
        for worker in (*self._leaving, *self._working.values()):
            worker.join()
        self._working.clear()
        self._leaving.clear()
