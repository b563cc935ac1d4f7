"""A reader process reports its own health. Its work loop writes the figures, so a loop that hangs shows.

The figures use prometheus_client's multiprocess mode: the reader writes a memory-mapped file without a system call, and
the aggregator reads it (workers.py). Files are named after the child's slot (`monitor-0`), not after its process id, so
a slot keeps one file over all restarts.

Call nothing here before the fork: each reader makes its own `WorkerHealth`, which switches the whole process to
multiprocess mode. The parent creates the directory, empty, for each run.
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
    """The metrics of the reader in this slot. Create it once, in the reader's own process.

    `heartbeat` sends a heartbeat to the parent; it is called in each turn of the loop.
    """

    def __init__(
        self,
        slot: str,
        multiproc_dir: Path,
        heartbeat: Callable[[], None],
        now: Callable[[], float] = clock.now,
    ) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(multiproc_dir)
        # A metric reads ValueClass when it is created, so set it before the first metric.
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
        """Call this in each turn of the work loop. It writes the gauges at most once a second."""
        self._heartbeat()
        if paused != self._was_paused:
            self._was_paused = paused
            # Adds 1 when a pause begins, and 0 when it ends.
            self._pauses.inc(paused)
        now = self._now()
        if now < self._next_at:
            return
        self._next_at = now + EVERY_S
        self._last_loop.set(now)
        self._queue_depth.set(queue_depth)
        self._paused.set(paused)

    def working(self) -> None:
        """Call this during a long operation that makes progress."""
        self._heartbeat()


def _gauge(definition: Definition, registry: CollectorRegistry) -> Gauge:
    # A slot has one file and so one value; this mode exposes it without a process label.
    return Gauge(definition.name, definition.help, definition.labels, registry=registry, multiprocess_mode="mostrecent")
