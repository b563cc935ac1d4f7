"""A reader process tells how it fares: written by its own work loop, so a loop that stands still shows.

The figures go through prometheus_client's multiprocess mode: a file that is mapped into memory, written without a
system call, and read by the aggregator (workers.py). Files are named after the child's slot (`monitor-0`), not its
process id: however often a reader is started again, there is one file of its own.

Nothing here may be called before the fork: each reader makes its own `WorkerHealth`, which turns the whole process to
multiprocess mode. The directory is the parent's to make, empty, for each run.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, values

from txninsightd import clock
from txninsightd.expose.catalogue import CHILD_LAST_LOOP, CONSUMER_PAUSED, CONSUMER_PAUSES, QUEUE_DEPTH, Definition

EVERY_S = 1.0

_value_class: Callable[[Callable[[], str]], Any] = values.MultiProcessValue


class WorkerHealth:
    """The figures of the reader in this slot. To be made in the reader's own process, once.

    `heartbeat`: what tells the parent at each turn of the loop that it lives.
    """

    def __init__(
        self,
        slot: str,
        multiproc_dir: Path,
        heartbeat: Callable[[], None],
        now: Callable[[], float] = clock.now,
    ) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(multiproc_dir)
        # Each metric looks at this when it is made, so it stands before the first.
        values.ValueClass = _value_class(lambda: slot)
        registry = CollectorRegistry()
        self._last_loop = _gauge(CHILD_LAST_LOOP, registry).labels(slot)
        self._queue_depth = _gauge(QUEUE_DEPTH, registry).labels(slot)
        self._paused = _gauge(CONSUMER_PAUSED, registry).labels(slot)
        pauses = Counter(CONSUMER_PAUSES.name, CONSUMER_PAUSES.help, CONSUMER_PAUSES.labels, registry=registry)
        self._pauses = pauses.labels(slot)
        self._was_paused = False
        self._heartbeat = heartbeat
        self._now = now
        self._next_at = float("-inf")

    def beat(self, queue_depth: int, paused: bool) -> None:
        """The work loop came round; to be called each time. Writes the gauges at most once a second."""
        self._heartbeat()
        if paused != self._was_paused:
            self._was_paused = paused
            # True adds 1 and False 0: a pause counts when it begins.
            self._pauses.inc(paused)
        now = self._now()
        if now < self._next_at:
            return
        self._next_at = now + EVERY_S
        self._last_loop.set(now)
        self._queue_depth.set(queue_depth)
        self._paused.set(paused)

    def working(self) -> None:
        """The loop is in the midst of something long, and gets on with it."""
        self._heartbeat()


def _gauge(definition: Definition, registry: CollectorRegistry) -> Gauge:
    # A slot has one file, and so one value; this mode shows it without a label for the process.
    return Gauge(definition.name, definition.help, definition.labels, registry=registry, multiprocess_mode="mostrecent")
