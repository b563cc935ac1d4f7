"""A reader process reports its own health. Its work loop writes the figures, so a loop that hangs shows.

The figures use prometheus_client's multiprocess mode: the reader writes a memory-mapped file without a system call, and
the aggregator reads it (workers.py). Files are named after the child's slot (`monitor-0`), not after its process id, so
a slot keeps one file over all restarts.

A file that is removed lives on unseen in the reader's mapping. So once a second the reader compares what the path names
with what it has mapped, and writes its figures into new files where they differ, the directory included. A counter goes
on from its value. While no file can be made (a full disk), the reader works without, and the log says so.

Call nothing here before the fork: each reader makes its own `WorkerHealth`, which switches the whole process to
multiprocess mode.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, values

from txninsightd import clock
from txninsightd.expose.catalogue import CHILD_LAST_LOOP, CONSUMER_PAUSED, CONSUMER_PAUSES, QUEUE_DEPTH, Definition

EVERY_S = 1.0
GAUGE_MODE: Final = "mostrecent"
"""A slot has one file and so one value; this mode exposes it without a process label."""
FILES = (f"gauge_{GAUGE_MODE}", "counter")
"""How prometheus_client names its files; the slot follows."""
FILE_BYTES = 1 << 12
"""Room for the figures of one slot."""

_value_class: Callable[[Callable[[], str]], Any] = values.MultiProcessValue

log = structlog.get_logger()


class WorkerHealth:
    """The metrics of the reader in this slot. Create it once, in the reader's own process.

    `heartbeat` sends a heartbeat to the parent; it is called in each turn of the loop.
    """

    def __init__(
        self,
        slot: str,
        multiproc_dir: Path,
        heartbeat: Callable[[], None],
        now: Callable[[], float] = clock.wall,
    ) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(multiproc_dir)
        self._files = SlotFiles(slot, multiproc_dir)
        self._values: SlotValues | None = None
        self._pauses = 0.0
        self._was_paused = False
        self._heartbeat = heartbeat
        self._now = now
        self._next_at = float("-inf")
        self._open()

    def beat(self, queue_depth: int, paused: bool) -> None:
        """Call this in each turn of the work loop. It writes the gauges at most once a second."""
        self._heartbeat()
        if paused != self._was_paused:
            self._was_paused = paused
            self._count_pauses(int(paused))
        now = self._now()
        # Further ahead than that: the clock was set back.
        if 0 < self._next_at - now <= EVERY_S:
            return
        self._next_at = now + EVERY_S
        if self._values is None or not self._files.are_in_place():
            self._open()
        if self._values is not None:
            self._values.last_loop.set(now)
            self._values.queue_depth.set(queue_depth)
            self._values.paused.set(paused)

    def working(self) -> None:
        """Call this during a long operation that makes progress."""
        self._heartbeat()

    def _count_pauses(self, count: float) -> None:
        self._pauses += count
        if self._values is not None:
            self._values.pauses.inc(count)

    def _open(self) -> None:
        """Map the slot's files, and make them where they are missing."""
        had_files = self._values is not None
        try:
            self._values, kept = self._files.open()
        except OSError as failure:
            # Logged once, until it works again.
            if had_files or self._next_at == float("-inf"):
                effect = "the metrics of this reader are missing; it is tried again every second"
                log.warning("worker_files_not_written", error=str(failure), effect=effect)
            self._values = None
            return
        # The files of the process before have its count; new ones have none.
        self._values.pauses.inc(max(0.0, self._pauses - kept))
        self._pauses = max(self._pauses, kept)


class SlotValues(NamedTuple):
    """The metrics in the files of one slot."""

    last_loop: Any
    queue_depth: Any
    paused: Any
    pauses: Any


class SlotFiles:
    """The files of one slot, in a directory that is made where it is missing."""

    def __init__(self, slot: str, directory: Path) -> None:
        self._slot = slot
        self._directory = directory
        self._paths = [directory / f"{prefix}_{slot}.db" for prefix in FILES]
        self._mapped: list[tuple[int, int]] = []
        self._close: Callable[[], None] = lambda: None

    def are_in_place(self) -> bool:
        """Whether the paths still name the files that are mapped."""
        try:
            return self._identities() == self._mapped
        except OSError:
            return False

    def open(self) -> tuple[SlotValues, float]:
        """Map the files; gives the metrics, and the pauses that they have counted. Raises OSError."""
        self._close()
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for path in self._paths:
            _reserve(path)
        # A metric reads ValueClass when it is created, so set it before the first metric.
        values.ValueClass = value_class = _value_class(lambda: self._slot)
        self._close = value_class.close_all_files
        registry = CollectorRegistry()
        pauses = Counter(CONSUMER_PAUSES.name, CONSUMER_PAUSES.help, CONSUMER_PAUSES.labels, registry=registry)
        opened = SlotValues(
            last_loop=_gauge(CHILD_LAST_LOOP, registry).labels(self._slot),
            queue_depth=_gauge(QUEUE_DEPTH, registry).labels(self._slot),
            paused=_gauge(CONSUMER_PAUSED, registry).labels(self._slot),
            pauses=pauses.labels(self._slot),
        )
        self._mapped = self._identities()
        labels = dict(zip(CONSUMER_PAUSES.labels, [self._slot], strict=True))
        return opened, registry.get_sample_value(CONSUMER_PAUSES.name, labels) or 0.0

    def _identities(self) -> list[tuple[int, int]]:
        found = [path.stat() for path in self._paths]
        return [(file.st_dev, file.st_ino) for file in found]


def _reserve(path: Path) -> None:
    """Make the file, with its blocks. On a full disk this fails; writing to a mapping without blocks would kill."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, FILE_BYTES)
    finally:
        os.close(descriptor)


def _gauge(definition: Definition, registry: CollectorRegistry) -> Gauge:
    return Gauge(definition.name, definition.help, definition.labels, registry=registry, multiprocess_mode=GAUGE_MODE)
