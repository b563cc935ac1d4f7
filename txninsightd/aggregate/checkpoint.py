"""When the state is written to disk, and how the loop goes on meanwhile.

A checkpoint is the ledger between two messages. The aggregator forks; the child, to which the state stands still, turns
it into bytes and writes them (store.py), reports through a pipe and exits. So the loop stands still for the fork alone:
some milliseconds a gigabyte (docs/decisions/checkpoint.md). The child holds nothing of its parent's: it closes every
descriptor but its own, and is killed when the aggregator dies.

One writer runs at a time, each begun `every_s` after the one before. Who needs to know that something is durable
(`request`) is told when a checkpoint that was begun after the question is on disk, or that it could not be written.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

import structlog

from txninsightd.aggregate.store import CheckpointStore
from txninsightd.parent_death import kill_on_parent_exit
from txninsightd.vocabulary import CheckpointHealth

LONGEST_WRITE_S = 300.0
REPORT_BYTES = 4096
STANDARD_ERROR = 2
RETRY_S = 1.0

Dump = Callable[[], Iterator[bytes]]
"""The state of this moment, in chunks."""

Then = Callable[[OSError | None], None]
"""Told when a checkpoint is durable (None), or why it is not."""

log = structlog.get_logger()


class Loop(Protocol):
    """The part of an asyncio event loop that is needed here."""

    def add_reader(self, fd: int, callback: Callable[..., object], *args: object) -> None:
        """Call back whenever the descriptor has something to read."""

    def remove_reader(self, fd: int) -> bool:
        """Call back no more."""


class Writer(NamedTuple):
    """A child that writes. `waiting`: who is told when it is done; `answer`: what it has reported so far."""

    pid: int
    report: int
    begun_at: float
    waiting: list[Then]
    answer: bytearray


class Checkpoints:
    """Writes what `dump` gives every `every_s` seconds, and when asked.

    `fallbacks`: how many checkpoints were passed over at the start. `on_begin` is called when one is begun, and what it
    gives is told of the end.
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

    def write_every(self, every_s: float) -> None:
        """From now on as often as this."""
        self._every_s = every_s
        self.health = self.health._replace(every_s=every_s)
        # Never later than it was due by the former interval.
        self._next_at = min(self._next_at, self._now() + every_s)

    def request(self, then: Then | None = None) -> None:
        """Write one as soon as may be, and tell `then` what came of it."""
        if then is not None:
            self._waiting.append(then)
        self._next_at = min(self._next_at, self._now())
        self.tick()

    def tick(self) -> None:
        """Begin one if it is due. Only between two messages."""
        now = self._now()
        if self._writer is None:
            if now >= self._next_at:
                self._begin(now)
        # It hangs. Killed, it leaves its pipe, and `_reported` counts the failure.
        elif now - self._writer.begun_at > LONGEST_WRITE_S:
            os.kill(self._writer.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the writer that runs, if any, and write the last checkpoint here, for all who wait. Failure is logged."""
        waiting = self._take_waiting()
        if self._writer is not None:
            # What they wait for is in the last one as well. The pid is still the writer's: only `_reap` waits for it.
            waiting += self._writer.waiting
            os.kill(self._writer.pid, signal.SIGKILL)
            self._reap(self._writer)
        now = self._now()
        try:
            size_bytes = self._store.write(self._dump())
        except OSError as failure:
            self._failed(failure, waiting)
        else:
            self._succeeded(now, size_bytes, waiting)

    # --- One checkpoint -----------------------------------------------------------------------------------------------

    def _take_waiting(self) -> list[Then]:
        """Who is to be told of the checkpoint that is begun now."""
        waiting, self._waiting = self._waiting, []
        # It looks at the ledger, so nothing may be applied between this and the fork (or the dump).
        follower = self.on_begin()
        return waiting if follower is None else [*waiting, follower]

    def _begin(self, now: float) -> None:
        # First of all, so that a fork that fails is not tried again at each tick.
        self._next_at = now + self._every_s
        waiting = self._take_waiting()
        report, theirs = os.pipe()
        aggregator = os.getpid()
        try:
            pid = os.fork()
        except OSError as failure:
            os.close(report)
            os.close(theirs)
            self._failed(failure, waiting)
            return
        if pid == 0:
            _write_and_exit(self._store, self._dump, theirs, aggregator)
        # Else the pipe would not end with the writer.
        os.close(theirs)
        self._writer = Writer(pid, report, now, waiting, bytearray())
        self._loop.add_reader(report, self._reported, self._writer)

    def _reported(self, writer: Writer) -> None:
        """The pipe ends once the writer's memory is freed, which takes a while; only then is it waited for."""
        more = os.read(writer.report, REPORT_BYTES)
        if more:
            writer.answer.extend(more)
            return
        try:
            # Who was killed has said nothing, or half of it.
            answer = json.loads(writer.answer or b"{}")
        except ValueError:
            answer = {}
        self._reap(writer)
        if "bytes" in answer:
            self._succeeded(writer.begun_at, answer["bytes"], writer.waiting)
        else:
            text = answer.get("error", "the process that wrote it was killed")
            self._failed(OSError(answer.get("errno", 0), text), writer.waiting)
        # They asked while this one was written, and may miss in it what they want on disk: the next one comes at once,
        # after a failure a little later.
        if self._waiting:
            self._next_at = self._now() + (0.0 if "bytes" in answer else RETRY_S)
        self.tick()

    def _reap(self, writer: Writer) -> None:
        # Before it is closed, for then its number may be another's.
        self._loop.remove_reader(writer.report)
        os.close(writer.report)
        os.waitpid(writer.pid, 0)
        self._writer = None

    def _succeeded(self, begun_at: float, size_bytes: int, waiting: list[Then]) -> None:
        now = self._now()
        # As old as the state in it, not as the file.
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
        # Counted each time, said once for each reason.
        if problem != self.problem:
            log.error("checkpoint_failed", error=problem, advice="see to state.directory: room, rights, a sound disk")
        self.problem = problem
        for then in waiting:
            then(failure)


# --- The child --------------------------------------------------------------------------------------------------------


def _write_and_exit(store: CheckpointStore, dump: Dump, report: int, aggregator: int) -> NoReturn:
    """Never returns: nothing of the aggregator's may run twice."""
    try:
        kill_on_parent_exit(aggregator)
        # Its number may be that of the checkpoint's file soon, into which no signal may write.
        signal.set_wakeup_fd(-1)
        _keep_only(report)
        _die_first_of_all()
        os.write(report, _written(store, dump))
    finally:
        # Not sys.exit: the exit handlers, the loop and the `finally` blocks that were forked along are the
        # aggregator's. The code says nothing: the report does.
        os._exit(0)


def _keep_only(descriptor: int) -> None:
    """Close the lines, the sockets, the control line: whoever waits for their end must not wait for this process."""
    os.closerange(STANDARD_ERROR + 1, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))


def _die_first_of_all() -> None:
    """Where memory runs out, this process is the one to lose: it costs a checkpoint, and nothing else."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _written(store: CheckpointStore, dump: Dump) -> bytes:
    try:
        return json.dumps({"bytes": store.write(dump())}).encode()
    except OSError as failure:
        return json.dumps({"errno": failure.errno, "error": failure.strerror or str(failure)}).encode()
    except Exception as failure:
        return json.dumps({"error": f"{type(failure).__name__}: {failure}"[:1000]}).encode()
