"""Writes the state to disk while the event loop goes on.

A checkpoint is the ledger's state between two messages. The aggregator forks. In the child the state does not change;
the child encodes it, writes it (store.py), reports through a pipe and exits. So only the fork blocks the loop: some
milliseconds per gigabyte (docs/decisions/checkpoint.md). The child holds no descriptor of the aggregator except its
own, and is killed when the aggregator dies.

One writer runs at a time, started `every_s` after the one before. A caller that needs durability (`request`) gets a
callback once a checkpoint that started after its request is on disk, or could not be written.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

import structlog

from txninsightd import host_limits
from txninsightd.aggregate.state_directory import DirectoryLost
from txninsightd.aggregate.store import CheckpointStore
from txninsightd.parent_death import kill_on_parent_exit
from txninsightd.vocabulary import CheckpointHealth

LONGEST_WRITE_S = 300.0
REPORT_BYTES = 4096
STANDARD_ERROR = 2
RETRY_S = 1.0

NICER_BY = 10
"""Where CPUs are scarce, a writer that has time gets a tenth of what the daemon's work gets."""

Dump = Callable[[], Iterator[bytes]]
"""The state of this moment, in chunks."""

Then = Callable[[OSError | None], None]
"""Called when a checkpoint is durable (None), or with the error."""

log = structlog.get_logger()


class Loop(Protocol):
    """The part of an asyncio event loop that is needed here."""

    def add_reader(self, fd: int, callback: Callable[..., object], *args: object) -> None:
        """Call back whenever the descriptor is readable."""

    def remove_reader(self, fd: int) -> bool:
        """Stop calling back."""


class Writer(NamedTuple):
    """A writer child. `waiting`: callbacks for its end; `answer`: its report so far."""

    pid: int
    report: int
    begun_at: float
    waiting: list[Then]
    answer: bytearray


class Checkpoints:
    """Writes what `dump` gives every `every_s` seconds, and on request.

    `fallbacks`: how many checkpoints were skipped at the start. `on_begin` is called when a checkpoint starts, and its
    result is called when that checkpoint ends.
    """

    def __init__(
        self,
        store: CheckpointStore,
        dump: Dump,
        loop: Loop,
        now: Callable[[], float],
        every_s: float,
        fallbacks: int = 0,
    ) -> None:
        self.health = CheckpointHealth(0.0, 0, 0.0, 0, fallbacks, every_s)
        self.problem: str | None = None
        self.on_begin: Callable[[], Then | None] = lambda: None
        self._store = store
        self._dump = dump
        self._loop = loop
        self._now = now
        self._every_s = every_s
        self._writer: Writer | None = None
        self._waiting: list[Then] = []
        self._next_at = now() + every_s

    @property
    def writer_pid(self) -> int | None:
        """The process that writes one at present."""
        return self._writer.pid if self._writer is not None else None

    def write_every(self, every_s: float) -> None:
        """Change the interval."""
        self._every_s = every_s
        self.health = self.health._replace(every_s=every_s)
        # A longer interval does not delay the checkpoint that is already scheduled.
        self._next_at = min(self._next_at, self._now() + every_s)

    def clock_stepped(self, by_s: float) -> None:
        """The clock that tells `now` was stepped."""
        self._next_at += by_s
        if self._writer is not None:
            self._writer = self._writer._replace(begun_at=self._writer.begun_at + by_s)
        if self.health.written_at:
            self.health = self.health._replace(written_at=self.health.written_at + by_s)

    def request(self, then: Then | None = None) -> None:
        """Write a checkpoint as soon as possible, and call `then` with its result."""
        if then is not None:
            self._waiting.append(then)
        self._next_at = min(self._next_at, self._now())
        self.tick()

    def tick(self) -> None:
        """Start a checkpoint if it is due. Call this only between two messages."""
        now = self._now()
        if self._writer is None:
            if now >= self._next_at:
                self._begin(now)
        # It hangs. Killing it closes its pipe, and `_reported` counts the failure.
        elif now - self._writer.begun_at > LONGEST_WRITE_S:
            os.kill(self._writer.pid, signal.SIGKILL)

    def close(self) -> bool:
        """Kill a running writer and write the last checkpoint in this process, for all callers.

        Says whether it is written; logs a failure.
        """
        waiting = self._take_waiting()
        if self._writer is not None:
            # The last checkpoint covers their requests as well. Only `_reap` waits for the pid, so it is still the
            # writer's.
            waiting += self._writer.waiting
            os.kill(self._writer.pid, signal.SIGKILL)
            self._reap(self._writer)
        now = self._now()
        try:
            self._store.claim()
            size_bytes = self._store.write(self._dump())
        except OSError as failure:
            self._failed(failure, waiting)
            return False
        self._succeeded(now, size_bytes, waiting)
        return True

    # --- One checkpoint -----------------------------------------------------------------------------------------------

    def _take_waiting(self) -> list[Then]:
        """The callbacks for the checkpoint that starts now."""
        waiting, self._waiting = self._waiting, []
        # `on_begin` reads the ledger: apply no message between it and the fork (or the dump).
        follower = self.on_begin()
        return waiting if follower is None else [*waiting, follower]

    def _has_time(self) -> bool:
        """Nobody waits for the next checkpoint, and the last one was written well before it was due."""
        return not self._waiting and self.problem is None and self.health.duration_s <= self._every_s / 2

    def _begin(self, now: float) -> None:
        # Set it first: a failing pipe or fork is then not retried at each tick.
        self._next_at = now + self._every_s
        has_time = self._has_time()
        waiting = self._take_waiting()
        try:
            self._store.claim()
        except OSError as failure:
            self._failed(failure, waiting)
            return
        aggregator = os.getpid()
        try:
            pid, report, theirs = _fork_with_pipe()
        except OSError as failure:
            self._failed(failure, waiting)
            return
        if pid == 0:
            _write_and_exit(self._store, self._dump, theirs, aggregator, nicer=has_time)
        # Else the pipe would not end with the writer.
        os.close(theirs)
        self._writer = Writer(pid, report, now, waiting, bytearray())
        self._loop.add_reader(report, self._reported)

    def _reported(self) -> None:
        """Handle the writer's report. The pipe ends when the writer has freed its memory, so reaping does not block."""
        writer = self._writer
        assert writer is not None
        more = os.read(writer.report, REPORT_BYTES)
        if more:
            writer.answer.extend(more)
            return
        try:
            # A killed writer has sent nothing or a part.
            answer = json.loads(writer.answer or b"{}")
        except ValueError:
            answer = {}
        self._reap(writer)
        if "bytes" in answer:
            self._succeeded(writer.begun_at, answer["bytes"], writer.waiting)
        else:
            text = answer.get("error", "the process that wrote it was killed")
            self._failed(OSError(answer.get("errno", 0), text), writer.waiting)
        # These requests came during the write and may not be in it. Write the next checkpoint at once, or a little
        # later after a failure.
        if self._waiting:
            self._next_at = self._now() + (0.0 if "bytes" in answer else RETRY_S)
        self.tick()

    def _reap(self, writer: Writer) -> None:
        # Remove the reader before the close: the descriptor's number may be reused.
        self._loop.remove_reader(writer.report)
        os.close(writer.report)
        os.waitpid(writer.pid, 0)
        self._writer = None

    def _succeeded(self, begun_at: float, size_bytes: int, waiting: list[Then]) -> None:
        now = self._now()
        # Use the age of the state, not of the file.
        self.health = self.health._replace(written_at=begun_at, bytes=size_bytes, duration_s=now - begun_at)
        if self.problem is not None:
            log.info("checkpoint_written_again")
        self.problem = None
        log.debug("checkpoint_written", bytes=size_bytes, duration_s=round(self.health.duration_s, 3))
        for then in waiting:
            then(None)

    def _failed(self, failure: OSError, waiting: list[Then]) -> None:
        self.health = self.health._replace(failures=self.health.failures + 1)
        problem = f"no checkpoint can be written: {failure.strerror or failure}"
        # Count every failure, and log each reason once.
        if problem != self.problem:
            log.error("checkpoint_failed", error=problem, advice=_advice(failure))
        self.problem = problem
        for then in waiting:
            then(failure)


def _advice(failure: OSError) -> str:
    if isinstance(failure, DirectoryLost):
        return failure.advice
    limit = host_limits.limit_behind(failure, at_fork=True)
    return limit.advice if limit else "check state.directory: free space, permissions, the disk"


def _fork_with_pipe() -> tuple[int, int, int]:
    """Fork: gives the pid (0 in the child) and the two ends of a pipe. Raises OSError, and then leaves nothing open."""
    report, theirs = os.pipe()
    try:
        return os.fork(), report, theirs
    except OSError:
        os.close(report)
        os.close(theirs)
        raise


# --- The child --------------------------------------------------------------------------------------------------------


def _write_and_exit(store: CheckpointStore, dump: Dump, report: int, aggregator: int, nicer: bool) -> NoReturn:
    """Never returns: no code of the aggregator may run in the child."""
    try:
        kill_on_parent_exit(aggregator)
        # The wake-up descriptor's number may soon be the checkpoint file's, and signals must not write into it.
        signal.set_wakeup_fd(-1)
        _keep_only(report)
        _die_first_of_all()
        if nicer:
            _be_nicer()
        os.write(report, _written(store, dump))
    finally:
        # os._exit skips the inherited exit handlers, the loop and `finally` blocks. The report has the result, not the
        # exit code.
        os._exit(0)


def _keep_only(descriptor: int) -> None:
    """Close all other descriptors: peers that wait for a connection's end must not wait for this process."""
    os.closerange(STANDARD_ERROR + 1, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))


def _die_first_of_all() -> None:
    """When memory runs out, the kernel should kill this process: that costs only a checkpoint."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _be_nicer() -> None:
    with suppress(OSError):
        os.nice(NICER_BY)


def _written(store: CheckpointStore, dump: Dump) -> bytes:
    try:
        return json.dumps({"bytes": store.write(dump())}).encode()
    except OSError as failure:
        return json.dumps({"errno": failure.errno, "error": failure.strerror or str(failure)}).encode()
    except Exception as failure:
        return json.dumps({"error": f"{type(failure).__name__}: {failure}"[:1000]}).encode()
